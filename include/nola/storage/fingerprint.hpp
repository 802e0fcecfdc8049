// A 128-bit fingerprint of bytes: the same on every machine, to find what was changed by mistake.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "nola/random/philox.hpp"
#include "nola/storage/number_type.hpp"

namespace nola {

namespace detail {

/// Words as lower-case hexadecimal digits, eight each.
inline std::string HexText(const PhiloxCounter& words) {
  std::string text;
  for (const std::uint32_t word : words) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15U];
  }
  return text;
}

}  // namespace detail

/// Hashes a sequence of bytes, given in pieces of any size. One changed word always changes it, and any other
/// mistake but for a chance of 2^-64 or less; it is no defence against an attacker. Reads several bytes a
/// cycle and allocates nothing until it is printed.
/// @see io/specification.md, "Fingerprints".
class Fingerprint {
 public:
  void Add(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    if (pendingSize_ > 0) {
      const std::size_t taken = std::min(kBlock - pendingSize_, bytes.size());
      std::copy_n(bytes.data(), taken, pending_.data() + pendingSize_);
      pendingSize_ += taken;
      bytes = bytes.subspan(taken);
      if (pendingSize_ < kBlock) return;
      Mix(lanes_, pending_.data(), 1);
    }
    const std::size_t blocks = bytes.size() / kBlock;
    Mix(lanes_, bytes.data(), blocks);
    const auto rest = bytes.subspan(blocks * kBlock);
    std::copy(rest.begin(), rest.end(), pending_.begin());
    pendingSize_ = rest.size();
  }

  /// Adds an integer as eight bytes.
  void AddInteger(std::uint64_t integer) {
    std::array<std::byte, 8> bytes;
    detail::StoreLittleEndian(integer, bytes.data());
    Add(bytes);
  }

  /// Adds a text: its length, then its bytes.
  void AddText(std::string_view text) {
    AddInteger(text.size());
    Add(std::as_bytes(std::span<const char>(text.data(), text.size())));
  }

  /// Adds numbers as little-endian float32; a double is rounded to nearest first.
  template <std::floating_point T>
  void AddNumbers(std::span<const T> numbers) {
    if constexpr (std::same_as<T, float> && std::endian::native == std::endian::little) {
      Add(std::as_bytes(numbers));
    } else {
      std::array<std::byte, 4096> bytes;
      constexpr std::size_t kMost = bytes.size() / sizeof(float);
      while (!numbers.empty()) {
        const auto piece = numbers.first(std::min(kMost, numbers.size()));
        EncodeNumbers<T>(NumberType::f32, piece, bytes);
        Add(std::span(bytes).first(piece.size() * sizeof(float)));
        numbers = numbers.subspan(piece.size());
      }
    }
  }

  /// The fingerprint of what was added so far, as four words.
  PhiloxCounter Words() const {
    std::array<std::uint64_t, 4> lanes = lanes_;
    if (pendingSize_ > 0) {
      std::array<std::byte, kBlock> last{};
      std::copy_n(pending_.begin(), pendingSize_, last.begin());
      Mix(lanes, last.data(), 1);
    }
    const PhiloxKey key{Low(length_), High(length_)};
    PhiloxCounter words = Philox4x32({Low(lanes[0]), High(lanes[0]), Low(lanes[1]), High(lanes[1])}, key);
    words[0] ^= Low(lanes[2]);
    words[1] ^= High(lanes[2]);
    words[2] ^= Low(lanes[3]);
    words[3] ^= High(lanes[3]);
    return Philox4x32(words, key);
  }

  /// The words as lower-case hexadecimal digits, 32 or the first `digits` of them.
  std::string Text(std::size_t digits = 32) const { return detail::HexText(Words()).substr(0, digits); }

 private:
  static constexpr std::size_t kBlock = 32;

  static std::uint32_t Low(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
  static std::uint32_t High(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

  /// A bijection of the lane for every word, so that no single word can undo a difference once made.
  static std::uint64_t Step(std::uint64_t lane, const std::byte* word) {
    constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15U;  // 2^64 over the golden ratio, odd
    lane = (lane ^ detail::LoadLittleEndian<std::uint64_t>(word)) * kMultiplier;
    return (lane ^ (lane >> 29)) * kMultiplier;
  }

  static void Mix(std::array<std::uint64_t, 4>& lanes, const std::byte* bytes, std::size_t blocks) {
    auto [lane0, lane1, lane2, lane3] = lanes;  // in registers: four chains that run side by side
    for (; blocks > 0; --blocks, bytes += kBlock) {
      lane0 = Step(lane0, bytes);
      lane1 = Step(lane1, bytes + 8);
      lane2 = Step(lane2, bytes + 16);
      lane3 = Step(lane3, bytes + 24);
    }
    lanes = {lane0, lane1, lane2, lane3};
  }

  std::array<std::uint64_t, 4> lanes_{1, 2, 3, 4};
  std::array<std::byte, kBlock> pending_{};
  std::size_t pendingSize_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace nola

// The number types of safetensors files, and their values read and written byte by byte.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "nola/core/error.hpp"
#include "nola/storage/half.hpp"

namespace nola {

/// Element types of the safetensors format. `unknown` is any that a later version may add.
enum class NumberType {
  boolean,
  u8,
  i8,
  f8E5M2,
  f8E4M3,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64,
  f4,
  f6E2M3,
  f6E3M2,
  f8E8M0,
  f8E4M3FNUZ,
  f8E5M2FNUZ,
  c64,
  unknown
};

namespace detail {

struct NumberTypeFacts {
  NumberType type;
  std::string_view name;
  std::size_t bits;
};

inline constexpr std::array<NumberTypeFacts, 23> kNumberTypes{{{NumberType::boolean, "BOOL", 8},
                                                               {NumberType::u8, "U8", 8},
                                                               {NumberType::i8, "I8", 8},
                                                               {NumberType::f8E5M2, "F8_E5M2", 8},
                                                               {NumberType::f8E4M3, "F8_E4M3", 8},
                                                               {NumberType::i16, "I16", 16},
                                                               {NumberType::u16, "U16", 16},
                                                               {NumberType::f16, "F16", 16},
                                                               {NumberType::bf16, "BF16", 16},
                                                               {NumberType::i32, "I32", 32},
                                                               {NumberType::u32, "U32", 32},
                                                               {NumberType::f32, "F32", 32},
                                                               {NumberType::f64, "F64", 64},
                                                               {NumberType::i64, "I64", 64},
                                                               {NumberType::u64, "U64", 64},
                                                               {NumberType::f4, "F4", 4},
                                                               {NumberType::f6E2M3, "F6_E2M3", 6},
                                                               {NumberType::f6E3M2, "F6_E3M2", 6},
                                                               {NumberType::f8E8M0, "F8_E8M0", 8},
                                                               {NumberType::f8E4M3FNUZ, "F8_E4M3FNUZ", 8},
                                                               {NumberType::f8E5M2FNUZ, "F8_E5M2FNUZ", 8},
                                                               {NumberType::c64, "C64", 64},
                                                               {NumberType::unknown, "unknown", 0}}};

/// The unsigned integer of a size in bytes.
template <std::size_t kSize>
using Bits =
    std::conditional_t<kSize == 1, std::uint8_t,
                       std::conditional_t<kSize == 2, std::uint16_t,
                                          std::conditional_t<kSize == 4, std::uint32_t, std::uint64_t>>>;

/// A number from its bytes, least significant first, on a machine of any byte order.
template <class Number>
Number LoadLittleEndian(const std::byte* bytes) {
  using Word = Bits<sizeof(Number)>;
  Word word = 0;
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(&word, bytes, sizeof word);
  } else {
    for (std::size_t i = 0; i < sizeof word; ++i) {
      word = static_cast<Word>(word | (std::to_integer<Word>(bytes[i]) << (8 * i)));
    }
  }
  return std::bit_cast<Number>(word);
}

template <class Number>
void StoreLittleEndian(Number number, std::byte* bytes) {
  const auto word = std::bit_cast<Bits<sizeof(Number)>>(number);
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(bytes, &word, sizeof word);
  } else {
    for (std::size_t i = 0; i < sizeof word; ++i) bytes[i] = static_cast<std::byte>(word >> (8 * i));
  }
}

}  // namespace detail

/// The name of a type in a file: "F32".
inline std::string_view NumberTypeName(NumberType type) {
  return detail::kNumberTypes[static_cast<std::size_t>(type)].name;
}

/// Bits of one element; 0 for a type that is not known.
inline std::size_t NumberTypeBits(NumberType type) {
  return detail::kNumberTypes[static_cast<std::size_t>(type)].bits;
}

/// Bytes of one element. @throws UnsupportedError for a type whose elements are no whole bytes, or unknown.
inline std::size_t NumberTypeSize(NumberType type) {
  const std::size_t bits = NumberTypeBits(type);
  if (bits == 0 || bits % 8 != 0) {
    Throw<UnsupportedError>({"an element of type ", NumberTypeName(type), " is no whole bytes"});
  }
  return bits / 8;
}

/// The type of a name; `unknown` for a name that is none.
inline NumberType NumberTypeFromName(std::string_view name) {
  for (const detail::NumberTypeFacts& facts : detail::kNumberTypes) {
    if (facts.name == name && facts.bits > 0) return facts.type;
  }
  return NumberType::unknown;
}

/// The type that holds a C++ number exactly: float is f32.
template <class Number>
requires std::integral<Number> || std::same_as<Number, float> || std::same_as<Number, double>
constexpr NumberType NumberTypeOf() {
  if constexpr (std::same_as<Number, float>) return NumberType::f32;
  if constexpr (std::same_as<Number, double>) return NumberType::f64;
  if constexpr (std::same_as<Number, bool>) return NumberType::boolean;
  constexpr bool isSigned = std::is_signed_v<Number>;
  if constexpr (sizeof(Number) == 1) return isSigned ? NumberType::i8 : NumberType::u8;
  if constexpr (sizeof(Number) == 2) return isSigned ? NumberType::i16 : NumberType::u16;
  if constexpr (sizeof(Number) == 4) return isSigned ? NumberType::i32 : NumberType::u32;
  return isSigned ? NumberType::i64 : NumberType::u64;
}

/// Whether DecodeNumbers turns values of this type into a float or a double.
inline bool IsReadableAsFloat(NumberType type) {
  return type == NumberType::f16 || type == NumberType::bf16 || type == NumberType::f32 ||
         type == NumberType::f64;
}

/// Reads consecutive numbers from a file's bytes. Floating-point numbers come from f64, f32, f16 and bf16,
/// rounded to nearest where the result is narrower; integers and bool from their own type alone.
/// @pre bytes holds at least numbers.size() elements of the type.
/// @throws UnsupportedError for another combination of types.
template <class Number>
void DecodeNumbers(NumberType type, std::span<const std::byte> bytes, std::span<Number> numbers) {
  const auto decode = [&]<class Stored, class Convert>(Stored, Convert convert) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = convert(detail::LoadLittleEndian<Stored>(bytes.data() + i * sizeof(Stored)));
    }
  };
  const auto cast = [](auto number) { return static_cast<Number>(number); };
  if constexpr (std::floating_point<Number>) {
    switch (type) {
      case NumberType::f64:
        return decode(double{}, cast);
      case NumberType::f32:
        return decode(float{}, cast);
      case NumberType::f16:
        return decode(std::uint16_t{}, [](std::uint16_t half) { return Number{DecodeFloat16(half)}; });
      case NumberType::bf16:
        return decode(std::uint16_t{}, [](std::uint16_t half) { return Number{DecodeBFloat16(half)}; });
      default:
        break;
    }
  } else if (type == NumberTypeOf<Number>()) {
    return decode(detail::Bits<sizeof(Number)>{}, cast);
  }
  Throw<UnsupportedError>({"numbers of type ", NumberTypeName(type), " cannot be read as a C++ type of ",
                           sizeof(Number), " bytes"});
}

/// Whether all numbers are finite once read as T; false for a type that does not
/// read as floating point. Allocates nothing.
template <std::floating_point T>
bool DecodesToFinite(NumberType type, std::span<const std::byte> bytes) {
  if (!IsReadableAsFloat(type)) return false;
  std::array<T, 1024> numbers;
  const std::size_t most = numbers.size() * NumberTypeSize(type);
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(most, bytes.size()))) {
    const auto piece = bytes.first(std::min(most, bytes.size()));
    const auto values = std::span(numbers).first(piece.size() / NumberTypeSize(type));
    DecodeNumbers<T>(type, piece, values);
    if (!std::all_of(values.begin(), values.end(), [](T value) { return std::isfinite(value); }))
      return false;
  }
  return true;
}

/// Writes consecutive numbers as a file holds them: the reverse of DecodeNumbers.
/// @pre bytes has room for numbers.size() elements of the type.
/// @throws UnsupportedError for another combination of types.
template <class Number>
void EncodeNumbers(NumberType type, std::span<const Number> numbers, std::span<std::byte> bytes) {
  const auto encode = [&](auto convert) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto stored = convert(numbers[i]);
      detail::StoreLittleEndian(stored, bytes.data() + i * sizeof stored);
    }
  };
  if constexpr (std::floating_point<Number>) {
    switch (type) {
      case NumberType::f64:
        return encode([](Number number) { return static_cast<double>(number); });
      case NumberType::f32:
        return encode([](Number number) { return static_cast<float>(number); });
      case NumberType::f16:
        return encode([](Number number) { return EncodeFloat16(static_cast<double>(number)); });
      case NumberType::bf16:
        return encode([](Number number) { return EncodeBFloat16(static_cast<double>(number)); });
      default:
        break;
    }
  } else if (type == NumberTypeOf<Number>()) {
    return encode([](Number number) { return static_cast<detail::Bits<sizeof(Number)>>(number); });
  }
  Throw<UnsupportedError>(
      {"a C++ number of ", sizeof(Number), " bytes cannot be written as ", NumberTypeName(type)});
}

/// Whether all numbers are finite and stay so when they are written as a floating-point type.
template <std::floating_point T>
bool EncodesToFinite(NumberType type, std::span<const T> numbers) {
  std::array<std::byte, 4096> bytes;
  const std::size_t most = bytes.size() / NumberTypeSize(type);
  for (; !numbers.empty(); numbers = numbers.subspan(std::min(most, numbers.size()))) {
    const auto piece = numbers.first(std::min(most, numbers.size()));
    EncodeNumbers<T>(type, piece, bytes);
    if (!DecodesToFinite<double>(type, std::span(bytes).first(piece.size() * NumberTypeSize(type))))
      return false;
  }
  return true;
}

}  // namespace nola

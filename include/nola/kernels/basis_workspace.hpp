// The memory and the instruction set that basis kernels work with, kept from call to call.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <new>

#include "nola/core/error.hpp"
#include "nola/kernels/instruction_set.hpp"

namespace nola {
namespace detail {

/// Uninitialised scratch memory on a cache line. Grows, never shrinks. A copy starts
/// empty: scratch has no value.
template <std::floating_point T>
class ScratchBuffer {
 public:
  ScratchBuffer() = default;
  ScratchBuffer(const ScratchBuffer&) noexcept {}
  ScratchBuffer(ScratchBuffer&&) noexcept = default;
  ScratchBuffer& operator=(const ScratchBuffer&) noexcept { return *this; }
  ScratchBuffer& operator=(ScratchBuffer&&) noexcept = default;

  /// Memory for `size` elements; what it held before is lost when it grows.
  T* Reserve(std::size_t size) {
    if (size > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_.reset(static_cast<T*>(::operator new(size * sizeof(T), kAlignment)));
      capacity_ = size;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const noexcept { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<T, Free> data_;
  std::size_t capacity_ = 0;
};

}  // namespace detail

/// Scratch memory of CombineBasis, ContractBasis and BuildFactor, and the instruction set that they run on.
/// One workspace serves factors of any shape, one call at a time; it grows to the largest number of bases it
/// has seen, about 2 to 4 numbers a basis, whatever the size of the factor, and allocates nothing after that.
/// Copying copies the instruction set alone.
template <std::floating_point T>
class BasisWorkspace {
 public:
  BasisWorkspace() : BasisWorkspace(DefaultInstructionSet()) {}

  /// @throws ConfigError if this machine cannot run the instruction set.
  explicit BasisWorkspace(InstructionSet instructions) : instructions_(instructions) {
    CheckSupported(instructions);
  }

  InstructionSet Instructions() const { return instructions_; }

  /// Numbers as long as the coefficients.
  T* ReserveCoefficients(std::size_t size) { return coefficients_.Reserve(size); }
  /// What a kernel derives from the coefficients: tables or a transform.
  T* ReserveScratch(std::size_t size) { return scratch_.Reserve(size); }

 private:
  InstructionSet instructions_;
  detail::ScratchBuffer<T> coefficients_;
  detail::ScratchBuffer<T> scratch_;
};

}  // namespace nola

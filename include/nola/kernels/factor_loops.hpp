// The loops over a whole factor, compiled once for the kernels of every instruction set.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "nola/core/tensor.hpp"
#include "nola/kernels/basis_workspace.hpp"
#include "nola/kernels/kernel_types.hpp"
#include "nola/kernels/parallel.hpp"
#include "nola/random/basis_generator.hpp"

namespace nola::detail {

/// Memory of a factor: rank vectors of `length` numbers, `stride` apart.
template <class T>
struct FactorView {
  T* data;
  Index length;
  Index rank;
  Index stride;

  bool Empty() const { return length == 0 || rank == 0; }
  double Size() const { return static_cast<double>(length) * static_cast<double>(rank); }
};

/// The inner loops of an instruction set. PortableKernels says what each of them does; a call through a
/// pointer is nothing beside the blocks that it works on.
template <class T>
struct BasisKernels {
  void (*fillTables)(const T* a, std::size_t numTables, T* table);
  void (*addSigns)(const WordColumn& source, std::uint32_t group, std::size_t numGroups, const T* tables,
                   std::uint32_t block, std::size_t numBlocks, T* out);
  void (*contractSigns)(const WordColumn& source, std::uint32_t group, std::size_t numGroups,
                        std::uint32_t block, std::size_t numBlocks, const T* gradient, T* products);
  void (*addEntries)(BasisDistribution distribution, const WordColumn& source, std::uint32_t basis,
                     std::size_t numBases, const T* coefficients, std::uint32_t block, std::size_t numBlocks,
                     T* out);
  void (*contractEntries)(BasisDistribution distribution, const WordColumn& source, std::uint32_t basis,
                          std::size_t numBases, std::uint32_t block, std::size_t numBlocks, const T* gradient,
                          T* products);
  void (*addOffset)(const WordColumn& source, T scale, std::uint32_t block, std::size_t numBlocks, T* out);
  void (*expandHadamard)(const WordColumn& source, std::size_t size, const T* z, std::uint32_t block,
                         std::size_t numBlocks, T* out);
  void (*foldHadamard)(const WordColumn& source, std::size_t size, const T* gradient, std::uint32_t block,
                       std::size_t numBlocks, T* z);
  void (*addNumbers)(const T* numbers, std::size_t count, T* out);
  void (*transform)(T* z, std::size_t size);
  void (*transformTop)(T* z, std::size_t size, std::size_t first, std::size_t last);
  std::size_t topRadix;
};

/// The kernels of a class that has them as static functions.
template <class T, class Kernels>
inline constexpr BasisKernels<T> kKernelsOf{
    Kernels::template FillTables<T>,      Kernels::template AddSigns<T>,
    Kernels::template ContractSigns<T>,   Kernels::template AddEntries<T>,
    Kernels::template ContractEntries<T>, Kernels::template AddOffset<T>,
    Kernels::template ExpandHadamard<T>,  Kernels::template FoldHadamard<T>,
    Kernels::template AddNumbers<T>,      Kernels::template Transform<T>,
    Kernels::template TransformTop<T>,    Kernels::kTopRadix};

/// Positions that one call of a kernel works on, but for hadamard's, whose sign words serve kTile.
inline constexpr Index kPiece = 512;

/// Calls run(column, data, block, positions) for each piece of each rank vector, in parallel.
/// @param size  positions of a piece, a multiple of a block; the last of a rank vector has fewer
template <class T, class Run>
void ForEachPiece(const FactorView<T>& factor, Index size, double nanoseconds, const Run& run) {
  const Index pieces = (factor.length + size - 1) / size;
  ParallelFor(factor.rank * pieces, nanoseconds, [&](Index i) {
    const Index c = i / pieces;
    const Index start = i % pieces * size;
    run(c, factor.data + c * factor.stride + start, static_cast<std::uint32_t>(start / Index{kBlock}),
        static_cast<std::size_t>(std::min(size, factor.length - start)));
  });
}

/// Calls run(block, numBlocks, data) for the whole blocks of a piece, then for the
/// rest through a padded copy.
template <class T, class Run>
void ForWholeBlocks(T* data, std::uint32_t block, std::size_t count, const Run& run) {
  const std::size_t whole = count / kBlock;
  if (whole > 0) run(block, whole, data);
  const std::size_t rest = count % kBlock;
  if (rest == 0) return;
  alignas(64) std::remove_const_t<T> padded[kBlock] = {};
  T* tail = data + whole * kBlock;
  std::copy_n(tail, rest, padded);
  run(block + static_cast<std::uint32_t>(whole), std::size_t{1}, static_cast<T*>(padded));
  if constexpr (!std::is_const_v<T>) std::copy_n(padded, rest, tail);
}

/// The C library's way, which suits the machine that the program runs on.
template <std::floating_point T>
void FillZero(T* data, std::size_t count) {
  std::memset(data, 0, count * sizeof(T));
}
template <class T>
void FillZero(const FactorView<T>& factor) {
  for (Index c = 0; c < factor.rank; ++c) {
    FillZero(factor.data + c * factor.stride, static_cast<std::size_t>(factor.length));
  }
}

/// Groups of sign bases whose tables fill about a third of a first-level cache.
template <class T>
inline constexpr std::size_t kGroupsPerPass = 16384 / (kTablesPerGroup * kTableSize * sizeof(T));

template <class T>
void CombineSigns(const BasisKernels<T>& kernels, const BasisGenerator& generator, Factor which,
                  const T* coefficients, std::size_t numBasis, const FactorView<T>& sum,
                  BasisWorkspace<T>& workspace) {
  constexpr std::size_t kPass = kGroupsPerPass<T> * kGroupBases;
  T* tables = workspace.ReserveScratch(kGroupsPerPass<T> * kTablesPerGroup * kTableSize);
  FillZero(sum);
  for (std::size_t first = 0; first < numBasis; first += kPass) {
    const std::size_t count = std::min(kPass, numBasis - first);
    const std::size_t whole = count / kGroupBases;
    const std::size_t groups = (count + kGroupBases - 1) / kGroupBases;
    kernels.fillTables(coefficients + first, whole * kTablesPerGroup, tables);
    if (whole < groups) {
      T padded[kGroupBases] = {};
      std::copy_n(coefficients + first + whole * kGroupBases, count - whole * kGroupBases, padded);
      kernels.fillTables(padded, kTablesPerGroup, tables + whole * kTablesPerGroup * kTableSize);
    }
    const double nanoseconds = sum.Size() * static_cast<double>(count) / 50;
    ForEachPiece(sum, kPiece, nanoseconds, [&](Index c, T* data, std::uint32_t block, std::size_t positions) {
      const WordColumn source(generator, which, c);
      ForWholeBlocks(data, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
        kernels.addSigns(source, static_cast<std::uint32_t>(first / kGroupBases), groups, tables, b,
                         numBlocks, out);
      });
    });
  }
}

/// Each thread has some of the bases and all of the factor: no sum depends on the number of threads.
template <class T, class Run>
void ForEachShare(const FactorView<const T>& gradient, Index count, double nanoseconds, const Run& run) {
  const Index shares = std::min<Index>(count, UsefulThreads(nanoseconds));
  ParallelFor(shares, nanoseconds, [&](Index share) {
    const Index first = count * share / shares;
    const Index last = count * (share + 1) / shares;
    for (Index c = 0; c < gradient.rank; ++c) {
      const T* column = gradient.data + c * gradient.stride;
      for (Index start = 0; start < gradient.length; start += Index{kTile}) {
        const auto positions = static_cast<std::size_t>(std::min(Index{kTile}, gradient.length - start));
        const auto block = static_cast<std::uint32_t>(start / Index{kBlock});
        ForWholeBlocks(column + start, block, positions,
                       [&](std::uint32_t b, std::size_t numBlocks, const T* values) {
                         run(c, first, last - first, b, numBlocks, values);
                       });
      }
    }
  });
}

template <class T>
void ContractSigns(const BasisKernels<T>& kernels, const BasisGenerator& generator, Factor which,
                   const FactorView<const T>& gradient, T* products, std::size_t numBasis,
                   BasisWorkspace<T>& workspace) {
  const std::size_t groups = (numBasis + kGroupBases - 1) / kGroupBases;
  T* padded = workspace.ReserveScratch(groups * kGroupBases);
  FillZero(padded, groups * kGroupBases);
  const double nanoseconds = gradient.Size() * static_cast<double>(numBasis) / 50;
  ForEachShare(
      gradient, static_cast<Index>(groups), nanoseconds,
      [&](Index c, Index group, Index count, std::uint32_t block, std::size_t numBlocks, const T* values) {
        kernels.contractSigns(WordColumn(generator, which, c), static_cast<std::uint32_t>(group),
                              static_cast<std::size_t>(count), block, numBlocks, values,
                              padded + group * Index{kGroupBases});
      });
  std::copy_n(padded, numBasis, products);
}

template <class T>
void CombineEntries(const BasisKernels<T>& kernels, const BasisGenerator& generator, Factor which,
                    const T* coefficients, std::size_t numBasis, const FactorView<T>& sum) {
  FillZero(sum);
  const double nanoseconds = sum.Size() * static_cast<double>(numBasis) / 4;
  ForEachPiece(sum, kPiece, nanoseconds, [&](Index c, T* data, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, which, c);
    ForWholeBlocks(data, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
      kernels.addEntries(generator.Distribution(), source, 0, numBasis, coefficients, b, numBlocks, out);
    });
  });
}

template <class T>
void ContractEntries(const BasisKernels<T>& kernels, const BasisGenerator& generator, Factor which,
                     const FactorView<const T>& gradient, T* products, std::size_t numBasis) {
  FillZero(products, numBasis);
  const double nanoseconds = gradient.Size() * static_cast<double>(numBasis) / 4;
  ForEachShare(
      gradient, static_cast<Index>(numBasis), nanoseconds,
      [&](Index c, Index basis, Index count, std::uint32_t block, std::size_t numBlocks, const T* values) {
        kernels.contractEntries(generator.Distribution(), WordColumn(generator, which, c),
                                static_cast<std::uint32_t>(basis), static_cast<std::size_t>(count), block,
                                numBlocks, values, products + basis);
      });
}

/// z's memory: one period, and as much again (a block at least) so that reading from any slot needs no wrap.
inline std::size_t PeriodicSize(std::size_t size) { return size + std::max(size, kBlock); }

template <class T>
void TransformAll(const BasisKernels<T>& kernels, T* z, std::size_t size) {
  const double nanoseconds = static_cast<double>(size) / 2;
  if (UsefulThreads(nanoseconds) == 1) return kernels.transform(z, size);
  const std::size_t part = size / kernels.topRadix;
  ParallelFor(static_cast<Index>(kernels.topRadix), nanoseconds,
              [&](Index i) { kernels.transform(z + static_cast<std::size_t>(i) * part, part); });
  constexpr std::size_t kColumns = 64;
  const std::size_t columns = part / kColumns;
  ParallelFor(Index{kColumns}, nanoseconds, [&](Index i) {
    const std::size_t first = static_cast<std::size_t>(i) * columns;
    kernels.transformTop(z, size, first, first + columns);
  });
}

template <class T>
void CombineHadamard(const BasisKernels<T>& kernels, const BasisGenerator& generator, Factor which,
                     const T* coefficients, std::size_t numBasis, const FactorView<T>& sum,
                     BasisWorkspace<T>& workspace) {
  const HadamardGeometry geometry(static_cast<Index>(numBasis));
  const std::size_t size = geometry.size;
  T* z = workspace.ReserveScratch(PeriodicSize(size));
  std::copy_n(coefficients, numBasis, z);
  FillZero(z + numBasis, size - numBasis);
  TransformAll(kernels, z, size);
  for (std::size_t j = size; j < PeriodicSize(size); j += size) {
    std::copy_n(z, std::min(size, PeriodicSize(size) - j), z + j);
  }
  ForEachPiece(sum, Index{kTile}, sum.Size() / 15,
               [&](Index c, T* data, std::uint32_t block, std::size_t positions) {
                 const WordColumn source(generator, which, c);
                 const T* first = z + geometry.Slot(static_cast<std::uint64_t>(c), 0);
                 ForWholeBlocks(data, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
                   kernels.expandHadamard(source, size, first, b, numBlocks, out);
                 });
               });
}

/// The rank vectors are folded in turn: they share the slots, and folding runs at the speed of memory.
template <class T>
void ContractHadamard(const BasisKernels<T>& kernels, const BasisGenerator& generator, Factor which,
                      const FactorView<const T>& gradient, T* products, std::size_t numBasis,
                      BasisWorkspace<T>& workspace) {
  const HadamardGeometry geometry(static_cast<Index>(numBasis));
  const std::size_t size = geometry.size;
  T* z = workspace.ReserveScratch(PeriodicSize(size));
  FillZero(z, PeriodicSize(size));
  ForEachPiece(
      gradient, Index{kTile}, 0, [&](Index c, const T* data, std::uint32_t block, std::size_t positions) {
        const WordColumn source(generator, which, c);
        T* first = z + geometry.Slot(static_cast<std::uint64_t>(c), 0);
        ForWholeBlocks(data, block, positions, [&](std::uint32_t b, std::size_t numBlocks, const T* values) {
          kernels.foldHadamard(source, size, values, b, numBlocks, first);
        });
      });
  if (size < kBlock) {
    for (std::size_t j = size; j < PeriodicSize(size); ++j) z[j & (size - 1)] += z[j];
  } else {
    kernels.addNumbers(z + size, size, z);
  }
  TransformAll(kernels, z, size);
  std::copy_n(z, numBasis, products);
}

/// sum = A0 + sum.
template <class T>
void AddOffset(const BasisKernels<T>& kernels, const BasisGenerator& generator, const FactorView<T>& sum) {
  const T scale = BasisGenerator::OffsetScale<T>(sum.length);
  ForEachPiece(sum, kPiece, sum.Size() / 4,
               [&](Index c, T* data, std::uint32_t block, std::size_t positions) {
                 const WordColumn source(generator, Factor::offsetA, c);
                 ForWholeBlocks(data, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
                   kernels.addOffset(source, scale, b, numBlocks, out);
                 });
               });
}

}  // namespace nola::detail

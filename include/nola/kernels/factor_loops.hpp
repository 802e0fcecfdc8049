// The loops over a whole factor, written once for the kernels of every instruction set.
#pragma once

#include <algorithm>
#include <cstring>

#include "nola/kernels/basis_workspace.hpp"
#include "nola/kernels/portable_kernels.hpp"

namespace nola::detail {

/// Memory of a factor: rank vectors of `length` numbers, `stride` apart.
template <class T>
struct FactorView {
  T* data;
  Index length;
  Index rank;
  Index stride;

  bool Empty() const { return length == 0 || rank == 0; }
};

/// Calls run(column, tile, positions) for every tile of every rank vector.
template <class T, class Run>
void ForEachTile(const FactorView<T>& factor, Run run) {
  const auto length = static_cast<std::size_t>(factor.length);
  for (Index c = 0; c < factor.rank; ++c) {
    T* column = factor.data + c * factor.stride;
    for (std::size_t start = 0; start < length; start += kTile) {
      run(c, column + start, static_cast<std::uint32_t>(start / kBlock), std::min(kTile, length - start));
    }
  }
}

/// Calls run(block, numBlocks, data) for the whole blocks of a tile, then for the rest through a padded copy.
template <class T, class Run>
void ForWholeBlocks(T* tile, std::uint32_t block, std::size_t count, Run run) {
  using Value = std::remove_const_t<T>;
  const std::size_t whole = count / kBlock;
  if (whole > 0) run(block, whole, tile);
  const std::size_t rest = count % kBlock;
  if (rest == 0) return;
  alignas(64) Value padded[kBlock] = {};
  T* tail = tile + whole * kBlock;
  std::copy_n(tail, rest, padded);
  run(block + static_cast<std::uint32_t>(whole), std::size_t{1}, static_cast<T*>(padded));
  if constexpr (!std::is_const_v<T>) std::copy_n(padded, rest, tail);
}

/// Groups whose tables fill about a third of a first-level cache.
template <class T>
inline constexpr std::size_t kGroupsPerPass = 16384 / (kTablesPerGroup * kTableSize * sizeof(T)) +
                                              (sizeof(T) > 8);

template <class Kernels, class T>
void CombineSigns(const BasisGenerator& generator, Factor which, const T* coefficients, std::size_t numBasis,
                  const FactorView<T>& sum, BasisWorkspace<T>& workspace) {
  constexpr std::size_t kPass = kGroupsPerPass<T> * 32;
  T* tables = workspace.ReserveScratch(kPass / 4 * kTableSize);
  for (std::size_t first = 0; first < numBasis; first += kPass) {
    const std::size_t count = std::min(kPass, numBasis - first);
    const std::size_t groups = (count + 31) / 32;
    for (std::size_t i = 0; i < groups * 32; i += 4) {
      T four[4] = {};
      if (i < count) std::copy_n(coefficients + first + i, std::min<std::size_t>(4, count - i), four);
      FillSignTable(four, tables + i / 4 * kTableSize);
    }
    ForEachTile(sum, [&](Index c, T* tile, std::uint32_t block, std::size_t positions) {
      const WordColumn source(generator, which, c);
      ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
        Kernels::AddSigns(source, static_cast<std::uint32_t>(first / 32), groups, tables, b, numBlocks, out);
      });
    });
  }
}

template <class Kernels, class T>
void ContractSigns(const BasisGenerator& generator, Factor which, const FactorView<const T>& gradient,
                   T* products, std::size_t numBasis, BasisWorkspace<T>& workspace) {
  const std::size_t groups = (numBasis + 31) / 32;
  T* padded = workspace.ReserveScratch(groups * 32);
  std::fill_n(padded, groups * 32, T(0));
  ForEachTile(gradient, [&](Index c, const T* tile, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, which, c);
    ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, const T* values) {
      Kernels::ContractSigns(source, 0, groups, b, numBlocks, values, padded);
    });
  });
  std::copy_n(padded, numBasis, products);
}

template <class Kernels, BasisDistribution distribution, class T>
void CombineEntries(const BasisGenerator& generator, Factor which, const T* coefficients,
                    std::size_t numBasis, const FactorView<T>& sum) {
  ForEachTile(sum, [&](Index c, T* tile, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, which, c);
    ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
      Kernels::template AddEntries<distribution>(source, 0, numBasis, coefficients, b, numBlocks, out);
    });
  });
}

template <class Kernels, BasisDistribution distribution, class T>
void ContractEntries(const BasisGenerator& generator, Factor which, const FactorView<const T>& gradient,
                     T* products, std::size_t numBasis) {
  std::fill_n(products, numBasis, T(0));
  ForEachTile(gradient, [&](Index c, const T* tile, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, which, c);
    ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, const T* values) {
      Kernels::template ContractEntries<distribution>(source, 0, numBasis, b, numBlocks, values, products);
    });
  });
}

/// z's memory: one period, and as much again (a block at least) so that reading from any slot needs no wrap.
inline std::size_t PeriodicSize(std::size_t size) { return size + std::max(size, kBlock); }

template <class Kernels, class T>
void CombineHadamard(const BasisGenerator& generator, Factor which, const T* coefficients,
                     std::size_t numBasis, const FactorView<T>& sum, BasisWorkspace<T>& workspace) {
  const HadamardGeometry geometry(static_cast<Index>(numBasis));
  const std::size_t size = geometry.size;
  T* z = workspace.ReserveScratch(PeriodicSize(size));
  std::copy_n(coefficients, numBasis, z);
  std::fill(z + numBasis, z + size, T(0));
  Kernels::Transform(z, size);
  for (std::size_t j = size; j < PeriodicSize(size); j += size) {
    std::copy_n(z, std::min(size, PeriodicSize(size) - j), z + j);
  }
  ForEachTile(sum, [&](Index c, T* tile, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, which, c);
    const T* first = z + geometry.Slot(static_cast<std::uint64_t>(c), 0);
    ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
      Kernels::ExpandHadamard(source, size, first, b, numBlocks, out);
    });
  });
}

template <class Kernels, class T>
void ContractHadamard(const BasisGenerator& generator, Factor which, const FactorView<const T>& gradient,
                      T* products, std::size_t numBasis, BasisWorkspace<T>& workspace) {
  const HadamardGeometry geometry(static_cast<Index>(numBasis));
  const std::size_t size = geometry.size;
  T* z = workspace.ReserveScratch(PeriodicSize(size));
  std::fill_n(z, PeriodicSize(size), T(0));
  ForEachTile(gradient, [&](Index c, const T* tile, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, which, c);
    T* first = z + geometry.Slot(static_cast<std::uint64_t>(c), 0);
    ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, const T* values) {
      Kernels::FoldHadamard(source, size, values, b, numBlocks, first);
    });
  });
  for (std::size_t j = size; j < PeriodicSize(size); ++j) z[j & (size - 1)] += z[j];
  Kernels::Transform(z, size);
  std::copy_n(z, numBasis, products);
}

template <class Kernels, class T>
void AddOffset(const BasisGenerator& generator, const FactorView<T>& sum) {
  const T scale = BasisGenerator::OffsetScale<T>(sum.length);
  ForEachTile(sum, [&](Index c, T* tile, std::uint32_t block, std::size_t positions) {
    const WordColumn source(generator, Factor::offsetA, c);
    ForWholeBlocks(tile, block, positions, [&](std::uint32_t b, std::size_t numBlocks, T* out) {
      Kernels::AddOffset(source, scale, b, numBlocks, out);
    });
  });
}

}  // namespace nola::detail

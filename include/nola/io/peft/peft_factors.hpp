// The factors of a module in a PEFT file, and what each layer that the module stands for gets of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "nola/io/peft/peft_fusion.hpp"
#include "nola/io/safetensors/safetensors.hpp"

namespace nola::detail {

/// A [rank x in] and B [out x rank] as they stand in the file.
struct PEFTTensors {
  const SafetensorsTensor* a = nullptr;
  const SafetensorsTensor* b = nullptr;
  std::string nameA;
  std::string nameB;
};

/// The same as matrices.
template <std::floating_point T>
struct PEFTFactors {
  Tensor<T> a;
  Tensor<T> b;
  double scaling = 1;
};

/// Why two tensors are no factors of this rank, or nothing.
inline std::string WhyNoFactors(const PEFTTensors& tensors, double rank) {
  if (tensors.a == nullptr || tensors.b == nullptr) return "only one of its factors is there";
  const std::vector<Index>& a = tensors.a->shape;
  const std::vector<Index>& b = tensors.b->shape;
  if (a.size() != 2 || b.size() != 2) return "its factors are no matrices";
  if (a[0] != b[1]) return Message({"A and B do not go together: ranks ", a[0], " and ", b[1]});
  if (static_cast<double>(a[0]) != rank) return Message({"rank ", a[0], ", in the configuration ", rank});
  return {};
}

/// Keeps some of the rank vectors.
template <std::floating_point T>
void KeepRanks(PEFTFactors<T>& factors, const std::vector<bool>& isKept) {
  Index kept = 0;
  for (Index rank = 0; rank < factors.a.rows(); ++rank) {
    if (!isKept[static_cast<std::size_t>(rank)]) continue;
    if (kept != rank) {
      factors.a.row(kept) = factors.a.row(rank).eval();
      factors.b.col(kept) = factors.b.col(rank).eval();
    }
    ++kept;
  }
  factors.a.conservativeResize(kept, Eigen::NoChange);
  factors.b.conservativeResize(Eigen::NoChange, kept);
}

/// The factors of each part, all of the file's rank vectors but those that are of no use to it: where B is
/// zero in its rows and not in another part's (ExportPEFT writes fused adapters as blocks) or where both
/// factors are zero, as ExportPEFT fills up narrow ones. A part may be left with none.
/// @throws FileError for NaN, infinity and types that are no floats.
template <std::floating_point T>
std::vector<PEFTFactors<T>> CutFactors(const SafetensorsFile& file, const std::string& module,
                                       const PEFTTensors& tensors, const std::vector<PEFTPart<T>>& parts) {
  for (const SafetensorsTensor* tensor : {tensors.a, tensors.b}) {
    if (!DecodesToFinite<T>(tensor->type, tensor->bytes)) {
      file.Fail(Quoted(module) + " holds NaN, infinity or numbers of an unusable type");
    }
  }
  const PEFTFactors<T> all{file.ReadMatrix<T>(tensors.nameA), file.ReadMatrix<T>(tensors.nameB)};
  const auto size = static_cast<std::size_t>(all.a.rows());
  std::vector<PEFTFactors<T>> cut;
  bool isAnyLeft = false;
  for (const PEFTPart<T>& part : parts) {
    PEFTFactors<T>& own = cut.emplace_back(all);
    own.b = all.b.middleRows(part.begin, part.size);
    const bool isTooWide = all.a.rows() > std::min(part.layer->InputSize(), part.size);
    if (parts.size() == 1 && !isTooWide) return cut;
    std::vector<bool> isKept(size);
    for (std::size_t i = 0; i < size; ++i) {
      const auto rank = static_cast<Index>(i);
      const bool isUntrained = all.b.col(rank).isZero(T(0)) && !all.a.row(rank).isZero(T(0));
      isKept[i] = isUntrained || !own.b.col(rank).isZero(T(0));
      isAnyLeft = isAnyLeft || isKept[i];
    }
    KeepRanks(own, isKept);
  }
  if (isAnyLeft || parts.size() == 1) return cut;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    cut[i] = {all.a, all.b.middleRows(parts[i].begin, parts[i].size)};
  }
  return cut;
}

/// Why factors make no adapter around a layer, or nothing. @param mayBeEmpty  for a part of a fused module
template <std::floating_point T>
std::string WhyNoAdapter(const PEFTFactors<T>& factors, const ILayer<T>& base, bool mayBeEmpty) {
  const Index rank = factors.a.rows();
  const Index most = std::min(base.InputSize(), base.OutputSize());
  if (rank == 0) return mayBeEmpty ? "" : "rank 0";
  if (rank > most) return Message({"rank ", rank, ", the layer takes at most ", most});
  const double alpha = factors.scaling * static_cast<double>(rank);
  if (!std::isfinite(static_cast<T>(alpha))) return Message({"alpha ", alpha, " is out of range"});
  return {};
}

}  // namespace nola::detail

// How many numbers the adapters of a network train together, and how they are spread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "nola/adapters/adapter_description.hpp"
#include "nola/adapters/weight_frame.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola {

struct AdapterConfig;

/// Which NOLA adapters of a network train one vector of coefficients (a pair: of A and of B) together.
enum class CoefficientSharing {
  none,     ///< each has its own
  byShape,  ///< those of one input and output size
  all
};

/// What one adapter has of a budget.
struct BudgetShare {
  Index rank = 0;
  Index numBasisA = 0;
  Index numBasisB = 0;
  FrameSetting frame = {};
  Index frameRank = 0;
};

namespace detail {

/// An adapter that a budget is spread over.
struct BudgetPlace {
  Index inputSize;
  Index outputSize;
};

/// What tells apart the vectors that are shared, in the names that the network lists them under.
inline std::string SharedName(CoefficientSharing sharing, Index inputSize, Index outputSize) {
  const bool byShape = sharing == CoefficientSharing::byShape;
  return byShape ? Message({"_", inputSize, "x", outputSize}) : "";
}

/// One share for each place. @throws ConfigError for too few numbers, and for a configuration that sets what
/// follows from its budget.
std::vector<BudgetShare> SpreadBudget(const AdapterConfig& config, const std::vector<BudgetPlace>& places);

}  // namespace detail

/// A number of trained numbers as a setting. Who has one brings along the rule, and with it what takes
/// frames, so that a program without compiles neither.
class Budget {
 public:
  Budget() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): the setting is written as the number that it is
  Budget(Index numbers) : numbers_(numbers), rule_(&detail::SpreadBudget) {}

  /// Whether there is one.
  explicit operator bool() const { return rule_ != nullptr; }

  Index Numbers() const { return numbers_; }

  /// What each adapter gets of the budget of a configuration. @pre there is one.
  std::vector<BudgetShare> Spread(const AdapterConfig& config,
                                  const std::vector<detail::BudgetPlace>& places) const {
    return rule_(config, places);
  }

 private:
  Index numbers_ = 0;
  decltype(&detail::SpreadBudget) rule_ = nullptr;
};

namespace detail {

// From the study of numbers (examples/basis_study). In networks of three layers a number goes furthest in a
// frame, without coefficients of A as long as there are few; white bases are ahead once there are many
// numbers, which can say what the first directions of the weight cannot, and in a transformer, whose twelve
// layers have few numbers each.
inline constexpr std::size_t kMostFramed = 8;  // adapters
inline constexpr Index kMostForBAlone = 96;    // numbers of an adapter
inline constexpr Index kMostInFrame = 384;
inline constexpr Index kBudgetRank = 32;
inline constexpr Index kBudgetFrameRank = 128;

/// What one of some adapters has that trains `numbers`.
inline BudgetShare ShareOf(const BudgetPlace& place, Index numbers, std::size_t adapters) {
  const Index most = std::min(place.inputSize, place.outputSize);
  BudgetShare share{.rank = std::min(kBudgetRank, most)};
  const bool hasFrame = adapters <= kMostFramed && numbers <= kMostInFrame;
  if (hasFrame) {
    share.frame = BasisFrame::weight;
    share.frameRank = std::min(kBudgetFrameRank, most);
  }
  if (!hasFrame || numbers > kMostForBAlone) {
    share.numBasisA = numbers / 2;
  }
  share.numBasisB = numbers - share.numBasisA;
  return share;
}

/// LoRA of the largest rank that all places can have.
inline std::vector<BudgetShare> SpreadOverLoRA(Index numbers, const std::vector<BudgetPlace>& places) {
  Index ofRankOne = 0;
  for (const BudgetPlace& place : places) ofRankOne += place.inputSize + place.outputSize;
  if (numbers < ofRankOne) {
    Throw<ConfigError>({"a budget of ", numbers, " numbers is too small for LoRA, which trains ", ofRankOne,
                        " with rank 1"});
  }
  std::vector<BudgetShare> shares;
  for (const BudgetPlace& place : places) {
    const Index most = std::min(place.inputSize, place.outputSize);
    shares.push_back({.rank = std::min(numbers / ofRankOne, most)});
  }
  return shares;
}

/// Which vector of coefficients each place trains.
inline std::vector<Index> SharedVectors(const std::vector<BudgetPlace>& places, CoefficientSharing sharing) {
  std::map<std::string, Index> ofName;
  std::vector<Index> vectors;
  for (const BudgetPlace& place : places) {
    if (sharing == CoefficientSharing::none) {
      vectors.push_back(static_cast<Index>(vectors.size()));
      continue;
    }
    const Index next = static_cast<Index>(ofName.size());
    const std::string name = SharedName(sharing, place.inputSize, place.outputSize);
    vectors.push_back(ofName.try_emplace(name, next).first->second);
  }
  return vectors;
}

/// NOLA adapters in proportion to the directions that their layers have, a frame's at most: a narrow layer,
/// as a head of ten classes is, has little to say with more. One number each at least.
inline std::vector<BudgetShare> SpreadByWidth(Index numbers, CoefficientSharing sharing,
                                              const std::vector<BudgetPlace>& places) {
  const std::vector<Index> vectors = SharedVectors(places, sharing);
  const Index count = *std::max_element(vectors.begin(), vectors.end()) + 1;
  if (numbers < count) {
    Throw<ConfigError>({"a budget of ", numbers, " numbers is not one for each of ", count,
                        sharing == CoefficientSharing::none ? " adapters" : " shared vectors"});
  }
  std::vector<double> widths(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < places.size(); ++i) {
    const Index width = std::min({places[i].inputSize, places[i].outputSize, kBudgetFrameRank});
    widths[static_cast<std::size_t>(vectors[i])] = static_cast<double>(width);
  }
  const double all = std::accumulate(widths.begin(), widths.end(), 0.0);
  std::vector<Index> shared;  // the numbers of each vector
  double before = 0;
  Index given = 0;
  for (const double width : widths) {
    before += width;
    const auto end = static_cast<Index>(std::floor(static_cast<double>(numbers - count) * (before / all)));
    shared.push_back(1 + end - given);
    given = end;
  }
  shared.back() += numbers - count - given;
  std::vector<BudgetShare> shares;
  for (std::size_t i = 0; i < places.size(); ++i) {
    shares.push_back(ShareOf(places[i], shared[static_cast<std::size_t>(vectors[i])], places.size()));
  }
  return shares;
}

}  // namespace detail

/// Where a search for the learning rate of AdamW best starts if so many NOLA adapters, about equally wide,
/// share this budget: what the study of numbers (examples/basis_study) found. @pre adapters > 0.
inline double LearningRateOfBudget(Index numbers, std::size_t adapters) {
  const Index most = 1 << 20;  // of a layer wide enough for any rank
  const BudgetShare share = detail::ShareOf({most, most}, numbers / static_cast<Index>(adapters), adapters);
  if (share.frame == BasisFrame::none) return 0.03;
  return share.numBasisA > 0 ? 0.06 : 0.13;
}

}  // namespace nola

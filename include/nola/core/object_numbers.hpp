// Objects numbered by where they lie, whatever their types: what a walk over a network has seen.
#pragma once

#include <cstddef>
#include <map>
#include <utility>

namespace nola::detail {

/// Objects numbered from 0 in the order in which they are added. One class for every type of object, so that
/// a program has its tree once.
class ObjectNumbers {
 public:
  /// The number of an object, and whether it was given now.
  std::pair<std::size_t, bool> Add(const void* object) {
    const auto [place, isNew] = numbers_.emplace(object, numbers_.size());
    return {place->second, isNew};
  }

  bool Contains(const void* object) const { return numbers_.contains(object); }

  /// The number of an object that was added. @throws std::out_of_range otherwise.
  std::size_t Of(const void* object) const { return numbers_.at(object); }

 private:
  std::map<const void*, std::size_t> numbers_;
};

}  // namespace nola::detail

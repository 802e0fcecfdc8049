// IJitCompilable: what can say what it computes, as a graph that others run.
#pragma once

#include "nola/graph/graph.hpp"
#include "nola/graph/graph_builder.hpp"

namespace nola {

template <std::floating_point T>
class ILayer;

/// Every layer is one, and nothing else can be. Both functions follow from the layers' Describe, so none is
/// virtual: a program that calls neither compiles neither.
template <std::floating_point T>
class IJitCompilable {
 public:
  /// Whether every layer below describes itself, so that ExportComputationGraph gives a graph. Makes no
  /// numbers.
  /// @throws ShapeError for a description that does not fit its layer.
  bool SupportsJitCompilation() const;
  /// What the network computes in inference, with its adapters as low-rank branches or merged.
  /// @throws UnsupportedError that names the layers that do not describe themselves, by path and type;
  /// ShapeError for a description that does not fit its layer.
  Graph<T> ExportComputationGraph(const GraphOptions& options = {}) const;

 private:
  friend class ILayer<T>;
  IJitCompilable() = default;
  IJitCompilable(const IJitCompilable&) = default;
  IJitCompilable& operator=(const IJitCompilable&) = delete;
  ~IJitCompilable() = default;
};

}  // namespace nola

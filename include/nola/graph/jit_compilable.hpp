// IJitCompilable: what can say what it computes, as a graph that others run.
#pragma once

#include "nola/graph/graph.hpp"
#include "nola/graph/graph_builder.hpp"

namespace nola {

/// Every layer is one. Both functions follow from the layers' Describe, so none is virtual: a program that
/// calls neither compiles neither.
template <std::floating_point T>
class IJitCompilable {
 public:
  /// Whether ExportComputationGraph gives a graph: every layer below describes itself. Makes no numbers.
  bool SupportsJitCompilation() const;
  /// What the network computes in inference, with its adapters as low-rank branches or merged.
  /// @throws UnsupportedError that names the layers that do not describe themselves, by path and type.
  Graph<T> ExportComputationGraph(const GraphOptions& options = {}) const;

 protected:
  IJitCompilable() = default;
  IJitCompilable(const IJitCompilable&) = default;
  IJitCompilable& operator=(const IJitCompilable&) = delete;
  ~IJitCompilable() = default;
};

}  // namespace nola

// IJitCompilable: what can say what it computes, as a graph that others run.
#pragma once

#include "nola/graph/graph.hpp"
#include "nola/graph/graph_builder.hpp"

namespace nola {

template <std::floating_point T>
class IJitCompilable {
 public:
  virtual ~IJitCompilable() = default;

  /// Whether ExportComputationGraph gives a graph: every layer below describes itself. Makes no numbers.
  virtual bool SupportsJitCompilation() const = 0;
  /// What the network computes in inference, with its adapters as low-rank branches or merged.
  /// @throws UnsupportedError that names the layers that do not describe themselves, by path and type.
  virtual Graph<T> ExportComputationGraph(const GraphOptions& options) const = 0;
  Graph<T> ExportComputationGraph() const { return ExportComputationGraph(GraphOptions()); }

 protected:
  IJitCompilable() = default;
  IJitCompilable(const IJitCompilable&) = default;
  IJitCompilable& operator=(const IJitCompilable&) = delete;
};

}  // namespace nola

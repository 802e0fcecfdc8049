// What a decoder has beside its blocks: the embedding of positions, and a head that shares a table.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/layers/contract/layer_base.hpp"
#include "nola/transformers/sequences.hpp"

namespace nola {

namespace detail {

/// The layer, which is a table. @throws ConfigError for one that is null or no table.
template <std::floating_point T>
const ILayer<T>& TableOf(const char* type, const std::shared_ptr<ILayer<T>>& layer) {
  if (!layer) Throw<ConfigError>({type, ": the table is null"});
  if (layer->AsTable() == nullptr) {
    Throw<ConfigError>(
        {type, ": the table is a ", layer->LayerType(), ", expected an Embedding or the like"});
  }
  return *layer;
}

}  // namespace detail

/// Gives each row the entry of a table for the row's position in its sequence; what is in the row does not
/// matter. [rows x 1] to [rows x table's size]; its child is `table`. The input gradient is zero.
template <std::floating_point T>
class PositionEmbedding final : public LayerBase<T> {
 public:
  /// @throws ConfigError for a table that is null or none.
  explicit PositionEmbedding(std::shared_ptr<ILayer<T>> table)
      : LayerBase<T>(1, detail::TableOf("PositionEmbedding", table).OutputSize()),
        limit_(table->AsTable()->Count()) {
    this->AddChild("table", std::move(table));
  }

  std::string LayerType() const override { return "PositionEmbedding"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new PositionEmbedding(*this)); }

 protected:
  /// @throws ShapeError for a position that the table does not have.
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    Fill(pass, input.rows(), positions_);
    Table().Forward(positions_, output, pass);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    Table().Backward(outputGradient, inputGradient);
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    const typename Pool::Lease positions(pool_);
    Fill(pass, input.rows(), *positions);
    Table().Infer(*positions, output, pass);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return Table().AddToGraph(graph, graph.SequencePositions(input));
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    positions_.resize(0, 0);
    pool_.Clear();
  }

 private:
  using Pool = detail::ScratchPool<Tensor<T>>;

  ILayer<T>& Table() const { return *this->Children()[0].layer; }

  void Fill(const Pass& pass, Index rows, Tensor<T>& positions) const {
    positions.resize(rows, 1);
    const bool planned = pass.rows != nullptr && !pass.rows->sequences.empty();
    detail::ForEachSequence("PositionEmbedding", pass, rows, [&](Index first, const SequenceRows& sequence) {
      if (sequence.rows > limit_ - sequence.position && sequence.rows > 0) {
        Throw<ShapeError>(
            {"PositionEmbedding: ", sequence.rows, " tokens from position ", sequence.position,
             " exceed the ", limit_, " positions",
             planned ? "" : "; a batch of several sequences needs a Pass with a RowPlan that says so"});
      }
      for (Index row = 0; row < sequence.rows; ++row) {
        positions(first + row, 0) = static_cast<T>(sequence.position + row);
      }
    });
  }

  Index limit_;
  detail::OfPass<T> positions_;
  mutable Pool pool_;
};

namespace detail {

/// The output layer logits = hidden W^T of an embedding's table, which the network lists in its place there:
/// this layer lists nothing, trains if the table does and adds to the table's gradient.
/// [rows x table's size] to [rows x table's count].
template <std::floating_point T>
class TiedHead final : public LayerBase<T>, public ILinearLayer<T> {
 public:
  /// @throws ConfigError for a table that is null or none.
  explicit TiedHead(std::shared_ptr<ILayer<T>> table)
      : LayerBase<T>(TableOf("TiedHead", table).OutputSize(), table->AsTable()->Count()),
        table_(std::move(table)) {}

  std::string LayerType() const override { return "TiedHead"; }
  bool SupportsTraining() const override { return table_->SupportsTraining(); }
  /// A head of the same table: it is the decoder that gives a copy the copy's table.
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new TiedHead(*this)); }

  const ILinearLayer<T>* AsLinear() const override { return this; }
  void AddProduct(const TensorRef<T>& input, Tensor<T>& output) const override {
    Tensor<T> logits;
    Table().ComputeLogits(input, logits);
    output += logits;
  }
  void AddInputGradient(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) const override {
    AddColumnsInputGradient(outputGradient, 0, inputGradient);
  }
  const T* BiasRow() const override { return nullptr; }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const override { Table().ReadColumns(first, rows); }
  /// The table lists it.
  StoredTensor Stored() const override { return {}; }
  bool HasColumns() const override { return true; }
  void ComputeColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const override {
    Table().ComputeLogits(input, first, output);
  }
  void AddColumnsInputGradient(const TensorRef<T>& outputGradient, Index first,
                               Eigen::Ref<Tensor<T>> inputGradient) const override {
    Table().AddLogitsInputGradient(outputGradient, first, inputGradient);
  }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    Table().ComputeLogits(input, output);
    trains_ = Includes(pass.wanted, Gradients::parameters) && SupportsTraining();
    if (trains_) input_ = input;
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (trains_) Table().AccumulateLogitsGradient(input_, outputGradient);
    if (!Includes(wanted, Gradients::input)) return;
    inputGradient.setZero();
    Table().AddLogitsInputGradient(outputGradient, 0, inputGradient);
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    Table().ComputeLogits(input, output);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return graph.MatMul(input, Table().DescribeTable(graph), true);
  }

  void ForgetForward() override { input_.resize(0, 0); }

 private:
  IEmbeddingTable<T>& Table() const { return *table_->AsTable(); }

  std::shared_ptr<ILayer<T>> table_;
  bool trains_ = false;  // in the last forward pass
  OfPass<T> input_;      // of it, if the table trains
};

NOLA_COMPILED_CLASS(transformers, TiedHead);

}  // namespace detail

NOLA_COMPILED_CLASS(transformers, PositionEmbedding);

}  // namespace nola

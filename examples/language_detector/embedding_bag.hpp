// EmbeddingBag: the rows of a table that a list of indices names, summed or averaged.
#pragma once

#include <memory>
#include <nola/nola.hpp>
#include <string>
#include <utility>

namespace language_detector {

/// Indices [n x length] to sums of table rows [n x width]: each input row lists indices as whole numbers, and
/// kPadding where it lists none. The rows are added in the order of the list, so that the rounding is that of
/// any other program that does the same. Parameters: `weight` [table rows x width] and, if there is one,
/// `bias` [1 x width], added last. An index has no derivative: the input gradient is zero.
template <std::floating_point T>
class EmbeddingBag final : public nola::LayerBase<T> {
 public:
  static constexpr T kPadding = T(-1);
  enum class Mode { sum, mean };

  /// @throws nola::ConfigError for a length below 1, an empty table, NaN or infinity, nola::ShapeError for a
  /// bias of another width.
  EmbeddingBag(nola::Index length, nola::Tensor<T> weight, Mode mode, nola::Tensor<T> bias = {})
      : nola::LayerBase<T>(length, weight.cols()), mode_(mode) {
    if (length < 1 || weight.size() == 0) {
      throw nola::ConfigError(nola::Message({"EmbeddingBag: lists of ", length, " indices into a table [",
                                             weight.rows(), " x ", weight.cols(), "]"}));
    }
    if (bias.size() > 0 && (bias.rows() != 1 || bias.cols() != weight.cols())) {
      throw nola::ShapeError(nola::Message({"EmbeddingBag: a bias [", bias.rows(), " x ", bias.cols(),
                                            "], expected [1 x ", weight.cols(), "]"}));
    }
    this->CheckFinite("weight", weight);
    this->CheckFinite("bias", bias);
    hasBias_ = bias.size() > 0;
    this->AddParameter("weight", std::move(weight));
    if (hasBias_) this->AddParameter("bias", std::move(bias));
  }

  std::string LayerType() const override { return "EmbeddingBag"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<EmbeddingBag>(*this); }

 protected:
  using Ref = nola::TensorRef<T>;
  using Matrix = nola::Tensor<T>;

  void ComputeForward(const Ref& input, Matrix& output, const nola::Pass& pass) override {
    ComputeInference(input, output, pass);
    if (nola::Includes(pass.wanted, nola::Gradients::parameters)) input_ = input;
  }

  void ComputeBackward(const Ref& outputGradient, Matrix& inputGradient, nola::Gradients wanted) override {
    if (nola::Includes(wanted, nola::Gradients::parameters) && this->IsTrainable(0)) {
      for (nola::Index row = 0; row < input_.rows(); ++row) {
        const T share = mode_ == Mode::mean ? T(1) / static_cast<T>(Count(input_.row(row))) : T(1);
        VisitIndices(input_.row(row), [&](nola::Index index) {
          this->Gradient(0).row(index) += share * outputGradient.row(row);
        });
      }
    }
    if (nola::Includes(wanted, nola::Gradients::parameters) && hasBias_) {
      this->AddRowsToGradient(1, outputGradient);
    }
    if (nola::Includes(wanted, nola::Gradients::input)) inputGradient.setZero();
  }

  void ComputeInference(const Ref& input, Matrix& output, const nola::Pass&) const override {
    output.setZero(input.rows(), this->OutputSize());
    for (nola::Index row = 0; row < input.rows(); ++row) {
      VisitIndices(input.row(row), [&](nola::Index index) { output.row(row) += this->Value(0).row(index); });
      const nola::Index count = mode_ == Mode::mean ? Count(input.row(row)) : 0;
      if (count > 0) output.row(row) /= static_cast<T>(count);
      if (hasBias_) output.row(row) += this->Value(1).row(0);
    }
  }

  nola::ValueId Describe(nola::GraphBuilder<T>& graph, nola::ValueId input) const override {
    const nola::ValueId sums = graph.GatherSum(input, graph.Parameter(this->Slot(0)), mode_ == Mode::mean);
    return hasBias_ ? graph.Add(sums, graph.Parameter(this->Slot(1))) : sums;
  }

  void ForgetForward() override { input_.resize(0, 0); }

 private:
  template <class Row>
  static nola::Index Count(const Row& row) {
    return (row.array() != kPadding).count();
  }

  template <class Row, class Visit>
  void VisitIndices(const Row& row, const Visit& visit) const {
    const nola::Index tableRows = this->Value(0).rows();
    for (nola::Index i = 0; i < row.size(); ++i) {
      if (row(i) == kPadding) continue;
      if (!(row(i) >= T(0) && row(i) < static_cast<T>(tableRows))) {
        throw nola::ShapeError(
            nola::Message({"EmbeddingBag: index ", row(i), " into a table of ", tableRows, " rows"}));
      }
      visit(static_cast<nola::Index>(row(i)));
    }
  }

  Mode mode_;
  bool hasBias_ = false;
  Matrix input_;  // of the last forward pass
};

}  // namespace language_detector

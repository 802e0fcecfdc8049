// The definitions of LoRAAdapterBase: its passes, its merge and what it says of itself.

namespace nola {

template <std::floating_point T>
Tensor<T> LoRAAdapterBase<T>::GetMatrixA() const {
  const TensorRef<T> byRows = TransposedFactor(FactorA());
  return byRows.transpose();
}

template <std::floating_point T>
Tensor<T> LoRAAdapterBase<T>::GetMatrixB() const {
  return TransposedFactor(FactorB());
}

template <std::floating_point T>
std::shared_ptr<DenseLayer<T>> LoRAAdapterBase<T>::MergeToOriginalLayer() const {
  if (LinearBase() == nullptr) {
    throw UnsupportedError(this->LayerType() + ": cannot merge into a " + BaseLayer()->LayerType() +
                           ", which has no dense weight; a DenseLayer has one");
  }
  Tensor<T> weight(this->InputSize(), this->OutputSize());
  ReadRows(0, weight);
  Tensor<T> bias;
  if (BiasRow() != nullptr) bias = Eigen::Map<const Tensor<T>>(BiasRow(), 1, this->OutputSize());
  return std::make_shared<DenseLayer<T>>(std::move(weight), std::move(bias));
}

template <std::floating_point T>
void LoRAAdapterBase<T>::ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const {
  LinearBase()->ReadRows(first, rows);
  const ConstFactor a = FactorA();
  FactorMatrix<T> scaledA(rows.rows(), rank_);
  T* to = scaledA.data();
  for (Index c = 0; c < rank_; ++c) {
    const T* const from = a.data() + c * a.rows() + first;
    to = std::transform(from, from + rows.rows(), to, [this](T number) { return Scaling() * number; });
  }
  detail::AddProduct(scaledA, detail::ViewTransposed(FactorB()), rows);
}

template <std::floating_point T>
LoRAAdapterBase<T>::LoRAAdapterBase(const char* type, std::shared_ptr<ILayer<T>> base, Index rank,
                                    double alpha, bool freezeBase)
    : LayerBase<T>(base ? base->InputSize() : 0, base ? base->OutputSize() : 0), rank_(rank) {
  if (!base) Throw<ConfigError>({type, ": the base layer is null"});
  const Index most = std::min(base->InputSize(), base->OutputSize());
  if (rank < 1) Throw<ConfigError>({type, ": rank ", rank, ", expected at least 1"});
  if (rank > most) {
    Throw<ConfigError>({type, ": rank ", rank, " exceeds min(input ", base->InputSize(), ", output ",
                        base->OutputSize(), ")"});
  }
  if (!std::isfinite(alpha) || !std::isfinite(static_cast<T>(alpha))) {
    Throw<ConfigError>({type, ": alpha ", alpha, " is not finite"});
  }
  alpha_ = alpha < 0 ? static_cast<T>(rank) : static_cast<T>(alpha);
  this->AddChild("base_layer", std::move(base), freezeBase);
}

template <std::floating_point T>
LoRAAdapterBase<T>::LoRAAdapterBase(const LoRAAdapterBase& other)
    : ILayer<T>(other),
      LayerBase<T>(other),
      ILoRAAdapter<T>(other),
      ILinearLayer<T>(other),
      rank_(other.rank_),
      alpha_(other.alpha_),
      input_(other.input_),
      projected_(other.projected_) {}

template <std::floating_point T>
void LoRAAdapterBase<T>::ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) {
  if (StatelessBase() == nullptr) BaseLayer()->Forward(input, output, pass.With(BaseGradients(pass.wanted)));
  AddUpdate(input, projected_, output);
  if (Includes(pass.wanted, Gradients::parameters)) input_.Keep(input, pass);
}

template <std::floating_point T>
void LoRAAdapterBase<T>::ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                                         Gradients wanted) {
  const bool inputWanted = Includes(wanted, Gradients::input);
  const ILinearLayer<T>* const statelessBase = StatelessBase();
  if (statelessBase == nullptr && BaseGradients(wanted) != Gradients::none) {
    BaseLayer()->Backward(outputGradient, inputGradient);
  }
  projectedGradient_.resize(outputGradient.rows(), rank_);
  detail::SetProduct(outputGradient, FactorB(), projectedGradient_);
  projectedGradient_ *= Scaling();
  if (Includes(wanted, Gradients::parameters)) {
    AccumulateFactorGradients(input_.Rows(), projectedGradient_, outputGradient, projected_);
  }
  if (!inputWanted) return;
  if (statelessBase == nullptr) {
    detail::AddProduct(projectedGradient_, detail::ViewTransposed(FactorA()), inputGradient);
  } else {
    detail::SetProduct(projectedGradient_, detail::ViewTransposed(FactorA()), inputGradient);
    statelessBase->AddInputGradient(outputGradient, inputGradient);
  }
}

template <std::floating_point T>
void LoRAAdapterBase<T>::ComputeInference(const TensorRef<T>& input, Tensor<T>& output,
                                          const Pass& pass) const {
  if (StatelessBase() == nullptr) BaseLayer()->Infer(input, output, pass);
  const typename Pool::Lease projected(pool_);
  AddUpdate(input, *projected, output);
}

template <std::floating_point T>
ValueId LoRAAdapterBase<T>::Describe(GraphBuilder<T>& graph, ValueId input) const {
  if (graph.Adapters() == GraphAdapters::merged && LinearBase() != nullptr) {
    return ILayer<T>::Describe(graph, input);
  }
  const ValueId base = BaseLayer()->AddToGraph(graph, input);
  const ValueId a = graph.Made(
      "factor_a", this->InputSize(), rank_,
      [this](Tensor<T>& numbers) { (numbers = GetMatrixA()) *= Scaling(); }, true);
  const ValueId b = graph.Made(
      "factor_b", rank_, this->OutputSize(), [this](Tensor<T>& numbers) { numbers = GetMatrixB(); }, true);
  return graph.Add(base, graph.MatMul(graph.MatMul(input, a), b));
}

template <std::floating_point T>
void LoRAAdapterBase<T>::ForgetForward() {
  LayerBase<T>::ForgetForward();
  input_.Forget();
  projected_.resize(0, 0);
  projectedGradient_.resize(0, 0);
  pool_.Clear();
}

template <std::floating_point T>
void LoRAAdapterBase<T>::AddDiagnostics(std::map<std::string, std::string>& facts) const {
  detail::SetFact(facts, "rank", rank_);
  detail::SetFact(facts, "alpha", Alpha());
  detail::SetFact(facts, "scaling", Scaling());
  detail::SetFact(facts, "base_layer_type", BaseLayer()->LayerType());
  detail::SetFact(facts, "base_layer_frozen", IsBaseLayerFrozen() ? "true" : "false");
  // ||A B||^2 is the sum over the elementwise product of the two Gram matrices: A B itself is never formed.
  Tensor<T> gramA(rank_, rank_);
  Tensor<T> gramB(rank_, rank_);
  detail::SetProduct(detail::ViewTransposed(FactorA()), FactorA(), gramA);
  detail::SetProduct(detail::ViewTransposed(FactorB()), FactorB(), gramB);
  const T norm = std::abs(Scaling()) *
                 std::sqrt(std::max(T(0), std::inner_product(gramA.data(), gramA.data() + gramA.size(),
                                                             gramB.data(), T(0))));
  detail::SetFact(facts, "update_norm", norm);
  if (LinearBase() == nullptr) return;
  T squares = T(0);
  detail::VisitRows(*LinearBase(), this->InputSize(), this->OutputSize(), [&](Index, const Tensor<T>& rows) {
    squares += detail::SquaredNorm<T>(rows.data(), rows.size());
  });
  detail::SetFact(facts, "update_relative_to_weight", norm / std::sqrt(squares));
}

template <std::floating_point T>
void LoRAAdapterBase<T>::AddUpdate(const TensorRef<T>& input, Tensor<T>& projected, Tensor<T>& output) const {
  const Index rows = input.rows();
  const Index in = input.cols();
  const Index out = this->OutputSize();
  const Index most = std::clamp<Index>((1 << 19) / Index{sizeof(T)} / std::max(in, out), 1, 256);
  const Index blocks = (rows + most - 1) / most;
  const double operations = static_cast<double>(rows * rank_) * static_cast<double>(in + out);
  const ILinearLayer<T>* const statelessBase = StatelessBase();
  projected.resize(rows, rank_);
  if (statelessBase != nullptr) output.resize(rows, out);
  // As wholes that are cut into rows: of blocks of Eigen's each would be a type of its own to compile.
  using Product = detail::MatrixProduct<T>;
  const auto a = detail::ViewMatrix(FactorA());
  const auto b = detail::ViewTransposed(FactorB());
  const Product down{rows, rank_, in, detail::ViewMatrix(input), a, nullptr, 0, projected.data(), rank_};
  Product up{rows, out, rank_, detail::ViewMatrix(projected), b, output.data(), out, output.data(), out};
  if (statelessBase != nullptr) {
    up.initial = statelessBase->BiasRow();
    up.initialStride = 0;
  }
  detail::ParallelFor(blocks, operations / 50, [&, scaling = Scaling()](Index i) {
    const Index first = rows * i / blocks;
    const Index count = rows * (i + 1) / blocks - first;
    detail::Multiply(down.Block(first, 0, count, rank_));
    Eigen::Map<Tensor<T>>(projected.data() + first * rank_, count, rank_) *= scaling;
    detail::Multiply(up.Block(first, 0, count, out));
  });
  if (statelessBase != nullptr) statelessBase->AddProduct(input, output);
}

template <std::floating_point T>
void LoRAAdapterBase<T>::AddUpdateColumns(const TensorRef<T>& input, Index first,
                                          Eigen::Ref<Tensor<T>> output) const {
  const typename Pool::Lease projected(pool_);
  projected->resize(input.rows(), rank_);
  detail::SetProduct(input, FactorA(), *projected);
  *projected *= Scaling();
  detail::AddProduct(*projected, detail::ViewTransposed(FactorB()).From(0, first), output);
}

template <std::floating_point T>
void LoRAAdapterBase<T>::AddUpdateGradient(const TensorRef<T>& outputGradient, Index first,
                                           Eigen::Ref<Tensor<T>> inputGradient) const {
  const typename Pool::Lease projected(pool_);
  projected->resize(outputGradient.rows(), rank_);
  detail::SetProduct(outputGradient, detail::ViewMatrix(FactorB()).From(first, 0), *projected);
  *projected *= Scaling();
  detail::AddProduct(*projected, detail::ViewTransposed(FactorA()), inputGradient);
}

}  // namespace nola

// The definitions of NOLAAdapter.

namespace nola {

template <std::floating_point T>
NOLAAdapter<T>::NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, Index rank, Index numBasis, double alpha,
                            std::uint64_t seed, bool freezeBaseLayer)
    : NOLAAdapter(std::move(baseLayer), NOLAOptions{.rank = rank,
                                                    .numBasisA = numBasis,
                                                    .numBasisB = numBasis,
                                                    .alpha = alpha,
                                                    .seed = seed,
                                                    .freezeBaseLayer = freezeBaseLayer}) {}

template <std::floating_point T>
NOLAAdapter<T>::NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options)
    : NOLAAdapter(std::move(baseLayer), options, Bare()) {
  this->AddParameter(kNameA, Tensor<T>::Zero(1, options.numBasisA));
  this->AddParameter(kNameB, Tensor<T>::Zero(1, options.numBasisB));
  Rebuild();
}

template <std::floating_point T>
NOLAAdapter<T>::NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options,
                            Tensor<T> coefficientsA, Tensor<T> coefficientsB)
    : NOLAAdapter(std::move(baseLayer), options, Bare()) {
  CheckCoefficients(coefficientsA, options.numBasisA);
  CheckCoefficients(coefficientsB, options.numBasisB);
  this->AddParameter(kNameA, std::move(coefficientsA));
  this->AddParameter(kNameB, std::move(coefficientsB));
  Rebuild();
}

template <std::floating_point T>
NOLAAdapter<T>::NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options,
                            std::array<std::shared_ptr<ParameterSlot<T>>, 2> shared)
    : NOLAAdapter(std::move(baseLayer), options, Bare()) {
  if (!shared[0] || !shared[1]) throw ConfigError("NOLAAdapter: the shared coefficients are null");
  CheckCoefficients(shared[0]->value, options.numBasisA);
  CheckCoefficients(shared[1]->value, options.numBasisB);
  this->UseParameter(std::move(shared[0]));
  this->UseParameter(std::move(shared[1]));
  Rebuild();
}

template <std::floating_point T>
void NOLAAdapter<T>::ParametersChanged() {
  LoRAAdapterBase<T>::ParametersChanged();
  Rebuild();
}

template <std::floating_point T>
std::optional<AdapterDescription> NOLAAdapter<T>::Description() const {
  return AdapterDescription{.kind = AdapterKind::nola,
                            .inputSize = this->InputSize(),
                            .outputSize = this->OutputSize(),
                            .rank = this->Rank(),
                            .alpha = static_cast<double>(this->Alpha()),
                            .seed = Seed(),
                            .stream = Stream(),
                            .distribution = Distribution(),
                            .numBasisA = NumBasisA(),
                            .numBasisB = NumBasisB(),
                            .frame = frame_ ? BasisFrame::weight : BasisFrame::none,
                            .frameRank = frame_ ? frame_->Rank() : 0,
                            .frameChecksum = frame_ ? frame_->checksum : std::string()};
}

template <std::floating_point T>
std::shared_ptr<ILayer<T>> NOLAAdapter<T>::Clone() const {
  return this->Shared(new NOLAAdapter(*this));
}

template <std::floating_point T>
void NOLAAdapter<T>::AccumulateFactorGradients(const TensorRef<T>& input, const Tensor<T>& inputSide,
                                               const TensorRef<T>& outputSide, const Tensor<T>& projected) {
  if (this->IsTrainable(kB)) Accumulate(kB, Factor::b, b_, outputSide, projected);
  if (this->IsTrainable(kA) && NumBasisA() > 0) Accumulate(kA, Factor::a, a_, input, inputSide);
}

template <std::floating_point T>
void NOLAAdapter<T>::AddDiagnostics(std::map<std::string, std::string>& facts) const {
  LoRAAdapterBase<T>::AddDiagnostics(facts);
  detail::SetFact(facts, "num_basis_a", NumBasisA());
  detail::SetFact(facts, "num_basis_b", NumBasisB());
  detail::SetFact(facts, "distribution", DistributionName(Distribution()));
  detail::SetFact(facts, "seed", Seed());
  detail::SetFact(facts, "stream", Stream());
  if (frame_) detail::SetFact(facts, "frame_rank", frame_->Rank());
  detail::SetFact(facts, "compression_ratio", CompressionRatio());
  detail::SetFact(facts, "coefficient_norm_a", NormOf(kA));
  detail::SetFact(facts, "coefficient_norm_b", NormOf(kB));
}

template <std::floating_point T>
NOLAAdapter<T>::NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options, Bare)
    : LoRAAdapterBase<T>("NOLAAdapter", CheckBases(std::move(baseLayer), options), options.rank,
                         options.alpha, options.freezeBaseLayer),
      generator_(options.seed, options.stream, options.distribution),
      frame_(FrameFor(*this->BaseLayer(), options)),
      a_(this->InputSize(), options.rank, frame_ ? frame_->Rank() : 0),
      b_(this->OutputSize(), options.rank, frame_ ? frame_->Rank() : 0) {}

template <std::floating_point T>
std::shared_ptr<const WeightFrame<T>> NOLAAdapter<T>::FrameFor(const ILayer<T>& base,
                                                               const NOLAOptions& options) {
  if (options.frame == BasisFrame::none) return nullptr;
  if (options.frame != BasisFrame::weight) {
    Throw<ConfigError>(
        {"NOLAAdapter: frame ", static_cast<int>(BasisFrame(options.frame)), " is not a frame"});
  }
  if (!options.freezeBaseLayer) {
    throw ConfigError(
        "NOLAAdapter: a frame is taken of a weight that does not change: freeze the base layer");
  }
  if (options.frameRank < options.rank) {
    Throw<ConfigError>({"NOLAAdapter: a frame of ", options.frameRank, " directions for rank ", options.rank,
                        ", expected the rank at least"});
  }
  auto frame = options.frame.Take(base, options.frameRank);
  if (options.numBasisA > 0) return frame;
  T square = T(0);
  for (Index i = 0; i < frame->left.rows(); ++i) {
    const T number = detail::RowOf(frame->left, i)[options.rank - 1];
    square += number * number;
  }
  if (square > T(0)) return frame;
  Throw<ConfigError>({"NOLAAdapter: the weight has fewer directions than the rank, ", options.rank,
                      ", of which A without coefficients is made"});
}

template <std::floating_point T>
void NOLAAdapter<T>::CheckCoefficients(const Tensor<T>& coefficients, Index numBasis) const {
  if (coefficients.rows() != 1 || coefficients.cols() != numBasis) {
    Throw<ShapeError>({"NOLAAdapter: coefficients are [", coefficients.rows(), " x ", coefficients.cols(),
                       "], expected [1 x ", numBasis, "]"});
  }
  this->CheckFinite("coefficients", coefficients);
}

template <std::floating_point T>
void NOLAAdapter<T>::Rebuild(std::size_t index, Factor which, BuiltFactor& factor) {
  const std::uint64_t version = this->Slot(index)->version;
  if (factor.version == version) return;
  factor.version.reset();  // until nothing can fail any more
  const Tensor<T>& coefficients = this->Slot(index)->value;
  FactorMatrix<T>& built = frame_ ? factor.core : factor.matrix;
  if (frame_ && coefficients.size() == 0) {
    built.setIdentity();  // A is the frame's first directions, at the size that A0 has
    built *= T(1) / std::sqrt(T(3));
  } else {
    detail::BuildFactorOn<T>(generator_, which, coefficients.data(), coefficients.size(), detail::View(built),
                             workspace_);
  }
  if (frame_) {
    detail::SetProduct(ByRows(factor.core), detail::ViewTransposed(SideOf(which)), ByRows(factor.matrix));
  }
  factor.version = version;
}

template <std::floating_point T>
void NOLAAdapter<T>::Accumulate(std::size_t index, Factor which, const BuiltFactor& factor,
                                const TensorRef<T>& activations, const Tensor<T>& side) {
  const Index rank = factor.matrix.cols();
  T* memory = factorGradient_.Reserve(static_cast<std::size_t>(factor.matrix.size() + factor.core.size()));
  Index length = factor.matrix.rows();
  Eigen::Map<Tensor<T>> transposed(memory, rank, length);
  detail::SetProduct(detail::ViewTransposed(side), activations, transposed);
  if (frame_) {
    memory += factor.matrix.size();
    length = factor.core.rows();
    detail::SetProduct(transposed, SideOf(which), Eigen::Map<Tensor<T>>(memory, rank, length));
  }
  Tensor<T>& sums = this->Gradient(index);
  detail::AccumulateCoefficientGradientsOn<T>(generator_, which, {memory, length, rank, length}, sums.data(),
                                              sums.size(), workspace_);
}

}  // namespace nola

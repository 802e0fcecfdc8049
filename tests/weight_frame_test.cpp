// The frame of a weight: bits that the specification pins, directions that a singular value decomposition
// finds too; and adapters whose bases lie in it.
#include "counting_allocator.hpp"

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include <Eigen/SVD>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "catch.hpp"
#include "golden.hpp"
#include "instruction_sets.hpp"
#include "jacobian.hpp"
#include "loop_threads.hpp"
#include "nola/kernels/symmetric_eigen.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::AdapterConfig;
using nola::BasisFrame;
using nola::ConfigError;
using nola::DenseLayer;
using nola::Index;
using nola::InstructionSet;
using nola::NOLAAdapter;
using nola::NOLAOptions;
using nola::Tensor;
using test::RandomTensor;
using test::SameBits;

namespace {

/// Singular values that fall from column to column, as those of trained weights do.
Tensor<float> Falling(Index rows, Index columns, float factor, std::uint64_t seed) {
  Tensor<float> weight = RandomTensor<float>(rows, columns, seed);
  float scale = 1;
  for (Index j = 0; j < columns; ++j, scale *= factor) weight.col(j) *= scale;
  // By the library's product: this file's own code is not optimised under a sanitizer.
  return DenseLayer<float>(RandomTensor<float>(columns, columns, seed + 1)).Infer(weight);
}

bool SameFrame(const nola::detail::FrameSides& a, const nola::detail::FrameSides& b) {
  return SameBits(a.left, b.left) && SameBits(a.right, b.right);
}

NOLAOptions Framed(Index rank = 3, Index frameRank = 7) {
  return {.rank = rank, .numBasisA = 6, .numBasisB = 9, .frame = BasisFrame::weight, .frameRank = frameRank};
}

template <class T>
std::shared_ptr<DenseLayer<T>> Dense(Index in = 14, Index out = 11, std::uint64_t seed = 5) {
  return std::make_shared<DenseLayer<T>>(RandomTensor<T>(in, out, seed), RandomTensor<T>(1, out, seed + 1));
}

}  // namespace

TEST_CASE("frames are those of the specification on every instruction set", "[golden]") {
  const golden::Json answers = golden::Read(NOLA_GOLDEN_DIRECTORY "/frame-v1.json");
  REQUIRE(answers.at("frames").size() >= 6);
  for (const InstructionSet set : test::SupportedSets()) {
    const golden::Mismatches wrong = golden::Frames(answers, set);
    INFO(nola::InstructionSetName(set) << ": " << (wrong.empty() ? "" : wrong.front()));
    REQUIRE(wrong.empty());
  }
}

TEST_CASE("a frame has the same bits on any instruction set and number of threads", "[threads]") {
  // Several bands, blocks of rows and of columns, and a depth beyond one piece.
  const Tensor<float> weight = Falling(700, 1600, 0.99F, 3);
  test::LoopThreads threads(1);
  const auto first = golden::FrameOf(weight, 40, InstructionSet::portable);
  for (const InstructionSet set : test::SupportedSets()) {
    for (const int count : {1, 3}) {
      threads.Set(count);
      INFO(nola::InstructionSetName(set) << ", " << count << " threads");
      REQUIRE(SameFrame(golden::FrameOf(weight, 40, set), first));
    }
  }
}

TEST_CASE("a frame's directions are the first of the singular value decomposition") {
  const Index p = 8;
  for (const auto& [rows, columns] : {std::pair<Index, Index>{90, 60}, {60, 90}}) {
    const Tensor<float> weight = rows > columns ? Falling(rows, columns, 0.8F, 1)
                                                : Tensor<float>(Falling(columns, rows, 0.8F, 1).transpose());
    const auto sides = golden::FrameOf(weight, p, nola::DefaultInstructionSet());
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(weight.cast<double>(),
                                                Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Eigen::VectorXd values = svd.singularValues().head(p);
    const double scale = std::sqrt(static_cast<double>(p) / values.sum());
    for (Index j = 0; j < p; ++j) {
      const double length = scale * std::sqrt(values[j]);
      const Eigen::VectorXd left = sides.left.col(j).cast<double>();
      const Eigen::VectorXd right = sides.right.col(j).cast<double>();
      REQUIRE(left.norm() == Approx(length).epsilon(1e-4));
      REQUIRE(right.norm() == Approx(length).epsilon(1e-4));
      REQUIRE(std::abs(left.dot(svd.matrixU().col(j))) == Approx(length).epsilon(1e-4));
      REQUIRE(left.dot(svd.matrixU().col(j)) * right.dot(svd.matrixV().col(j)) > 0);
      Index largest = 0;
      left.cwiseAbs().maxCoeff(&largest);
      REQUIRE(left[largest] > 0);
    }
    REQUIRE(sides.left.squaredNorm() == Approx(p).epsilon(1e-4));
    REQUIRE(sides.right.squaredNorm() == Approx(p).epsilon(1e-4));
  }
}

TEST_CASE(
    "a frame does not depend on the weight's size in numbers, and has no direction that the weight has not") {
  const Tensor<float> weight = Falling(40, 30, 0.8F, 7);
  const auto frame = golden::FrameOf(weight, 6, nola::DefaultInstructionSet());
  for (const float factor : {0x1p-100F, 0x1p+90F}) {
    REQUIRE(SameFrame(golden::FrameOf(weight * factor, 6, nola::DefaultInstructionSet()), frame));
  }
  const Tensor<float> lowRank = RandomTensor<float>(40, 3, 1) * RandomTensor<float>(3, 30, 2);
  const auto some = golden::FrameOf(lowRank, 8, nola::DefaultInstructionSet());
  for (Index j = 0; j < 8; ++j) {
    REQUIRE(some.left.col(j).isZero(0) == (j >= 3));
    REQUIRE(some.right.col(j).isZero(0) == (j >= 3));
  }
}

TEST_CASE("what has no frame is an error") {
  const InstructionSet set = nola::DefaultInstructionSet();
  const Tensor<float> weight = RandomTensor<float>(6, 4, 1);
  for (const Index rank : {Index{0}, Index{-1}, Index{5}}) {
    REQUIRE_THROWS_AS(golden::FrameOf(weight, rank, set), ConfigError);
  }
  REQUIRE_NOTHROW(golden::FrameOf(weight, 4, set));
  REQUIRE_THROWS_AS(golden::FrameOf(RandomTensor<float>(600, 600, 1), 513, set), ConfigError);
  REQUIRE_THROWS_AS(golden::FrameOf(Tensor<float>::Zero(6, 4), 2, set), ConfigError);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensor<float> with = weight;
    with(5, 3) = bad;
    REQUIRE_THROWS_AS(golden::FrameOf(with, 2, set), ConfigError);
  }
  REQUIRE_THROWS_AS(nola::FrameOf<double>(DenseLayer<double>(Tensor<double>::Constant(3, 3, 1e300)), 2),
                    ConfigError);
  REQUIRE_THROWS_AS(nola::FrameOf<float>(nola::Tanh<float>(4), 2), ConfigError);
}

#ifdef __SSE__
TEST_CASE("a frame has the same bits where numbers below the smallest normal one are taken for zero") {
  Tensor<float> weight = Falling(40, 30, 0.8F, 7);
  for (Index i = 0; i < 40; i += 3) weight.row(i) *= 0x1p-126F;  // rows that decayed
  for (const InstructionSet set : test::SupportedSets()) {
    const auto frame = golden::FrameOf(weight, 6, set);
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040U);  // flush to zero, denormals are zero
    const auto flushed = golden::FrameOf(weight, 6, set);
    _mm_setcsr(before);
    REQUIRE(SameFrame(flushed, frame));
  }
}
#endif

TEST_CASE("eigenvalues and eigenvectors of a symmetric matrix") {
  const Tensor<double> half = RandomTensor<double>(23, 23, 4);
  const Tensor<double> matrix = half + half.transpose();
  Tensor<double> diagonal = matrix;
  Tensor<double> vectors;
  nola::detail::SymmetricEigen(diagonal, vectors);
  REQUIRE((vectors * vectors.transpose() - Tensor<double>::Identity(23, 23)).norm() < 1e-12);
  const Tensor<double> turned = vectors * matrix * vectors.transpose();
  REQUIRE((turned - Tensor<double>(diagonal.diagonal().asDiagonal())).norm() < 1e-11);
}

TEST_CASE(
    "adapters on one weight share its frame, in whatever format it lies and however often it is copied") {
  const auto dense = Dense<float>(64, 48);
  const NOLAAdapter<float> first(dense, Framed());
  const NOLAAdapter<float> second(std::make_shared<DenseLayer<float>>(dense->Weights()), Framed());
  REQUIRE(first.Frame() == second.Frame());
  REQUIRE(first.Frame()->Rank() == 7);
  REQUIRE(std::dynamic_pointer_cast<NOLAAdapter<float>>(first.Clone())->Frame() == first.Frame());
  REQUIRE(NOLAAdapter<float>(dense, Framed(3, 6)).Frame() != first.Frame());
  REQUIRE(NOLAAdapter<float>(Dense<float>(64, 48, 6), Framed()).Frame() != first.Frame());
  REQUIRE(NOLAAdapter<float>(dense, NOLAOptions{}).Frame() == nullptr);

  // A base in fewer bits has the frame of the numbers that it decodes to.
  for (const auto format : {nola::WeightFormat::bf16, nola::WeightFormat::int4}) {
    nola::Sequential<float> network;
    network.Add("layer", std::make_shared<DenseLayer<float>>(dense->Weights()));
    nola::QuantizeLayers(network, {"layer"}, format);
    const auto frozen = nola::FindLayer(network, "layer");
    Tensor<float> decoded(64, 48);
    frozen->AsLinear()->ReadRows(0, decoded);
    const NOLAAdapter<float> onFrozen(frozen, Framed());
    const NOLAAdapter<float> onDecoded(std::make_shared<DenseLayer<float>>(decoded), Framed());
    REQUIRE(onFrozen.Frame() == onDecoded.Frame());
    REQUIRE(onFrozen.Frame()->checksum != first.Frame()->checksum);
  }

  // The numbers and their checksum are those of float in double too.
  const NOLAAdapter<double> inDouble(std::make_shared<DenseLayer<double>>(dense->Weights().cast<double>()),
                                     Framed());
  REQUIRE(inDouble.Frame()->checksum == first.Frame()->checksum);
  REQUIRE(SameBits(Tensor<float>(inDouble.Frame()->left.cast<float>()), first.Frame()->left));
}

TEST_CASE("layers of one's own have the frame of what they compute, whatever they store") {
  /// W is the codes, each column times a scale.
  struct Scaled final : nola::LayerBase<float>, nola::ILinearLayer<float> {
    explicit Scaled(std::shared_ptr<DenseLayer<float>> codes, float scale)
        : LayerBase<float>(codes->InputSize(), codes->OutputSize()),
          codes_(std::move(codes)),
          scale_(scale) {}
    std::string LayerType() const override { return "Scaled"; }
    const nola::ILinearLayer<float>* AsLinear() const override { return this; }
    void AddProduct(const nola::TensorRef<float>& input, Tensor<float>& output) const override {
      output += scale_ * codes_->Infer(input);
    }
    void AddInputGradient(const nola::TensorRef<float>&, Tensor<float>&) const override {}
    const float* BiasRow() const override { return nullptr; }
    void ReadRows(Index first, Eigen::Ref<Tensor<float>> rows) const override {
      codes_->ReadRows(first, rows);
      rows.col(0) *= scale_;
      ++reads;
    }
    nola::StoredTensor Stored() const override { return {}; }
    std::shared_ptr<nola::ILayer<float>> Clone() const override { return nullptr; }
    void ComputeForward(const nola::TensorRef<float>&, Tensor<float>&, const nola::Pass&) override {}
    void ComputeBackward(const nola::TensorRef<float>&, Tensor<float>&, nola::Gradients) override {}
    void ComputeInference(const nola::TensorRef<float>&, Tensor<float>&, const nola::Pass&) const override {}
    std::shared_ptr<DenseLayer<float>> codes_;
    float scale_;
    mutable int reads = 0;
  };
  const auto codes = Dense<float>();
  const Scaled once(codes, 1.0F);
  const Scaled twice(codes, 2.0F);
  const auto frame = nola::FrameOf<float>(once, 5);
  REQUIRE(nola::FrameOf<float>(twice, 5) != frame);
  REQUIRE(nola::FrameOf<float>(*codes, 5) == frame);
  const int reads = once.reads;
  REQUIRE(nola::FrameOf<float>(once, 5) == frame);
  REQUIRE(once.reads == reads + 1);  // to know that it is the same
}

TEST_CASE("a base whose weight would change under a frame is not quantised") {
  nola::Sequential<float> network;
  network.Add("layer", Dense<float>(64, 48));
  nola::AdaptLayers(network, AdapterConfig{.rank = 3, .frame = BasisFrame::weight, .frameRank = 7});
  const test::Snapshot<float> before(network);
  REQUIRE_THROWS_AS(nola::QuantizeLayers(network, {"layer"}, nola::WeightFormat::int8), ConfigError);
  REQUIRE(test::Snapshot<float>(network) == before);
  REQUIRE(nola::QuantizeLayers(network, {"layer"}, nola::WeightFormat::f32).size() == 1);  // the same numbers
}

TEMPLATE_TEST_CASE("the factors of an adapter with a frame are those of its bases, in the frame", "", float,
                   double) {
  using T = TestType;
  NOLAAdapter<T> adapter(Dense<T>(), Framed());
  REQUIRE(adapter.GetMatrixB().isZero(0));
  test::RandomizeParameters<T>(adapter, 3);
  const nola::BasisGenerator generator(42);
  nola::FactorMatrix<T> a(7, 3);
  nola::FactorMatrix<T> b(7, 3);
  nola::BasisWorkspace<T> workspace;
  nola::BuildFactor<T>(generator, nola::Factor::a, adapter.GetCoefficientsA(), a, workspace);
  nola::BuildFactor<T>(generator, nola::Factor::b, adapter.GetCoefficientsB(), b, workspace);
  const auto& frame = *adapter.Frame();
  REQUIRE(adapter.GetMatrixA().isApprox(Tensor<T>(frame.left * a)));
  REQUIRE(adapter.GetMatrixB().isApprox(Tensor<T>(b.transpose() * frame.right.transpose())));
  REQUIRE(adapter.GetDiagnostics().at("frame_rank") == "7");

  const Tensor<T> input = RandomTensor<T>(5, 14, 9);
  const Tensor<T> output = adapter.Infer(input);
  REQUIRE(SameBits(adapter.Forward(input), output));
  REQUIRE(adapter.MergeToOriginalLayer()->Infer(input).isApprox(output, T(1e-4)));
  REQUIRE(adapter.LoRALayer()->Infer(input).isApprox(output, T(1e-5)));
  REQUIRE(SameBits(adapter.Clone()->Infer(input), output));
}

TEST_CASE("the gradients of an adapter with a frame are right") {
  NOLAAdapter<double> adapter(Dense<double>(), Framed());
  test::RandomizeParameters<double>(adapter, 3);
  test::RequireRightGradients(adapter, RandomTensor<double>(4, 14, 2));

  NOLAOptions withoutA = Framed();
  withoutA.numBasisA = 0;
  NOLAAdapter<double> half(Dense<double>(), withoutA);
  test::RandomizeParameters<double>(half, 3);
  test::RequireRightGradients(half, RandomTensor<double>(4, 14, 2));
}

TEMPLATE_TEST_CASE("without coefficients of A an adapter trains B alone", "", float, double) {
  using T = TestType;
  for (const BasisFrame frame : {BasisFrame::none, BasisFrame::weight}) {
    NOLAOptions options = Framed();
    options.frame = frame;
    options.numBasisA = 0;
    NOLAAdapter<T> adapter(Dense<T>(), options);
    REQUIRE(adapter.ParameterCount() == 9);
    REQUIRE(adapter.NumBasisA() == 0);
    const Tensor<T> a = adapter.GetMatrixA();
    if (frame == BasisFrame::weight) {
      REQUIRE(a.isApprox(Tensor<T>(adapter.Frame()->left.leftCols(3) / std::sqrt(T(3)))));
    } else {
      nola::FactorMatrix<T> offset(14, 3);
      nola::FillOffsetA<T>(nola::BasisGenerator(42), offset);
      REQUIRE(SameBits(a, Tensor<T>(offset)));
    }
    const auto trainsB = [&](nola::Optimizer<T>& optimizer) {
      const Tensor<T> before = adapter.GetMatrixB();
      adapter.Backward(adapter.Forward(RandomTensor<T>(4, 14, 2)));
      optimizer.Step(T(0.1), T(1));
      REQUIRE(SameBits(adapter.GetMatrixA(), a));
      REQUIRE(adapter.GetMatrixB() != before);
    };
    nola::AdamW<T> adam(adapter);
    for (const nola::Parameter<T>& parameter : adam.Parameters()) {
      REQUIRE(parameter.gradient.rows() == parameter.value.rows());
    }
    trainsB(adam);
    for (const double momentum : {0.0, 0.9}) {
      nola::SGD<T> sgd(adapter, {.momentum = momentum});
      trainsB(sgd);
    }
  }
  NOLAOptions none = Framed();
  none.numBasisB = 0;
  REQUIRE_THROWS_AS(NOLAAdapter<T>(Dense<T>(), none), ConfigError);
  const auto lowRank =
      std::make_shared<DenseLayer<T>>(Tensor<T>(RandomTensor<T>(14, 2, 1) * RandomTensor<T>(2, 11, 2)));
  none.numBasisB = 4;
  none.numBasisA = 0;  // A would have a column of zeros, which never learns
  REQUIRE_THROWS_AS(NOLAAdapter<T>(lowRank, none), ConfigError);
  none.numBasisA = -1;
  REQUIRE_THROWS_AS(NOLAAdapter<T>(Dense<T>(), none), ConfigError);
}

TEST_CASE("a frame that cannot be is an error before anything is made") {
  const auto dense = Dense<float>();
  REQUIRE_THROWS_AS(NOLAAdapter<float>(dense, Framed(3, 2)), ConfigError);   // fewer directions than the rank
  REQUIRE_THROWS_AS(NOLAAdapter<float>(dense, Framed(3, 12)), ConfigError);  // more than the weight has
  NOLAOptions trains = Framed();
  trains.freezeBaseLayer = false;
  REQUIRE_THROWS_AS(NOLAAdapter<float>(dense, trains), ConfigError);
  NOLAOptions unknown = Framed();
  unknown.frame = static_cast<BasisFrame>(7);
  REQUIRE_THROWS_AS(NOLAAdapter<float>(dense, unknown), ConfigError);
  const auto adapter = std::make_shared<NOLAAdapter<float>>(dense, Framed());
  REQUIRE_THROWS_AS(NOLAAdapter<float>(adapter, Framed()), ConfigError);

  nola::Sequential<float> network;
  network.Emplace<DenseLayer<float>>("first", 20, 15).Emplace<DenseLayer<float>>("second", 15, 5);
  AdapterConfig config{.rank = 4, .frame = BasisFrame::weight, .frameRank = 10};
  REQUIRE_THROWS_AS(nola::AdaptLayers(network, config), ConfigError);
  REQUIRE(nola::FindAdapters<float>(network).empty());
  config.clampRank = true;
  nola::AdaptLayers(network, config);
  REQUIRE(nola::FindAdapters<float>(network)[1].adapter->Description()->frameRank == 5);
}

TEST_CASE("copies of an adapter with a frame give what it gives, and hold the same frame") {
  nola::Sequential<float> network;
  network.Emplace<DenseLayer<float>>("first", 30, 20, true, 1)
      .Emplace<DenseLayer<float>>("second", 20, 25, true, 2);
  for (const Index numBasisA : {5, 0}) {
    const auto adapted = network.Clone();
    nola::AdaptLayers(
        *adapted,
        AdapterConfig{.rank = 4, .numBasisA = numBasisA, .frame = BasisFrame::weight, .frameRank = 8});
    test::RandomizeParameters<float>(*adapted, 3);
    const Tensor<float> input = RandomTensor<float>(6, 30, 2);
    for (const auto& copy : {adapted->Clone(), adapted->CloneSharingFrozen()}) {
      REQUIRE(SameBits(copy->Infer(input), adapted->Infer(input)));
      const auto adapters = nola::FindAdapters<float>(*adapted);
      const auto copied = nola::FindAdapters<float>(*copy);
      REQUIRE(copied.size() == adapters.size());
      for (std::size_t i = 0; i < adapters.size(); ++i) {
        REQUIRE(copied[i].adapter->Frame() == adapters[i].adapter->Frame());
      }
      const Tensor<float> before = adapted->Infer(input);  // each trains on its own
      test::RandomizeParameters<float>(*copy, 4);
      REQUIRE(SameBits(adapted->Infer(input), before));
      REQUIRE(!SameBits(copy->Infer(input), before));
    }
  }
}

TEST_CASE("adapters with frames share coefficients, and a step allocates nothing once warm") {
  nola::Sequential<float> network;
  network.Emplace<DenseLayer<float>>("first", 30, 30, true, 1)
      .Emplace<DenseLayer<float>>("second", 30, 30, true, 2);
  nola::AdaptLayers(network, AdapterConfig{.rank = 4,
                                           .numBasisA = 8,
                                           .numBasisB = 8,
                                           .frame = BasisFrame::weight,
                                           .frameRank = 16,
                                           .share = nola::CoefficientSharing::all});
  REQUIRE(network.ParameterCount() == 16);
  nola::AdamW<float> optimizer(network);
  const Tensor<float> input = RandomTensor<float>(6, 30, 2);
  Tensor<float> output;
  Tensor<float> inputGradient;
  const auto step = [&] {
    network.Forward(input, output);
    network.Backward(output, inputGradient);
    optimizer.Step(0.01F);
    optimizer.ClearGradients();
  };
  step();
  step();
  const std::size_t allocations = test::AllocationsOf(step);
  REQUIRE((allocations == 0 || !test::kCountsAllocations));
}

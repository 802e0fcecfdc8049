// Adapting a whole network by path, and merging it back.
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::AdapterConfig;
using nola::AdapterKind;
using nola::AdaptLayers;
using nola::BasisDistribution;
using nola::ConfigError;
using nola::DenseLayer;
using nola::FindLayer;
using nola::Gradients;
using nola::ILayer;
using nola::ILoRAAdapter;
using nola::Index;
using nola::LoRAAdapter;
using nola::MergeAdapters;
using nola::NOLAAdapter;
using nola::Sequential;
using nola::Tensor;
using nola::UnsupportedError;
using nola::Vector;
using test::ErrorOf;
using test::RandomizeParameters;
using test::RandomTensor;
using test::RequireRefused;
using test::SameBits;

namespace {

using Paths = std::vector<std::string>;

/// blocks.{0,1}.{query,value,mix} (6x6) with a probe before each block, and head 6x4.
struct Network {
  std::shared_ptr<Sequential<double>> root = std::make_shared<Sequential<double>>();
  std::vector<std::shared_ptr<test::ProbeLayer<double>>> probes;

  Network() {
    auto blocks = std::make_shared<Sequential<double>>();
    for (std::uint64_t i = 0; i < 2; ++i) {
      probes.push_back(std::make_shared<test::ProbeLayer<double>>(6));
      auto block = std::make_shared<Sequential<double>>();
      block->Add("probe", probes.back());
      block->Emplace<DenseLayer<double>>("query", 6, 6, true, 10 * i + 1);
      block->Emplace<nola::Tanh<double>>("act", 6);
      block->Emplace<DenseLayer<double>>("value", 6, 6, true, 10 * i + 2);
      block->Emplace<DenseLayer<double>>("mix", 6, 6, true, 10 * i + 3);
      blocks->Add(std::to_string(i), block);
    }
    root->Add("blocks", blocks).Emplace<DenseLayer<double>>("head", 6, 4, true, 99U);
  }

  std::shared_ptr<ILayer<double>> At(const std::string& path) const { return FindLayer(*root, path); }

  const NOLAAdapter<double>& AdapterAt(const std::string& path) const {
    return dynamic_cast<const NOLAAdapter<double>&>(*At(path));
  }
};

AdapterConfig Config(const Paths& targets) {
  AdapterConfig config;
  config.targetModules = targets;
  config.rank = 2;
  config.numBasisA = 5;
  config.numBasisB = 3;
  config.alpha = 6;
  config.seed = 7;
  config.stream = 100;
  config.distribution = BasisDistribution::hadamard;
  return config;
}

const Paths kQueryAndValue{"blocks.0.query", "blocks.0.value", "blocks.1.query", "blocks.1.value"};

}  // namespace

TEST_CASE("AdaptLayers puts an adapter around every dense layer whose path matches, and no other") {
  const Network network;
  const auto base = network.At("blocks.1.value");
  REQUIRE(AdaptLayers(*network.root, Config({"*.query", "*.value"})) == kQueryAndValue);
  for (const std::string& path : kQueryAndValue) {
    REQUIRE(network.At(path)->LayerType() == "NOLAAdapter");
    REQUIRE(network.AdapterAt(path).IsBaseLayerFrozen());
  }
  REQUIRE(network.AdapterAt("blocks.1.value").BaseLayer() == base);
  for (const char* path : {"blocks.0.mix", "blocks.1.mix", "head"}) {
    REQUIRE(network.At(path)->LayerType() == "DenseLayer");
  }
}

TEST_CASE("patterns choose by path: all, one, a block, none") {
  const auto adapted = [](const Paths& patterns) {
    const Network network;
    return AdaptLayers(*network.root, Config(patterns));
  };
  REQUIRE(adapted({"*"}).size() == 7);
  REQUIRE(AdapterConfig{}.targetModules == Paths{"*"});
  REQUIRE(adapted({"head"}) == Paths{"head"});
  REQUIRE(adapted({"*.head"}) == Paths{"head"});
  REQUIRE(adapted({"blocks.1.*"}) == Paths{"blocks.1.query", "blocks.1.value", "blocks.1.mix"});
  REQUIRE(adapted({"*.mix", "blocks.0.mix"}) == Paths{"blocks.0.mix", "blocks.1.mix"});

  const Network network;
  for (const Paths& patterns : {Paths{"query"}, Paths{"*.act"}, Paths{"*.query", "blocks.2.*"}}) {
    RequireRefused<ConfigError>(*network.root, [&] { AdaptLayers(*network.root, Config(patterns)); });
  }
  REQUIRE(ErrorOf<ConfigError>([&] {
            AdaptLayers(*network.root, Config({"*.query", "nothing"}));
          }) == "AdaptLayers: 'nothing' matches no dense layer");
}

TEST_CASE("a network behind a pointer takes its configuration in braces, and a null one is refused") {
  const Network network;
  REQUIRE(AdaptLayers(network.root, {.targetModules = {"*.query", "*.value"}, .rank = 1}) == kQueryAndValue);
  const std::shared_ptr<nola::ILayer<double>> none;
  REQUIRE_THROWS_AS(AdaptLayers(none, {.rank = 1}), ConfigError);
}

TEST_CASE("each adapter has the settings asked for and a stream of its own") {
  const Network network;
  AdaptLayers(network.root, Config({"*.query", "*.value"}));
  std::uint32_t stream = 100;
  for (const std::string& path : kQueryAndValue) {
    const NOLAAdapter<double>& adapter = network.AdapterAt(path);
    REQUIRE(adapter.Stream() == stream++);
    REQUIRE(adapter.Seed() == 7);
    REQUIRE(adapter.Rank() == 2);
    REQUIRE(adapter.NumBasisA() == 5);
    REQUIRE(adapter.NumBasisB() == 3);
    REQUIRE(adapter.Alpha() == 6);
    REQUIRE(adapter.Distribution() == BasisDistribution::hadamard);
  }
  REQUIRE_FALSE(SameBits(network.AdapterAt("blocks.0.query").GetMatrixA(),
                         network.AdapterAt("blocks.1.query").GetMatrixA()));
  REQUIRE(network.root->ParameterCount() == 4 * (5 + 3));
}

TEST_CASE("LoRA adapters have the rank and alpha asked for, and A of their own") {
  const Network network;
  AdapterConfig config = Config({"*.query", "*.value"});
  config.kind = AdapterKind::lora;
  AdaptLayers(*network.root, config);
  const auto adapter = [&](const char* path) {
    return std::dynamic_pointer_cast<LoRAAdapter<double>>(network.At(path));
  };
  REQUIRE(adapter("blocks.0.query")->Rank() == 2);
  REQUIRE(adapter("blocks.0.query")->Alpha() == 6);
  REQUIRE_FALSE(SameBits(adapter("blocks.0.query")->GetMatrixA(), adapter("blocks.0.value")->GetMatrixA()));
  REQUIRE(network.root->ParameterCount() == 4 * 2 * (6 + 6));
}

TEST_CASE("AdaptLayers leaves the output as it was") {
  const Network network;
  const Tensor<double> input = RandomTensor<double>(3, 6, 1);
  const Tensor<double> before = network.root->Infer(input);
  AdaptLayers(*network.root, Config({"*"}));
  REQUIRE(network.root->Infer(input) == before);
}

TEST_CASE("all that is not adapted is frozen, and the adapted layers are not marked") {
  const Network network;
  const auto base = network.At("blocks.0.query");
  const Vector<double> mix = network.At("blocks.0.mix")->GetParameters();
  AdaptLayers(*network.root, Config({"*.query"}));
  REQUIRE(network.root->ParameterCount() == 2 * (5 + 3));
  REQUIRE_FALSE(network.At("blocks.0.mix")->SupportsTraining());
  REQUIRE_FALSE(network.At("head")->SupportsTraining());
  REQUIRE(base->ParameterCount() == 42);

  network.root->Forward(RandomTensor<double>(3, 6, 2));
  network.root->Backward(RandomTensor<double>(3, 4, 3));
  network.root->UpdateParameters(0.1);
  REQUIRE(SameBits(*network.At("blocks.0.mix")->TryGetParameter("weight"),
                   Tensor<double>(mix.head(36).reshaped<Eigen::RowMajor>(6, 6))));
}

TEST_CASE("a layer frozen before it is adapted stays so") {
  const Network network;
  const auto base = network.At("head");
  base->SetTrainable(false);
  AdaptLayers(*network.root, Config({"head"}));
  REQUIRE_FALSE(base->SupportsTraining());
}

TEST_CASE("layers below the first adapter keep nothing and run no backward pass") {
  const Network network;
  AdaptLayers(*network.root, Config({"blocks.1.*"}));
  network.root->Forward(RandomTensor<double>(3, 6, 4), Gradients::parameters);
  network.root->Backward(RandomTensor<double>(3, 4, 5));
  for (const auto& probe : network.probes) {
    REQUIRE(probe->forwards == 0);
    REQUIRE(probe->backwards == 0);
    REQUIRE(probe->inferences == 1);
  }
  REQUIRE(network.root->GetParameterGradients().norm() > 0);

  const Network other;
  AdaptLayers(*other.root, Config({"blocks.0.value"}));
  other.root->Forward(RandomTensor<double>(3, 6, 4), Gradients::parameters);
  other.root->Backward(RandomTensor<double>(3, 4, 5));
  REQUIRE(other.probes[0]->backwards == 0);
  REQUIRE(other.probes[1]->backwards == 1);
  REQUIRE(other.probes[1]->lastWanted == Gradients::input);
}

TEST_CASE("trainableModules train as they are: not adapted and not frozen") {
  const Network network;
  AdapterConfig config = Config({"*"});
  config.trainableModules = {"head", "blocks.1"};
  REQUIRE(AdaptLayers(*network.root, config) == Paths{"blocks.0.query", "blocks.0.value", "blocks.0.mix"});
  REQUIRE(network.At("head")->LayerType() == "DenseLayer");
  REQUIRE(network.At("head")->ParameterCount() == 28);
  REQUIRE(network.At("blocks.1")->ParameterCount() == 3 * 42);
  REQUIRE(network.root->ParameterCount() == 3 * (5 + 3) + 28 + 3 * 42);

  config.trainableModules = {"tail"};
  const Network other;
  RequireRefused<ConfigError>(*other.root, [&] { AdaptLayers(*other.root, config); });
}

TEST_CASE("an error leaves the network as it was") {
  const Network network;
  network.At("blocks.0.mix")->SetTrainable(false);
  const auto refuse = [&](AdapterConfig config) {
    RequireRefused<ConfigError>(*network.root, [&] { AdaptLayers(*network.root, config); });
    REQUIRE(network.root->ParameterCount() == 5 * 42 + 28);
  };
  AdapterConfig config = Config({"*"});
  config.rank = 5;  // fits the blocks, but not the head, which comes last
  refuse(config);
  config = Config({"*"});
  config.numBasisB = 0;
  refuse(config);
  config = Config({"*"});
  config.kind = AdapterKind::lora;
  config.rank = 7;
  refuse(config);
  REQUIRE_THROWS_AS(AdaptLayers(std::shared_ptr<Sequential<double>>(), Config({"*"})), ConfigError);
  REQUIRE_THROWS_AS(MergeAdapters(std::shared_ptr<Sequential<double>>()), ConfigError);
}

TEST_CASE("a factory's error, no adapter or one of another size leaves the network as it was") {
  const Network network;
  const auto adapt = [&](auto make) {
    return [&network, make] {
      AdaptLayers<double>(*network.root, {"*"},
                          [&](const std::string& path, std::shared_ptr<ILayer<double>> layer,
                              Index) -> std::shared_ptr<ILoRAAdapter<double>> {
                            if (path == "head") return make();
                            return std::make_shared<LoRAAdapter<double>>(std::move(layer), 2);
                          });
    };
  };
  using Made = std::shared_ptr<ILoRAAdapter<double>>;
  RequireRefused<ConfigError>(*network.root, adapt([]() -> Made { return nullptr; }));
  RequireRefused<nola::FileError>(*network.root, adapt([]() -> Made { throw nola::FileError("no file"); }));
  RequireRefused<nola::ShapeError>(*network.root, adapt([]() -> Made {
    return std::make_shared<LoRAAdapter<double>>(std::make_shared<DenseLayer<double>>(6, 5), 2);
  }));
}

TEST_CASE("a factory makes each adapter from its path, its layer and its place in the order") {
  const Network network;
  Paths seen;
  const Paths paths =
      AdaptLayers<double>(*network.root, {"*.mix", "head"},
                          [&](const std::string& path, std::shared_ptr<ILayer<double>> layer, Index index) {
                            REQUIRE(layer == network.At(path));
                            REQUIRE(index == static_cast<Index>(seen.size()));
                            seen.push_back(path);
                            return std::make_shared<LoRAAdapter<double>>(std::move(layer), index + 1);
                          });
  REQUIRE(paths == Paths{"blocks.0.mix", "blocks.1.mix", "head"});
  REQUIRE(seen == paths);
  REQUIRE(std::dynamic_pointer_cast<LoRAAdapter<double>>(network.At("head"))->Rank() == 3);
}

TEST_CASE("clampRank gives a layer too narrow for the rank the rank it can have") {
  const Network network;
  AdapterConfig config = Config({"*"});
  config.rank = 5;
  config.clampRank = true;
  AdaptLayers(*network.root, config);
  REQUIRE(network.AdapterAt("head").Rank() == 4);
  REQUIRE(network.AdapterAt("blocks.0.mix").Rank() == 5);
}

TEST_CASE("adapting again leaves the adapters that are there as they are") {
  const Network network;
  AdaptLayers(*network.root, Config({"*.query"}));
  RandomizeParameters(*network.root, 6);
  const auto first = network.At("blocks.0.query");
  const Vector<double> coefficients = first->GetParameters();
  REQUIRE(AdaptLayers(*network.root, Config({"*"})) ==
          Paths{"blocks.0.value", "blocks.0.mix", "blocks.1.value", "blocks.1.mix", "head"});
  REQUIRE(network.At("blocks.0.query") == first);
  REQUIRE(SameBits(first->GetParameters(), coefficients));
  REQUIRE(network.root->ParameterCount() == 7 * (5 + 3));
  REQUIRE(AdaptLayers(*network.root, Config({"*.query"})).empty());
  REQUIRE(network.root->ParameterCount() == 7 * (5 + 3));
}

TEST_CASE(
    "MergeAdapters puts dense layers in the adapters' places, with the outputs of the adapted network") {
  for (const AdapterKind kind : {AdapterKind::nola, AdapterKind::lora}) {
    const Network network;
    const auto base = network.At("blocks.0.query");
    const Vector<double> weights = base->GetParameters();
    AdapterConfig config = Config({"*.query", "*.value"});
    config.kind = kind;
    AdaptLayers(network.root, config);
    RandomizeParameters(*network.root, 7);
    const Tensor<double> input = RandomTensor<double>(5, 6, 8);
    const Tensor<double> adapted = network.root->Infer(input);

    REQUIRE(MergeAdapters(network.root) == kQueryAndValue);
    REQUIRE(test::RelativeError(network.root->Infer(input), adapted) < test::Rounding<double>());
    for (const std::string& path : kQueryAndValue) REQUIRE(network.At(path)->LayerType() == "DenseLayer");
    REQUIRE(network.root->ParameterCount() == 6 * 42 + 28);
    REQUIRE(network.At("blocks.0.query") != base);
    REQUIRE(SameBits(base->GetParameters(), weights));
    REQUIRE(MergeAdapters(*network.root).empty());
  }
}

TEST_CASE("MergeAdapters refuses a base without a dense weight, and merges nothing then") {
  const Network network;
  AdaptLayers(*network.root, Config({"*.query"}));
  RandomizeParameters(*network.root, 9);
  network.root->Emplace<LoRAAdapter<double>>("last", std::make_shared<nola::ReLU<double>>(4), 2);
  RequireRefused<UnsupportedError>(*network.root, [&] { MergeAdapters(*network.root); });
  REQUIRE(network.At("blocks.0.query")->LayerType() == "NOLAAdapter");
}

TEST_CASE("a clone of an adapted network is adapted, and shares nothing with it") {
  const Network network;
  AdaptLayers(*network.root, Config({"*"}));
  RandomizeParameters(*network.root, 10);
  const auto clone = network.root->Clone();
  const test::Snapshot<double> before(*network.root);
  REQUIRE(test::Snapshot<double>(*clone) == before);
  RandomizeParameters(*clone, 11);
  MergeAdapters(*clone);
  RandomizeParameters(*clone, 12);
  REQUIRE(test::Snapshot<double>(*network.root) == before);
}

namespace {

/// Two dense layers, one of which refuses to be replaced.
class Picky final : public nola::LayerBase<double> {
 public:
  explicit Picky(bool memory) : nola::LayerBase<double>(4, 4), memory_(memory) {
    AddChild("a", std::make_shared<DenseLayer<double>>(4, 4, true, 1U));
    AddChild("b", std::make_shared<DenseLayer<double>>(4, 4, true, 2U));
    AddParameter("scale", Tensor<double>::Ones(1, 4));
  }
  std::string LayerType() const override { return "Picky"; }
  std::shared_ptr<ILayer<double>> Clone() const override { return std::make_shared<Picky>(*this); }
  void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<double>> layer) override {
    if (name == "b" && !memory_) throw ConfigError("Picky: b stays");
    LayerBase<double>::ReplaceChild(name, std::move(layer));
    if (name == "b") throw std::bad_alloc();  // too late: b is replaced already
  }

 protected:
  void ComputeForward(const nola::TensorRef<double>& input, Tensor<double>& output,
                      const nola::Pass&) override {
    output = input;
  }
  void ComputeBackward(const nola::TensorRef<double>& gradient, Tensor<double>& inputGradient,
                       Gradients) override {
    inputGradient = gradient;
  }
  void ComputeInference(const nola::TensorRef<double>& input, Tensor<double>& output,
                        const nola::Pass&) const override {
    output = Children()[1].layer->Infer(Children()[0].layer->Infer(input)).array().rowwise() *
             Value(0).row(0).array();
  }

 private:
  bool memory_;
};

}  // namespace

TEST_CASE("a layer that refuses to have its child replaced leaves the network as it was") {
  for (const bool memory : {false, true}) {
    Sequential<double> network;
    network.Emplace<DenseLayer<double>>("first", 4, 4, true, 3U).Emplace<Picky>("picky", memory);
    network.Emplace<DenseLayer<double>>("last", 4, 4, true, 4U);
    FindLayer(network, "picky.a")->SetTrainable(false);
    FindLayer(network, "last")->SetTrainable(false);
    const auto adapt = [&] { AdaptLayers(network, Config({"*"})); };
    if (memory) {
      RequireRefused<std::bad_alloc>(network, adapt);
    } else {
      RequireRefused<ConfigError>(network, adapt);
    }
    REQUIRE(network.Layer(0)->LayerType() == "DenseLayer");
    REQUIRE(network.GetParameters().size() == 20 + 20 + 4);
    REQUIRE_NOTHROW(AdaptLayers(network, Config({"first", "picky.a"})));
    REQUIRE_FALSE(FindLayer(network, "last")->SupportsTraining());
  }
}

TEST_CASE("a merge that a layer refuses leaves the adapters where they are") {
  auto picky = std::make_shared<Picky>(false);
  Sequential<double> network;
  network.Add("first", std::make_shared<LoRAAdapter<double>>(std::make_shared<DenseLayer<double>>(4, 4), 2));
  auto inner = std::make_shared<Sequential<double>>();
  inner->Emplace<DenseLayer<double>>("fc", 4, 4);
  network.Add("picky", picky).Add("inner", inner);
  AdaptLayers(network, Config({"picky.a", "inner.fc"}));
  picky->Children()[1].layer->SetTrainable(true);
  const std::string type = FindLayer(network, "picky.a")->LayerType();
  REQUIRE(type == "NOLAAdapter");
  // An adapter in the place that cannot be given back: put there past the refusal, as a constructor would.
  class Stubborn final : public nola::LayerBase<double> {
   public:
    Stubborn() : nola::LayerBase<double>(4, 4) {
      AddChild("fc", std::make_shared<LoRAAdapter<double>>(
                         std::make_shared<DenseLayer<double>>(4, 4, true, 5U), 2));
    }
    std::string LayerType() const override { return "Stubborn"; }
    std::shared_ptr<ILayer<double>> Clone() const override { return std::make_shared<Stubborn>(*this); }
    void ReplaceChild(const std::string&, std::shared_ptr<ILayer<double>>) override {
      throw UnsupportedError("Stubborn: no");
    }

   protected:
    void ComputeForward(const nola::TensorRef<double>& input, Tensor<double>& output,
                        const nola::Pass&) override {
      output = input;
    }
    void ComputeBackward(const nola::TensorRef<double>&, Tensor<double>&, Gradients) override {}
    void ComputeInference(const nola::TensorRef<double>& input, Tensor<double>& output,
                          const nola::Pass&) const override {
      output = Children()[0].layer->Infer(input);
    }
  };
  network.Emplace<Stubborn>("stubborn");
  RequireRefused<UnsupportedError>(network, [&] { MergeAdapters(network); });
  REQUIRE(FindLayer(network, "picky.a")->LayerType() == "NOLAAdapter");
  REQUIRE(FindLayer(network, "inner.fc")->LayerType() == "NOLAAdapter");
}

TEST_CASE("a factory that gives one adapter to two layers is refused") {
  const Network network;
  std::shared_ptr<LoRAAdapter<double>> made;
  RequireRefused<ConfigError>(*network.root, [&] {
    AdaptLayers<double>(*network.root, {"*.query"},
                        [&](const std::string&, std::shared_ptr<ILayer<double>> layer, Index) {
                          if (!made) made = std::make_shared<LoRAAdapter<double>>(std::move(layer), 2);
                          return made;
                        });
  });
}

TEST_CASE("a network in which one object has two places is neither adapted nor merged") {
  const Network network;
  dynamic_cast<Sequential<double>&>(*network.At("blocks.1")).Add("tied", network.At("blocks.0.mix"));
  RequireRefused<ConfigError>(*network.root, [&] { AdaptLayers(*network.root, Config({"*.query"})); });
  RequireRefused<ConfigError>(*network.root, [&] { MergeAdapters(*network.root); });
}

TEST_CASE("a network that is a dense layer or an adapter itself is told to be put into a Sequential") {
  const auto dense = std::make_shared<DenseLayer<double>>(4, 4);
  LoRAAdapter<double> adapter(dense, 2);
  for (ILayer<double>* network :
       {static_cast<ILayer<double>*>(dense.get()), static_cast<ILayer<double>*>(&adapter)}) {
    const std::string error = ErrorOf<ConfigError>([&] { AdaptLayers(*network, Config({"*"})); });
    INFO(error);
    REQUIRE(error.find("Sequential") != std::string::npos);
  }
  REQUIRE(ErrorOf<ConfigError>([&] { MergeAdapters<double>(adapter); }).find("Sequential") !=
          std::string::npos);
  REQUIRE(MergeAdapters<double>(*dense).empty());
}

TEST_CASE("adapting more of a network leaves what trains in the adapters that are there") {
  const Network network;
  AdaptLayers<double>(*network.root, {"*.query"},
                      [](const std::string&, std::shared_ptr<ILayer<double>> layer, Index) {
                        return std::make_shared<LoRAAdapter<double>>(std::move(layer), 2, -1, 42, false);
                      });
  network.At("blocks.0.query.base_layer")->SetTrainable(false);
  network.At("blocks.1.query")->SetTrainable(false);
  AdaptLayers(*network.root, Config({"*.value"}));
  REQUIRE_FALSE(network.At("blocks.0.query.base_layer")->SupportsTraining());
  REQUIRE(network.At("blocks.0.query")->SupportsTraining());
  REQUIRE_FALSE(network.At("blocks.1.query")->SupportsTraining());
}

namespace {

std::shared_ptr<Sequential<double>> ThreeLayers() {
  auto network = std::make_shared<Sequential<double>>();
  network->Emplace<DenseLayer<double>>("first", 40, 60, true, 1U)
      .Emplace<DenseLayer<double>>("second", 60, 60, true, 2U)
      .Emplace<DenseLayer<double>>("third", 60, 60, true, 3U)
      .Emplace<DenseLayer<double>>("head", 60, 7, true, 4U);
  return network;
}

}  // namespace

TEST_CASE("a budget is spread over the adapters to the last number") {
  for (const nola::CoefficientSharing share :
       {nola::CoefficientSharing::none, nola::CoefficientSharing::byShape, nola::CoefficientSharing::all}) {
    for (const Index budget : {4, 6, 145, 300, 999, 2003}) {
      const auto network = ThreeLayers();
      AdapterConfig config;
      config.budget = budget;
      config.share = share;
      AdaptLayers(*network, config);
      REQUIRE(network->ParameterCount() == budget);
      RandomizeParameters<double>(*network, 3);
      REQUIRE(network->Infer(RandomTensor<double>(3, 40, 1)).allFinite());
    }
  }
}

TEST_CASE("few numbers of a budget train B in a frame, more both factors, many white bases") {
  const auto description = [](Index budget, const std::string& path) {
    const auto network = ThreeLayers();
    AdapterConfig config;
    config.budget = budget;
    AdaptLayers(*network, config);
    return *FindLayer(*network, path)->AsAdapter()->Description();
  };
  // Of 40, 60, 60 and 7 directions.
  const auto few = description(99, "first");
  REQUIRE((few.frame == nola::BasisFrame::weight && few.numBasisA == 0 && few.numBasisB == 23));
  REQUIRE((few.rank == 32 && few.frameRank == 40));
  const auto head = description(99, "head");
  REQUIRE((head.numBasisB == 5 && head.rank == 7 && head.frameRank == 7));
  const auto more = description(800, "second");
  REQUIRE((more.frame == nola::BasisFrame::weight && more.numBasisA == 143 && more.numBasisB == 144));
  const auto many = description(4001, "second");
  REQUIRE((many.frame == nola::BasisFrame::none && many.numBasisA + many.numBasisB == 1437));
  REQUIRE(nola::LearningRateOfBudget(99, 4) > nola::LearningRateOfBudget(4001, 4));
}

TEST_CASE("where a budget has many layers, bases are white") {
  Sequential<double> network;
  for (std::uint64_t i = 0; i < 12; ++i) {
    network.Emplace<DenseLayer<double>>(std::to_string(i), 20, 20, true, i);
  }
  AdapterConfig config;
  config.budget = 121;
  AdaptLayers(network, config);
  REQUIRE(network.ParameterCount() == 121);
  const auto description = *nola::FindAdapters<double>(network)[0].adapter->Description();
  REQUIRE((description.frame == nola::BasisFrame::none && description.numBasisA == 5));
}

TEST_CASE("LoRA has the largest rank that a budget allows") {
  const auto network = ThreeLayers();
  AdapterConfig config;
  config.kind = AdapterKind::lora;
  config.budget = 3 * 407 + 100;  // rank 1 trains 407 numbers
  AdaptLayers(*network, config);
  REQUIRE(network->ParameterCount() == 3 * 407);
  REQUIRE(nola::FindAdapters<double>(*network)[0].adapter->Rank() == 3);
}

TEST_CASE("a budget that cannot be, or what contradicts it, is an error before anything changed") {
  const auto network = ThreeLayers();
  const auto refused = [&](const AdapterConfig& config, const std::string& reason) {
    RequireRefused<ConfigError>(*network, [&] { AdaptLayers(*network, config); });
    const std::string error = ErrorOf<ConfigError>([&] { AdaptLayers(*network, config); });
    INFO(error);
    REQUIRE(error.find(reason) != std::string::npos);
  };
  AdapterConfig config;
  for (const Index budget : {-5, 0, 3}) {
    config.budget = budget;
    refused(config, "not one for each of 4 adapters");
  }
  config.share = nola::CoefficientSharing::byShape;
  config.budget = 2;
  refused(config, "not one for each of 3 shared vectors");
  config = AdapterConfig();
  config.kind = AdapterKind::lora;
  config.budget = 406;
  refused(config, "LoRA, which trains 407");
  AdapterConfig contradicts;
  contradicts.budget = 100;
  contradicts.rank = 4;
  refused(contradicts, "with a budget");
  contradicts = AdapterConfig();
  contradicts.budget = 100;
  contradicts.frame = nola::BasisFrame::weight;
  refused(contradicts, "with a budget");
}

// Exports networks of many kinds with inputs and what they infer, for run_models.cjs: onnx_networks
// DIRECTORY.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nola/nola.hpp>
#include <nola/onnx.hpp>
#include <string>
#include <utility>
#include <vector>

#include "embedding_bag.hpp"
#include "model_list.hpp"
#include "wide_and_deep.hpp"

namespace {

using examples::ModelList;
using nola::Index;
using nola::Message;
using nola::OnnxAdapters;
using nola::OnnxInputs;
using nola::OnnxOptions;
using nola::Tensor;

/// What a network takes.
enum class Takes { rows, indices, sequencesOfIndices, sequencesOfRows };

template <class T>
void Randomize(nola::ILayer<T>& network, std::uint64_t seed, T deviation) {
  nola::RandomStream random(seed, nola::RandomPurpose::weights);
  nola::Vector<T> parameters = network.GetParameters();
  for (T& value : parameters) value = deviation * random.template NextNormal<T>();
  network.SetParameters(parameters);
}

/// Batches of 1, 7 and 64 through the model, with these inputs beside.
template <class T>
void AddCases(ModelList& cases, const std::string& name, const std::string& model,
              const nola::ILayer<T>& network, Takes takes, const Tensor<T>& pool,
              const std::map<std::string, Tensor<T>>& beside = {}) {
  const std::vector<std::string> fixed = cases.Tensors(beside);
  const bool isSequence = takes == Takes::sequencesOfIndices || takes == Takes::sequencesOfRows;
  for (const Index batch : {1, 7, 64}) {
    const Index length = isSequence ? 12 - batch % 10 : 1;
    const Index rows = batch * length;
    Tensor<T> input(rows, network.InputSize());
    for (Index row = 0; row < rows; ++row) input.row(row) = pool.row(row % pool.rows());
    nola::RowPlan plan;
    if (isSequence) plan.sequences.assign(static_cast<std::size_t>(batch), {.rows = length});
    const Tensor<T> output = network.Infer(input, plan);

    std::vector<Index> shape{batch};
    std::vector<Index> resultShape{batch};
    if (isSequence) {
      shape.push_back(length);
      resultShape.push_back(length);
    }
    if (takes != Takes::sequencesOfIndices) shape.push_back(network.InputSize());
    resultShape.push_back(network.OutputSize());
    std::vector<std::string> inputs = fixed;
    if (takes == Takes::rows || takes == Takes::sequencesOfRows) {
      inputs.push_back(cases.Tensor("input", shape, input));
    } else {
      std::vector<std::int64_t> indices;
      for (Index i = 0; i < input.size(); ++i) indices.push_back(static_cast<std::int64_t>(input.data()[i]));
      inputs.push_back(cases.Tensor("input", shape, indices));
    }
    cases.Add(name, batch, model, inputs, cases.Tensor("output", resultShape, output));
  }
}

/// All modes, and another adapter's numbers fed to the two that have inputs.
template <class T>
void AddAdapted(ModelList& cases, const std::string& name, const std::shared_ptr<nola::ILayer<T>>& network,
                Takes takes, const Tensor<T>& pool, T deviation) {
  Randomize<T>(*network, 5, deviation);
  const std::shared_ptr<nola::ILayer<T>> other = network->Clone();
  Randomize<T>(*other, 6, deviation);
  const auto add = [&](const std::string& mode, const OnnxOptions& options) {
    const std::string model = name + "_" + mode + ".onnx";
    nola::ExportONNX(*network, cases.Path(model), options);
    if (options.adapters != OnnxAdapters::inputs) {
      AddCases(cases, Message({name, " ", mode}), model, *network, takes, pool);
      return;
    }
    for (const auto& fed : {network, other}) {
      AddCases(cases, Message({name, " ", mode, fed == network ? " fed" : " fed another's"}), model, *fed,
               takes, pool, nola::OnnxAdapterInputs(*fed, options.inputs));
    }
  };
  add("merged", {.adapters = OnnxAdapters::merged});
  add("branch", {.adapters = OnnxAdapters::branch});
  add("factors", {.adapters = OnnxAdapters::inputs});
  add("coefficients", {.adapters = OnnxAdapters::inputs, .inputs = OnnxInputs::coefficients});
  const std::string model = name + "_defaults.onnx";
  nola::ExportONNX(*network, cases.Path(model),
                   {.adapters = OnnxAdapters::inputs, .inputsHaveDefaults = true});
  AddCases(cases, name + " defaults", model, *network, takes, pool);
}

template <class T>
void AddPlain(ModelList& cases, const std::string& name, const nola::ILayer<T>& network, Takes takes,
              const Tensor<T>& pool) {
  const std::string model = name + ".onnx";
  nola::ExportONNX(network, cases.Path(model), {.externalDataFrom = name == "mixed" ? 0U : 1U << 31U});
  AddCases(cases, name, model, network, takes, pool);
}

template <class T>
Tensor<T> Normal(Index rows, Index columns, std::uint64_t seed) {
  nola::RandomStream random(seed, nola::RandomPurpose::weights);
  return Tensor<T>::NullaryExpr(rows, columns, [&] { return random.template NextNormal<T>(); });
}

template <class T>
Tensor<T> Indices(Index rows, Index columns, Index count, std::uint64_t seed) {
  nola::RandomStream random(seed, nola::RandomPurpose::weights);
  return Tensor<T>::NullaryExpr(
      rows, columns, [&] { return static_cast<T>(random.NextBelow(static_cast<std::uint64_t>(count))); });
}

std::shared_ptr<nola::ILayer<float>> FashionNetwork(const nola::AdapterConfig& config) {
  auto network = std::make_shared<nola::Sequential<float>>();
  network->Emplace<nola::DenseLayer<float>>("fc1", 784, 512).Emplace<nola::ReLU<float>>("relu1", 512);
  network->Emplace<nola::DenseLayer<float>>("fc2", 512, 512).Emplace<nola::ReLU<float>>("relu2", 512);
  network->Emplace<nola::DenseLayer<float>>("fc3", 512, 10);
  nola::AdaptLayers(*network, config);
  return network;
}

/// The shape of the language detector: the mean embedding of a list of features, dense layers on it, and the
/// sum of the features' own logits.
std::shared_ptr<nola::ILayer<float>> DetectorNetwork(Index length) {
  using Bag = language_detector::EmbeddingBag<float>;
  constexpr Index kBuckets = 5000;
  constexpr Index kLanguages = 54;
  auto embedding = std::make_shared<Bag>(length, Normal<float>(kBuckets, 70, 1), Bag::Mode::mean);
  auto wide = std::make_shared<Bag>(length, Tensor<float>(0.1F * Normal<float>(kBuckets, kLanguages, 2)),
                                    Bag::Mode::sum, Normal<float>(1, kLanguages, 3));
  auto deep = std::make_shared<nola::Sequential<float>>();
  deep->Emplace<nola::DenseLayer<float>>("hidden_0", 70, 512).Emplace<nola::ReLU<float>>("relu_0", 512);
  deep->Emplace<nola::DenseLayer<float>>("hidden_1", 512, 32).Emplace<nola::ReLU<float>>("relu_1", 32);
  deep->Emplace<nola::DenseLayer<float>>("logits", 32, kLanguages);
  auto network = std::make_shared<nola::Sequential<float>>();
  network->Add("features", std::make_shared<language_detector::FeatureSums<float>>(embedding, wide));
  network->Add("head", std::make_shared<language_detector::DeepAndWideLogits<float>>(deep));
  nola::AdaptLayers(*network, {.rank = 8, .numBasisA = 40, .numBasisB = 33});
  return network;
}

/// Lists of indices, some empty.
Tensor<float> Lists(Index rows, Index length, Index count) {
  Tensor<float> lists = Indices<float>(rows, length, count, 9);
  for (Index row = 0; row < rows; ++row) {
    const Index end = row % 5 == 4 ? 0 : (row * 37) % length + 1;
    lists.row(row).tail(length - end).setConstant(-1);
  }
  return lists;
}

template <class T>
std::shared_ptr<nola::ILayer<T>> Decoder(bool isTied, bool byTanh, Index width) {
  auto network = std::make_shared<nola::TransformerDecoder<T>>(
      nola::TransformerDecoderOptions{.vocabularySize = 256,
                                      .positions = 64,
                                      .width = width,
                                      .blocks = 2,
                                      .heads = 4,
                                      .tiedHead = isTied,
                                      .activation = nola::GELUFunction{byTanh}});
  nola::AdaptLayers(
      *network,
      {.targetModules = {"*.query", "*.value", "*.fc"}, .rank = 4, .numBasisA = 96, .numBasisB = 200});
  return network;
}

/// Layers of every other kind.
template <class T>
std::shared_ptr<nola::Sequential<T>> Mixed() {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<nola::DenseLayer<T>>("wide", 5, 12, false);
  network->template Emplace<nola::LayerNorm<T>>("norm", 12);
  const auto branch = [](std::shared_ptr<nola::ILayer<T>> activation, std::uint64_t seed) {
    return std::make_shared<nola::Sequential<T>>(std::make_shared<nola::DenseLayer<T>>(12, 12, true, seed),
                                                 std::move(activation));
  };
  network->Add("gate", std::make_shared<nola::Product<T>>(branch(std::make_shared<nola::Sigmoid<T>>(12), 3),
                                                          branch(std::make_shared<nola::Tanh<T>>(12), 4)));
  network->Add("sum",
               std::make_shared<nola::Sum<T>>(std::make_shared<nola::DenseLayer<T>>(12, 12, false, 5),
                                              std::make_shared<nola::DenseLayer<T>>(12, 12, false, 6)));
  network->Add("columns", std::make_shared<language_detector::MovedColumns<T>>(12, 2, 7, 3, 11));
  network->template Emplace<nola::DenseLayer<T>>("last", 11, 40);
  return network;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "onnx_networks DIRECTORY\n";
    return 2;
  }
  try {
    ModelList cases(argv[1]);
    const Tensor<float> images = Normal<float>(64, 784, 1).cwiseAbs();
    AddAdapted(cases, "fashion", FashionNetwork({.rank = 8, .numBasisA = 64, .numBasisB = 64}), Takes::rows,
               images, 0.1F);
    AddAdapted(
        cases, "fashion_128",
        FashionNetwork({.targetModules = {"fc1", "fc2"}, .rank = 128, .numBasisA = 96, .numBasisB = 96}),
        Takes::rows, images, 0.1F);
    AddAdapted(cases, "detector", DetectorNetwork(300), Takes::indices, Lists(64, 300, 5000), 0.3F);
    const Tensor<float> bytes = Indices<float>(701, 1, 256, 3);
    AddAdapted(cases, "gpt_tied_tanh", Decoder<float>(true, true, 256), Takes::sequencesOfIndices, bytes,
               0.5F);
    AddAdapted(cases, "gpt_untied_exact", Decoder<float>(false, false, 64), Takes::sequencesOfIndices, bytes,
               0.5F);

    AddAdapted<double>(cases, "gpt_double_tanh", Decoder<double>(true, true, 16), Takes::sequencesOfIndices,
                       bytes.cast<double>(), 0.5);
    AddAdapted<double>(cases, "gpt_double_exact", Decoder<double>(false, false, 16),
                       Takes::sequencesOfIndices, bytes.cast<double>(), 0.5);

    AddPlain<float>(cases, "mixed", *Mixed<float>(), Takes::rows, Normal<float>(64, 5, 2));
    AddPlain<double>(cases, "mixed_double", *Mixed<double>(), Takes::rows, Normal<double>(64, 5, 2));
    AddPlain<float>(cases, "attention", nola::CausalSelfAttention<float>(24, 3), Takes::sequencesOfRows,
                    Normal<float>(99, 24, 3));
    AddPlain<float>(cases, "table", nola::Embedding<float>(9, 6), Takes::indices,
                    Indices<float>(64, 1, 9, 4));
    AddPlain<float>(cases, "positions",
                    nola::PositionEmbedding<float>(std::make_shared<nola::Embedding<float>>(16, 6)),
                    Takes::sequencesOfRows, Normal<float>(99, 1, 4));
    cases.Save();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "onnx_networks: " << error.what() << "\n";
    return 1;
  }
}

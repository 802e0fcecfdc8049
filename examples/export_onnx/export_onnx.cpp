// The turned Fashion-MNIST network leaves the process: adapted, exported to ONNX in every mode, with what to
// feed the files and what to expect from them.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <map>
#include <nola/onnx.hpp>
#include <string>
#include <utility>
#include <vector>

#include "experiment.hpp"
#include "model_list.hpp"
#include "training_runs.hpp"

using namespace fashion_mnist;
using nola::Index;
using nola::OnnxAdapters;
using nola::OnnxInputs;

namespace {

struct Options {
  std::filesystem::path data = "/usr/share/datasets/fashion-mnist";
  std::filesystem::path output = "results/export_onnx/models";
  Settings settings;
};

/// Reads the command line. @throws CLI::Error, --help included.
Options Parse(CLI::App& app, int argc, char** argv) {
  Options options;
  Settings& settings = options.settings;
  const CLI::Range atLeastOne(1, 1'000'000);
  app.add_option("--data", options.data, "directory of the four Fashion-MNIST files")->capture_default_str();
  app.add_option("--output", options.output, "directory for the models, made if missing")
      ->capture_default_str();
  app.add_option("--images", settings.images, "images to adapt on")->check(atLeastOne)->capture_default_str();
  app.add_option("--epochs", settings.epochs, "of adapting")->check(atLeastOne)->capture_default_str();
  app.add_option("--pretraining-epochs", settings.pretrainingEpochs, "of the network, on upright images")
      ->check(atLeastOne)
      ->capture_default_str();
  app.parse(argc, argv);
  return options;
}

/// Adds what a model gives for the first 1, 7 and 64 images.
void AddBatches(examples::ModelList& list, const std::string& name, const std::string& model,
                const nola::ILayer<float>& network, const nola::Tensor<float>& images,
                const std::map<std::string, nola::Tensor<float>>& fed = {}) {
  const std::vector<std::string> adapter = list.Tensors(fed);
  for (const Index batch : {1, 7, 64}) {
    const nola::Tensor<float> input = images.topRows(batch);
    const nola::Tensor<float> output = network.Infer(input);
    std::vector<std::string> inputs = adapter;
    inputs.push_back(list.Tensor("input", {batch, input.cols()}, input));
    list.Add(name, batch, model, inputs, list.Tensor("output", {batch, output.cols()}, output));
  }
}

/// Exports a network by each of these ways of its adapters. @param other  the network with another adapter,
/// which is fed to the same files.
void AddAdapted(examples::ModelList& list, const Method& method, const nola::ILayer<float>& network,
                const nola::ILayer<float>& other, const nola::Tensor<float>& images) {
  const std::vector<std::pair<std::string, nola::OnnxOptions>> ways = {
      {"merged", {.adapters = OnnxAdapters::merged}},
      {"branch", {.adapters = OnnxAdapters::branch}},
      {"factors", {.adapters = OnnxAdapters::inputs, .inputs = OnnxInputs::factors}},
      {"coefficients", {.adapters = OnnxAdapters::inputs, .inputs = OnnxInputs::coefficients}}};
  for (const auto& [way, options] : ways) {
    const std::string model = nola::Message({"rank_", method.rank, "_", way, ".onnx"});
    nola::ExportONNX(network, list.Path(model), options);
    const std::string name = method.name + ": " + way;
    if (options.adapters != OnnxAdapters::inputs) {
      AddBatches(list, name, model, network, images);
      continue;
    }
    AddBatches(list, name, model, network, images, nola::OnnxAdapterInputs(network, options.inputs));
    AddBatches(list, name + ", the other adapter", model, other, images,
               nola::OnnxAdapterInputs(other, options.inputs));
  }
}

void AdaptAndExport(const Options& options) {
  examples::ModelList list(options.output);
  const Dataset data = ReadDataset(options.data);
  const Parts parts = Split(data, options.settings);
  std::cout << "training the network on upright images\n" << std::flush;
  const nola::Sequential<float> base = Pretrain(parts.upright, options.settings, {});
  const auto turnedOnce = [](const LabelledImages& images) {
    return LabelledImages{Turned(images.pixels), images.labels};
  };
  const LabelledImages& images = parts.task.test;
  nola::ExportONNX(base, list.Path("base.onnx"));
  AddBatches(list, "the network alone", "base.onnx", base, images.pixels);

  const std::vector<Method> methods = {
      {.name = "NOLA rank 8, 64 bases", .kind = MethodKind::nola, .rank = 8, .numBasis = 64},
      {.name = "NOLA rank 128 on fc1 and fc2, 96 bases",
       .kind = MethodKind::nola,
       .rank = 128,
       .numBasis = 96,
       .layers = {"fc1", "fc2"}}};
  for (const Method& method : methods) {
    const auto adapted = [&](const char* task, const LabelledImages& training, const LabelledImages& test) {
      examples::Run run{.learningRate = 0.016, .seed = 1};  // one seed: the adapters have the same bases
      auto network = Train(base, method, training, test, options.settings, run);
      std::cout << method.name << " on images turned by " << task << " degrees: " << 100 * run.score << " %\n"
                << std::flush;
      return network;
    };
    const auto network = adapted("90", parts.task.training, images);
    const auto other = adapted("180", turnedOnce(parts.task.training), turnedOnce(images));
    AddAdapted(list, method, *network, *other, images.pixels);
  }
  list.Save();
  std::cout << "the models, and what they are to give, are in " << options.output.string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Adapts a network that knows Fashion-MNIST upright to the images turned, and exports it to ONNX: "
      "adapters "
      "merged, as a branch, and as inputs by which one file serves every adapter. run_models.cjs runs the "
      "files "
      "in ONNX Runtime: examples/export_onnx/run.sh does all of it.",
      "export_onnx");
  try {
    AdaptAndExport(Parse(app, argc, argv));
    return 0;
  } catch (const CLI::Error& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::cerr << "export_onnx: " << error.what() << "\n";
    return 1;
  }
}

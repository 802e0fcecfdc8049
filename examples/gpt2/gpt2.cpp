// GPT-2 in its Hugging Face files: fine-tuned through adapters, measured, and made to write.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "byte_pair_tokenizer.hpp"
#include "generation.hpp"
#include "gpt2_model.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/io/adapters/load_adapters.hpp"
#include "nola/io/adapters/save_adapters.hpp"
#include "nola/io/file/atomic_file.hpp"
#include "nola/training/progress_line.hpp"
#include "text_training.hpp"

namespace {

using nola::Index;

struct Settings {
  std::filesystem::path model;
  std::filesystem::path adapter;
  std::filesystem::path textFile;
  std::filesystem::path save = "adapter.safetensors";
  Index context = 256;
  std::vector<std::string> targets = {"*.query", "*.value"};
  std::string kind = "nola";
  Index rank = 8;
  Index bases = 64;
  bool recompute = false;
  text::TrainingOptions training{.steps = 200, .batchSize = 4, .learningRate = 0.01};
  text::EncodeOptions encoding;
  std::string prompt = "The";
  Index length = 100;
  text::SamplingOptions sampling;
};

struct Model {
  std::shared_ptr<text::Network> network;
  text::BytePairTokenizer tokenizer;

  explicit Model(const Settings& settings)
      : network(Load(settings)), tokenizer(settings.model / "vocab.json", settings.model / "merges.txt") {
    if (tokenizer.VocabularySize() > network->OutputSize()) {
      throw nola::FileError(nola::Message({"vocab.json has ", tokenizer.VocabularySize(),
                                           " tokens, the network knows ", network->OutputSize()}));
    }
    if (!settings.adapter.empty()) nola::LoadAdapters<float>(*network, settings.adapter);
  }

 private:
  static std::shared_ptr<text::Network> Load(const Settings& settings) {
    text::RequireGpt2Files(settings.model);
    return text::LoadGpt2(settings.model);
  }
};

text::Tokens ReadTokens(const text::BytePairTokenizer& tokenizer, const Settings& settings) {
  std::ifstream file(settings.textFile, std::ios::binary);
  if (!file) throw nola::FileError("cannot read the text '" + settings.textFile.string() + "'");
  return tokenizer.Encode(std::string(std::istreambuf_iterator<char>(file), {}), settings.encoding);
}

double Perplexity(const text::Network& network, std::span<const std::int32_t> tokens, Index window) {
  return std::exp(text::CrossEntropy(network, tokens, window));
}

void FineTune(const Settings& settings) {
  nola::CheckWritable(settings.save);
  Model model(settings);
  text::Network& network = *model.network;
  const Index window = std::min(settings.context, network.Positions());
  const text::Tokens tokens = ReadTokens(model.tokenizer, settings);
  const std::size_t trained = tokens.size() - tokens.size() / 10;
  const std::span<const std::int32_t> all(tokens);
  std::cout << tokens.size() << " tokens, the last tenth held back" << std::endl;
  const double before = Perplexity(network, all.subspan(trained), window);
  if (settings.adapter.empty()) {
    nola::AdaptLayers<float>(
        network, {.targetModules = settings.targets,
                  .kind = settings.kind == "lora" ? nola::AdapterKind::lora : nola::AdapterKind::nola,
                  .rank = settings.rank,
                  .numBasisA = settings.bases,
                  .numBasisB = settings.bases});
  }
  nola::SetRecompute<float>(network, settings.recompute);
  std::cout << "training " << network.ParameterCount() << " numbers" << std::endl;
  nola::ProgressLine line(isatty(STDOUT_FILENO) == 1 ? &std::cout : nullptr);
  text::TrainingOptions training = settings.training;
  training.length = window;
  training.onStep = [&](const nola::TrainingProgress& progress) { line(progress); };
  text::Train(network, all.first(trained), training);
  std::cout << "perplexity on the held-back text: " << std::fixed << std::setprecision(2) << before
            << " before, " << Perplexity(network, all.subspan(trained), window) << " after\n";
  const nola::AdapterSaveReport report = nola::SaveAdapters<float>(network, settings.save);
  std::cout << "saved " << settings.save.string() << ", " << report.fileBytes << " bytes\n";
}

void Measure(const Settings& settings) {
  Model model(settings);
  const Index window = std::min(settings.context, model.network->Positions());
  const text::Tokens tokens = ReadTokens(model.tokenizer, settings);
  std::cout << "perplexity " << std::fixed << std::setprecision(2)
            << Perplexity(*model.network, tokens, window) << " over " << tokens.size() << " tokens\n";
}

void Write(const Settings& settings) {
  const Model model(settings);
  const text::Tokens prompt = model.tokenizer.Encode(settings.prompt, settings.encoding);
  const std::int32_t known = model.tokenizer.VocabularySize();
  std::cout << settings.prompt;
  text::Generate(*model.network, prompt, settings.length, settings.sampling, [&](std::int32_t token) {
    if (token >= known) return true;  // a padded vocabulary
    if (token == model.tokenizer.EndOfText()) return false;
    std::cout << model.tokenizer.Decode(std::vector<std::int32_t>{token}) << std::flush;
    return true;
  });
  std::cout << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      std::string("Fine-tunes GPT-2 through adapters on query and value, measures its perplexity and lets "
                  "it write.\nData: --model is ") +
      text::kHowToGetGpt2 + ".");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("-m,--model", settings.model, "directory of the model")->required();
  app.add_option("-a,--adapter", settings.adapter, "adapter file to start from");
  app.add_flag(
      "--plain-text{false}", settings.encoding.allowSpecial,
      "<|endoftext|> in a text or prompt is text like any other, not the token that ends a document");
  const auto positive = CLI::Range(Index{1}, Index{1} << 30);

  CLI::App* tune = app.add_subcommand("finetune", "train adapters on a text and save them");
  tune->add_option("-t,--text", settings.textFile, "plain text; its last tenth is held back")->required();
  tune->add_option("-s,--save", settings.save, "adapter file to write")->capture_default_str();
  tune->add_option("--targets", settings.targets, "paths of the layers to adapt")->capture_default_str();
  tune->add_option("--kind", settings.kind, "nola or lora")
      ->capture_default_str()
      ->check(CLI::IsMember({"nola", "lora"}));
  tune->add_option("--rank", settings.rank, "of each adapter")->capture_default_str()->check(positive);
  tune->add_option("--bases", settings.bases, "NOLA coefficients of each factor")
      ->capture_default_str()
      ->check(positive);
  tune->add_option("--steps", settings.training.steps, "training steps")
      ->capture_default_str()
      ->check(positive);
  tune->add_option("--batch", settings.training.batchSize, "windows a step")
      ->capture_default_str()
      ->check(positive);
  tune->add_option("--rate", settings.training.learningRate, "learning rate at its peak")
      ->capture_default_str();
  tune->add_option("--seed", settings.training.seed, "of the windows")->capture_default_str();
  tune->add_flag("--recompute", settings.recompute, "less memory, about a third more time");

  CLI::App* measure = app.add_subcommand("perplexity", "measure the perplexity of a text");
  measure->add_option("-t,--text", settings.textFile, "plain text")->required();
  for (CLI::App* command : {tune, measure}) {
    command->add_option("--context", settings.context, "tokens of a window")
        ->capture_default_str()
        ->check(positive);
  }

  CLI::App* write = app.add_subcommand("generate", "write on after a prompt");
  write->add_option("-p,--prompt", settings.prompt, "beginning of the text")->capture_default_str();
  write->add_option("-n,--length", settings.length, "tokens to write")
      ->capture_default_str()
      ->check(positive);
  write->add_option("--temperature", settings.sampling.temperature, "0 takes the likeliest token")
      ->capture_default_str();
  write->add_option("--top-k", settings.sampling.topK, "choose among so many; 0 for all")
      ->capture_default_str();
  write->add_option("--seed", settings.sampling.seed, "of the choices")->capture_default_str();

  CLI11_PARSE(app, argc, argv);
  try {
    if (tune->parsed()) FineTune(settings);
    if (measure->parsed()) Measure(settings);
    if (write->parsed()) Write(settings);
  } catch (const std::exception& error) {
    std::cerr << "gpt2: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

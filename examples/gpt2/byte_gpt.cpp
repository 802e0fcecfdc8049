// A byte-level GPT, pre-trained on the King James Bible and adapted to the Jargon File by several methods.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "byte_text.hpp"
#include "generation.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/io/save_adapters.hpp"
#include "nola/io/weight_file.hpp"
#include "nola/training/progress_line.hpp"
#include "statistics.hpp"
#include "text_training.hpp"

namespace {

using nola::Index;

struct Settings {
  std::filesystem::path output = "byte_gpt_results";
  std::string pretrainText;
  std::string adaptText = text::kJargonFile;
  Index width = 96;
  Index blocks = 3;
  Index heads = 4;
  Index context = 128;
  Index pretrainSteps = 1500;
  Index steps = 300;
  Index batchSize = 8;
  Index seeds = 3;
  Index nolaRank = 16;
  Index sampleLength = 0;
  std::vector<std::string> methods = {"full", "LoRA r1", "LoRA r4", "NOLA"};
  bool quick = false;
};

std::shared_ptr<text::Network> MakeNetwork(const Settings& settings) {
  auto network =
      std::make_shared<text::Network>(nola::TransformerDecoderOptions{.vocabularySize = 256,
                                                                      .positions = settings.context,
                                                                      .width = settings.width,
                                                                      .blocks = settings.blocks,
                                                                      .heads = settings.heads});
  return network;
}

/// The pre-trained network, from the output directory if it was made with the same settings before.
std::shared_ptr<text::Network> Pretrained(const Settings& settings) {
  const std::filesystem::path path = settings.output / "pretrained.safetensors";
  const std::string madeWith = nola::detail::Message(
      "width ", settings.width, ", blocks ", settings.blocks, ", heads ", settings.heads, ", context ",
      settings.context, ", steps ", settings.pretrainSteps, ", batch ", settings.batchSize, ", text '",
      settings.pretrainText, "'");
  auto network = MakeNetwork(settings);
  if (std::filesystem::exists(path)) {
    const nola::SafetensorsFile file(path);
    const auto made = file.Metadata().find("note.made_with");
    if (made != file.Metadata().end() && made->second == madeWith) {
      nola::LoadWeights<float>(*network, file);
      std::cout << "pre-trained network read from " << path.string() << "\n";
      return network;
    }
  }
  const text::Parts parts(
      text::Bytes(settings.pretrainText.empty() ? text::ReadBible() : text::ReadText(settings.pretrainText)));
  std::cout << "pre-training " << network->ParameterCount() << " numbers on " << parts.training.size()
            << " bytes" << std::endl;
  nola::ProgressLine line(isatty(STDOUT_FILENO) == 1 ? &std::cout : nullptr);
  text::Train(*network, parts.training,
              {.steps = settings.pretrainSteps,
               .batchSize = settings.batchSize,
               .learningRate = 3e-3,
               .weightDecay = 0.01,
               .onStep = [&](const nola::TrainingProgress& progress) { line(progress); }});
  std::cout << "pre-trained: " << std::fixed << std::setprecision(3)
            << text::BitsPerCharacter(*network, parts.test) << " bits per character on held-out text\n";
  nola::SaveWeights<float>(*network, path, nola::NumberType::f32, {{"made_with", madeWith}});
  return network;
}

/// A way to adapt: `prepare` freezes, adapts and leaves what is to train. All are tuned by the same search.
struct Method {
  std::string name;
  double firstRate;
  std::function<void(text::Network&)> prepare;
};

std::vector<Method> Methods(const Settings& settings, const text::Network& pretrained) {
  const auto adapted = [](text::Network& network, nola::AdapterConfig config, const char* layers) {
    config.targetModules = {layers};
    return static_cast<Index>(nola::AdaptLayers<float>(network, config).size());
  };
  const auto lora = [=](Index rank) {
    return [=](text::Network& network) {
      adapted(network, {.kind = nola::AdapterKind::lora, .rank = rank}, "blocks.*");
    };
  };
  // The feed-forward layers alone: trials spent the same numbers there best, by a little.
  const auto nolaOf = [=, rank = settings.nolaRank](Index count) {
    return [=](text::Network& network) {
      return adapted(network, {.rank = rank, .numBasisA = count, .numBasisB = count}, "blocks.*.mlp.*");
    };
  };
  const auto probe = [&] { return std::dynamic_pointer_cast<text::Network>(pretrained.Clone()); };
  const auto reference = probe();
  lora(4)(*reference);
  const Index bases = std::max<Index>(1, reference->ParameterCount() / 20 / nolaOf(1)(*probe()) / 2);
  const std::string nolaName = "NOLA r" + std::to_string(settings.nolaRank) + " k";
  return {{"full", 4e-3, [](text::Network& network) { network.SetTrainable(true); }},
          {"LoRA r1", 4e-2, lora(1)},
          {"LoRA r4", 2e-2, lora(4)},
          {nolaName + std::to_string(bases), 4e-2, nolaOf(bases)},
          {nolaName + std::to_string(5 * bases), 2e-2, nolaOf(5 * bases)}};
}

struct Result {
  std::string method;
  Index numbers = 0;
  std::uint64_t fileBytes = 0;
  double rate = 0;
  std::vector<double> bits;  ///< on the test text, a seed each
  double seconds = 0;        ///< of one training

  double Mean() const { return examples::MeanAndDeviation(bits).mean; }
  double Deviation() const { return examples::MeanAndDeviation(bits).deviation; }
};

/// One method through the search that all go through: from its first rate by factors of 2 uphill until the
/// held-back training text gets worse on both sides of the best; then more seeds at that rate.
class MethodStudy {
 public:
  MethodStudy(const Settings& settings, const text::Network& pretrained, const text::Parts& parts,
              Method method)
      : settings_(settings), pretrained_(pretrained), parts_(parts), method_(std::move(method)) {}

  Result Run() {
    Try(0);
    for (const int direction : {-1, 1}) {
      for (int next = direction; bits_.at(best_) == bits_.at(next - direction); next += direction) Try(next);
    }
    Result result{method_.name, bestNetwork_->ParameterCount(), 0, Rate(best_), {}, seconds_};
    const std::filesystem::path file = settings_.output / (method_.name + ".safetensors");
    result.fileBytes = nola::FindAdapters<float>(*bestNetwork_).empty()
                           ? nola::SaveWeights<float>(*bestNetwork_, file)
                           : nola::SaveAdapters<float>(*bestNetwork_, file).fileBytes;
    result.bits.push_back(text::BitsPerCharacter(*bestNetwork_, parts_.test));
    for (Index seed = 1; seed < settings_.seeds; ++seed) {
      result.bits.push_back(text::BitsPerCharacter(*Train(result.rate, seed), parts_.test));
    }
    return result;
  }

  const text::Network& BestNetwork() const { return *bestNetwork_; }

 private:
  double Rate(int exponent) const { return method_.firstRate * std::pow(2.0, exponent); }

  std::shared_ptr<text::Network> Train(double rate, Index seed) {
    auto network = std::dynamic_pointer_cast<text::Network>(pretrained_.Clone());
    method_.prepare(*network);
    const auto start = std::chrono::steady_clock::now();
    text::Train(*network, parts_.training,
                {.steps = settings_.steps,
                 .batchSize = settings_.batchSize,
                 .learningRate = rate,
                 .seed = 1000 + static_cast<std::uint64_t>(seed)});
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return network;
  }

  void Try(int exponent) {
    std::shared_ptr<text::Network> network;
    double bits = 1e9;  // of a rate that diverges
    try {
      network = Train(Rate(exponent), 0);
      bits = text::BitsPerCharacter(*network, parts_.validation);
    } catch (const nola::StateError&) {
    }
    std::cout << "  " << method_.name << " at " << std::defaultfloat << Rate(exponent) << ": " << std::fixed
              << std::setprecision(3) << bits << " on held-back training text" << std::endl;
    bits_[exponent] = bits;
    if (!bestNetwork_ || bits < bits_.at(best_)) {
      best_ = exponent;
      if (network) bestNetwork_ = network;
    }
  }

  const Settings& settings_;
  const text::Network& pretrained_;
  const text::Parts& parts_;
  Method method_;
  std::map<int, double> bits_;
  int best_ = 0;
  std::shared_ptr<text::Network> bestNetwork_;
  double seconds_ = 0;
};

void PrintTable(const Settings& settings, double frozen, const std::vector<Result>& results) {
  const auto reference = std::find_if(results.begin(), results.end(),
                                      [](const Result& result) { return result.method == "LoRA r4"; });
  std::ofstream csv(settings.output / "results.csv");
  csv << "method,trained_numbers,file_bytes,learning_rate,bits_per_character,deviation,seeds,gap_closed,"
         "seconds\n";
  csv << "frozen,0,0,0," << frozen << ",0,1,0,0\n";
  std::cout << "\nmethod          trained   file bytes      rate  bits/char    +-     of LoRA r4's gap   s\n"
            << "frozen                0            0         -" << std::setw(11) << frozen << "\n";
  for (const Result& result : results) {
    const double closed =
        reference == results.end() ? std::nan("") : (frozen - result.Mean()) / (frozen - reference->Mean());
    std::cout << std::left << std::setw(14) << result.method << std::right << std::setw(9) << result.numbers
              << std::setw(13) << result.fileBytes << std::setw(10) << std::defaultfloat << result.rate
              << std::fixed << std::setprecision(3) << std::setw(11) << result.Mean() << std::setw(8)
              << result.Deviation() << std::setw(14) << std::setprecision(0) << 100 * closed << " %"
              << std::setprecision(1) << std::setw(12) << result.seconds << std::setprecision(3) << "\n";
    csv << result.method << "," << result.numbers << "," << result.fileBytes << "," << std::defaultfloat
        << result.rate << std::fixed << "," << result.Mean() << "," << result.Deviation() << ","
        << result.bits.size() << "," << closed << "," << result.seconds << "\n";
  }
  csv.flush();
  if (!csv) throw nola::FileError("cannot write " + (settings.output / "results.csv").string());
}

void PrintSample(const char* title, const text::Network& network, Index length) {
  std::cout << "\n" << title << ":\n";
  text::Generate(network, text::Bytes("The hacker "), length, {}, [](std::int32_t byte) {
    std::cout << static_cast<char>(byte);
    return true;
  });
  std::cout << "\n";
}

void Run(const Settings& settings) {
  std::filesystem::create_directories(settings.output);
  const text::Parts parts(text::Bytes(text::ReadText(settings.adaptText)));
  const auto pretrained = Pretrained(settings);
  const double frozen = text::BitsPerCharacter(*pretrained, parts.test);
  std::cout << std::fixed << std::setprecision(3) << "frozen: " << frozen
            << " bits per character on the new text, " << parts.training.size() << " bytes to adapt to\n";
  std::vector<Result> results;
  std::shared_ptr<text::Network> adapted;
  for (const Method& method : Methods(settings, *pretrained)) {
    const auto isAsked = [&](const std::string& name) { return method.name.starts_with(name); };
    if (std::none_of(settings.methods.begin(), settings.methods.end(), isAsked)) continue;
    MethodStudy study(settings, *pretrained, parts, method);
    results.push_back(study.Run());
    std::cout << "  " << method.name << ": " << results.back().Mean() << " on the test text" << std::endl;
    if (method.name.starts_with("NOLA") && !adapted) {
      adapted = std::dynamic_pointer_cast<text::Network>(study.BestNetwork().Clone());
    }
  }
  PrintTable(settings, frozen, results);
  if (settings.sampleLength > 0) PrintSample("pre-trained", *pretrained, settings.sampleLength);
  if (settings.sampleLength > 0 && adapted) PrintSample("adapted by NOLA", *adapted, settings.sampleLength);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      std::string(
          "Pre-trains a byte-level GPT on the King James Bible and adapts it to the Jargon File by full "
          "fine-tuning, LoRA and NOLA; prints bits per character and writes results.csv.\nData: ") +
      text::kHowToGetTexts + ".");
  app.add_option("-o,--output", settings.output, "directory for results and the pre-trained network")
      ->capture_default_str();
  app.add_option("--pretrain-text", settings.pretrainText,
                 "plain or gzipped text (default: the command 'bible')");
  app.add_option("--adapt-text", settings.adaptText, "plain or gzipped text")->capture_default_str();
  const auto number = [&](const std::string& name, Index& value, const std::string& what, Index least) {
    return app.add_option(name, value, what)->capture_default_str()->check(CLI::Range(least, Index{1} << 30));
  };
  number("--width", settings.width, "features of a token, a multiple of heads", 1);
  number("--blocks", settings.blocks, "transformer blocks", 1);
  number("--heads", settings.heads, "attention heads", 1);
  number("--context", settings.context, "bytes of a window", 2);
  const auto* pretrainSteps = number("--pretrain-steps", settings.pretrainSteps, "steps of pre-training", 1);
  const auto* steps = number("--steps", settings.steps, "steps of each adaptation", 1);
  number("--batch", settings.batchSize, "windows a step", 1);
  const auto* seeds = number("--seeds", settings.seeds, "trainings a method at its best rate", 1);
  number("--nola-rank", settings.nolaRank, "rank of the NOLA adapters", 1);
  number("--sample", settings.sampleLength, "bytes of text to write before and after", 0);
  app.add_option("--methods", settings.methods, "the methods whose names begin so")->capture_default_str();
  app.add_flag("--quick", settings.quick,
               "a small run that shows that all works: 200 + 40 steps, one seed, where not given otherwise");
  CLI11_PARSE(app, argc, argv);
  if (settings.quick) {
    if (pretrainSteps->count() == 0) settings.pretrainSteps = 200;
    if (steps->count() == 0) settings.steps = 40;
    if (seeds->count() == 0) settings.seeds = 1;
  }
  try {
    Run(settings);
  } catch (const std::exception& error) {
    std::cerr << "byte_gpt: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

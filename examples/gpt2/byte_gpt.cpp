// A byte-level GPT, pre-trained on the King James Bible and adapted to the Jargon File by several methods.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iomanip>
#include <iostream>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "byte_text.hpp"
#include "generation.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/io/adapters/load_adapters.hpp"
#include "nola/io/adapters/save_adapters.hpp"
#include "nola/io/weight_file.hpp"
#include "nola/training/progress_line.hpp"
#include "output_files.hpp"
#include "statistics.hpp"
#include "text_training.hpp"
#include "training_runs.hpp"

namespace {

using nola::Index;

constexpr const char* kTable = "results.csv";
constexpr const char* kPretrained = "pretrained.safetensors";

struct Settings {
  std::filesystem::path output = "byte_gpt_results";
  std::string pretrainText;
  std::string adaptText = text::kJargonFile;
  Index width = 256;
  Index blocks = 2;
  Index heads = 4;
  Index context = 128;
  Index pretrainSteps = 1500;
  Index steps = 300;
  Index batchSize = 8;
  std::uint64_t seeds = 3;
  int searchRounds = 2;
  unsigned workers = 2;
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
  const std::filesystem::path path = settings.output / kPretrained;
  const std::string madeWith =
      nola::Message({"width ", settings.width, ", blocks ", settings.blocks, ", heads ", settings.heads,
                     ", context ", settings.context, ", steps ", settings.pretrainSteps, ", batch ",
                     settings.batchSize, ", text '", settings.pretrainText, "'"});
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
               .optimizer = examples::MakeAdamW(0.01),
               .onStep = [&](const nola::TrainingProgress& progress) { line(progress); }});
  std::cout << "pre-trained: " << std::fixed << std::setprecision(3)
            << text::BitsPerCharacter(*network, parts.test) << " bits per character on held-out text\n";
  nola::SaveWeights<float>(*network, path, nola::NumberType::f32, {{"made_with", madeWith}});
  return network;
}

/// A way to adapt: `prepare` freezes, adapts and leaves what is to train. All are tuned by the same search.
struct Method {
  std::string name;
  std::function<void(text::Network&, std::uint64_t seed)> prepare;
  Index numbers = 0;  ///< that it trains
};

/// Full fine-tuning, LoRA on all layers of the blocks and NOLA on their feed-forward layers, where trials
/// spent the same numbers best: with a twentieth of the numbers of LoRA rank 4, and with twice as many.
std::vector<Method> Methods(const Settings& settings, const text::Network& unadapted) {
  const auto adaptedBy = [](nola::AdapterConfig config, const char* layers) {
    config.targetModules = {layers};
    return [config](text::Network& network, std::uint64_t seed) {
      nola::AdapterConfig seeded = config;
      seeded.seed = 1000 * seed;  // LoRA counts on from it, a layer at a time
      nola::AdaptLayers<float>(network, seeded);
    };
  };
  const auto lora = [&](Index rank) {
    return adaptedBy({.kind = nola::AdapterKind::lora, .rank = rank}, "blocks.*");
  };
  const auto nolaOf = [&](Index bases) {
    return adaptedBy({.rank = settings.nolaRank, .numBasisA = bases, .numBasisB = bases}, "blocks.*.mlp.*");
  };
  const auto numbers = [&](const auto& prepare) {
    const auto network = std::dynamic_pointer_cast<text::Network>(unadapted.Clone());
    prepare(*network, 0);
    return network->ParameterCount();
  };
  std::vector<Method> methods = {
      {"full", [](text::Network& network, std::uint64_t) { network.SetTrainable(true); }},
      {"LoRA r1", lora(1)},
      {"LoRA r4", lora(4)}};
  const Index twentieth = std::max<Index>(1, numbers(lora(4)) / 20 / numbers(nolaOf(1)));
  for (const Index bases : {twentieth, 2 * twentieth}) {
    methods.push_back({nola::Message({"NOLA r", settings.nolaRank, " k", bases}), nolaOf(bases)});
  }
  for (Method& method : methods) method.numbers = numbers(method.prepare);
  return methods;
}

struct Result {
  std::string method;
  Index numbers = 0;
  double rate = 0;
  std::size_t fileBytes = 0;
  examples::Statistics bits;  ///< a character of the test text
  double seconds = 0;         ///< of processor time for one training
};

examples::Progress RunsLine() {
  return isatty(STDERR_FILENO) == 1 ? examples::Progress(examples::RunsLine(std::cerr)) : nullptr;
}

std::string FileName(const Method& method) { return method.name + ".safetensors"; }

/// Tunes all methods by the same search, then trains each with several seeds; the first one's file is kept.
std::vector<Result> Compare(const Settings& settings, const text::Network& pretrained,
                            const text::Parts& parts, const std::vector<Method>& methods) {
  constexpr double kWorst = -8;  // of a run that diverged: a byte has 8 bits
  const auto adapt = [&](examples::Run& run, const text::Tokens& judge) {
    auto network = std::dynamic_pointer_cast<text::Network>(pretrained.Clone());
    methods[run.method].prepare(*network, run.seed);
    examples::TrainAndScore(
        run, kWorst,
        [&] {
          text::Train(*network, parts.training,
                      {.steps = settings.steps,
                       .batchSize = settings.batchSize,
                       .learningRate = run.learningRate,
                       .seed = run.seed});
        },
        [&] { return -text::BitsPerCharacter(*network, judge); });
    return network;
  };
  std::vector<std::size_t> all(methods.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  const auto searched =
      examples::SearchRates(all, {.rounds = settings.searchRounds, .seeds = 1, .workers = settings.workers},
                            RunsLine(), [&](examples::Run& run) { adapt(run, parts.validation); });
  const auto name = [&](std::size_t method) { return methods[method].name; };
  std::cout << examples::DivergedNote(searched, examples::kSearchNote, name);
  std::vector<examples::Run> runs;
  for (const std::size_t method : all) {
    const auto own = examples::FinalRuns(method, searched, settings.seeds);
    std::cout << "  " << methods[method].name << ": best rate " << std::defaultfloat
              << own.front().learningRate << std::fixed << std::endl;
    runs.insert(runs.end(), own.begin(), own.end());
  }
  examples::ForEachRun(runs, settings.workers, "final runs", RunsLine(), [&](examples::Run& run) {
    const auto network = adapt(run, parts.test);
    if (run.seed > 1 || run.diverged) return;
    const std::filesystem::path file = settings.output / FileName(methods[run.method]);
    run.fileBytes = nola::FindAdapters<float>(*network).empty()
                        ? nola::SaveWeights<float>(*network, file)
                        : nola::SaveAdapters<float>(*network, file).fileBytes;
  });
  std::cout << examples::DivergedNote(runs, examples::kFinalNote, name);
  std::vector<Result> results;
  for (const std::size_t method : all) {
    Result result;
    result.method = methods[method].name;
    result.numbers = methods[method].numbers;
    const std::vector<examples::Run> own = nola::TrialsOf(runs, method);
    const examples::Summary summary = examples::Summarise(own);
    result.rate = own.front().learningRate;
    result.fileBytes = summary.fileBytes;
    result.bits = {-summary.score.mean, summary.score.deviation};
    result.seconds = summary.cpuSeconds;
    results.push_back(result);
  }
  return results;
}

void PrintTable(const Settings& settings, double frozen, const std::vector<Result>& results) {
  const auto reference = std::find_if(results.begin(), results.end(),
                                      [](const Result& result) { return result.method == "LoRA r4"; });
  examples::TextFile file;
  std::ostream& csv = file.Stream();
  csv << "method,trained_numbers,file_bytes,learning_rate,bits_per_character,deviation,seeds,gap_closed,"
         "seconds\n";
  csv << "frozen,0,0,0," << frozen << ",0,1,0,0\n";
  std::cout << "\nmethod          trained   file bytes      rate  bits/char    +-     of LoRA r4's gap   s\n"
            << "frozen                0            0         -" << std::setw(11) << frozen << "\n";
  for (const Result& result : results) {
    const double closed = reference == results.end()
                              ? std::nan("")
                              : (frozen - result.bits.mean) / (frozen - reference->bits.mean);
    std::cout << std::left << std::setw(14) << result.method << std::right << std::setw(9) << result.numbers
              << std::setw(13) << result.fileBytes << std::setw(10) << std::defaultfloat << result.rate
              << std::fixed << std::setprecision(3) << std::setw(11) << result.bits.mean << std::setw(8)
              << result.bits.deviation << std::setw(14) << std::setprecision(0) << 100 * closed << " %"
              << std::setprecision(1) << std::setw(12) << result.seconds << std::setprecision(3) << "\n";
    csv << result.method << "," << result.numbers << "," << result.fileBytes << "," << std::defaultfloat
        << result.rate << std::fixed << "," << result.bits.mean << "," << result.bits.deviation << ","
        << settings.seeds << "," << closed << "," << result.seconds << "\n";
  }
  file.Save(settings.output / kTable);
}

void PrintSample(const std::string& title, const text::Network& network, Index length) {
  std::cout << "\n" << title << ":\n";
  text::Generate(network, text::Bytes("The hacker "), length, {}, [](std::int32_t byte) {
    std::cout << static_cast<char>(byte);
    return true;
  });
  std::cout << "\n";
}

void Run(const Settings& settings) {
  std::vector<Method> methods = Methods(settings, *MakeNetwork(settings));
  std::erase_if(methods, [&](const Method& method) {
    return std::none_of(settings.methods.begin(), settings.methods.end(),
                        [&](const std::string& name) { return method.name.starts_with(name); });
  });
  std::vector<std::string> outputs{kTable, kPretrained};
  for (const Method& method : methods) outputs.push_back(FileName(method));
  examples::PrepareOutputs(settings.output, outputs);
  const text::Parts parts(text::Bytes(text::ReadText(settings.adaptText)));
  const auto pretrained = Pretrained(settings);
  const double frozen = text::BitsPerCharacter(*pretrained, parts.test);
  std::cout << std::fixed << std::setprecision(3) << "frozen: " << frozen
            << " bits per character on the new text, " << parts.training.size() << " bytes to adapt to\n";
  PrintTable(settings, frozen, Compare(settings, *pretrained, parts, methods));
  if (settings.sampleLength == 0) return;
  PrintSample("pre-trained", *pretrained, settings.sampleLength);
  for (const Method& method : methods) {
    if (!method.name.starts_with("NOLA")) continue;
    const auto network = std::dynamic_pointer_cast<text::Network>(pretrained->Clone());
    nola::LoadAdapters<float>(*network, settings.output / FileName(method));
    PrintSample("adapted by " + method.name, *network, settings.sampleLength);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  settings.workers = std::max(1U, std::thread::hardware_concurrency());
  CLI::App app(
      std::string(
          "Pre-trains a byte-level GPT on the King James Bible and adapts it to the Jargon File by full "
          "fine-tuning, LoRA and NOLA; prints bits per character and writes results.csv.\nData: ") +
      text::kHowToGetTexts + "; elsewhere name two plain texts with --pretrain-text and --adapt-text.");
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
  const auto* seeds = app.add_option("--seeds", settings.seeds, "trainings a method at its best rate")
                          ->capture_default_str()
                          ->check(CLI::Range(1, 1000));
  const auto* rounds =
      app.add_option("--search-rounds", settings.searchRounds,
                     "rounds of the search over learning rates: 4 rates in the first, 2 in each further one")
          ->capture_default_str()
          ->check(CLI::Range(1, 10));
  app.add_option("--workers", settings.workers, "trainings at a time; changes no result")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  number("--nola-rank", settings.nolaRank, "rank of the NOLA adapters", 1);
  number("--sample", settings.sampleLength, "bytes of text to write before and after", 0);
  app.add_option("--methods", settings.methods, "the methods whose names begin so")->capture_default_str();
  app.add_flag("--quick", settings.quick,
               "a small run that shows that all works: 200 + 40 steps, one seed, one round, where not given "
               "otherwise");
  CLI11_PARSE(app, argc, argv);
  if (settings.quick) {
    if (pretrainSteps->count() == 0) settings.pretrainSteps = 200;
    if (steps->count() == 0) settings.steps = 40;
    if (seeds->count() == 0) settings.seeds = 1;
    if (rounds->count() == 0) settings.searchRounds = 1;
  }
  try {
    Run(settings);
  } catch (const std::exception& error) {
    std::cerr << "byte_gpt: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

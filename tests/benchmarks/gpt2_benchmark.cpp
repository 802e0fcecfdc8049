// GPT-2 124M with adapters of rank 8 on query and value: a training step, inference and generation beside the
// products that its frozen weights need, by our kernels and by OpenBLAS. Weights are random.
//   --threads N    of both libraries; 1
//   --profile 1    where a step's time goes
//   --formats 1    instead, frozen weights in every format: a step beside f32's, a token beside the time in
//                  which the machine reads the weights, memory
//   --serve 1      answers "lora", "nola" or "infer" on standard input with the seconds that it took
#include "counting_allocator.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "measure.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/adapters/quantize_layers.hpp"
#include "nola/kernels/parallel.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/text_windows.hpp"
#include "nola/training/update.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "openblas.hpp"
#include "timed_layer.hpp"

using benchmarks::Race;
using benchmarks::Report;
using nola::Index;
using nola::Tensor;

namespace {

using Network = std::shared_ptr<nola::ILayer<float>>;
using Decoder = nola::TransformerDecoder<float>;

struct Shape {
  Index sequences, tokens;
  Index Rows() const { return sequences * tokens; }
};

/// The network without adapters; all that follow share its weights.
std::shared_ptr<Decoder> MakeBase(const nola::TransformerDecoderOptions& options) {
  auto base = std::make_shared<Decoder>(options);
  std::uint32_t state = 1;
  for (auto& parameter : base->Parameters()) {
    if (parameter.name.ends_with("norm.weight") || parameter.name.ends_with("bias")) continue;
    for (float& value : parameter.value.reshaped()) {  // GPT-2's deviation; drawing normals takes seconds
      state = state * 1664525U + 1013904223U;
      value = (static_cast<float>(state >> 8) / 8388608.0F - 1.0F) * 0.035F;
    }
  }
  base->ParametersChanged();
  base->SetTrainable(false);
  return base;
}

/// A network that trains, as a user's program does it.
class Training {
 public:
  Training(const Decoder& base, nola::AdapterKind kind, const Shape& shape)
      : network_(base.CloneSharingFrozen()),
        text_(static_cast<std::size_t>(4 * shape.Rows())),
        source_(Draw(base.OutputSize()), {.length = shape.tokens, .batchSize = shape.sequences}) {
    nola::AdaptLayers<float>(*network_, {.targetModules = {"*.query", "*.value"},
                                         .kind = kind,
                                         .rank = 8,
                                         .numBasisA = 1000,
                                         .numBasisB = 1000});
    optimizer_ = std::make_unique<nola::AdamW<float>>(*network_);
    update_ = std::make_unique<nola::Update<float>>(*network_, *optimizer_);
  }

  void Step() {
    source_.Fill(0, batch_);
    update_->Run(batch_.inputs, nola::Pass{.rows = &batch_.rows},
                 *source_.AsCrossEntropy(0, batch_.inputs.rows()), 1e-5F);
  }
  void Infer() {
    source_.Fill(0, batch_);
    network_->Infer(batch_.inputs, output_, batch_.rows);
  }
  nola::ILayer<float>& Net() { return *network_; }

 private:
  std::span<const std::int32_t> Draw(Index vocabulary) {
    std::uint32_t state = 7;
    for (std::int32_t& token : text_) {
      state = state * 1664525U + 1013904223U;
      token = static_cast<std::int32_t>((state >> 8) % static_cast<std::uint32_t>(vocabulary));
    }
    return text_;
  }

  Network network_;
  std::vector<std::int32_t> text_;
  nola::TextWindows<float> source_;
  std::unique_ptr<nola::AdamW<float>> optimizer_;
  std::unique_ptr<nola::Update<float>> update_;
  nola::TrainingBatch<float> batch_;
  Tensor<float> output_;
};

/// The products of a step that its frozen weights need, as bare products: of every dense layer and the head,
/// forward and the gradient of their input. Those of attention are not among them, nor is the input gradient
/// of the lowest query, key and value, below which nothing trains.
class Products {
 public:
  Products(const Decoder& base, Index rows) : rows_(rows) {
    nola::VisitLayers<float>(base, [&](const std::string& path, const auto& layer) {
      const auto* const dense = dynamic_cast<const nola::DenseLayer<float>*>(layer.get());
      const auto* const table = dynamic_cast<const nola::Embedding<float>*>(layer.get());
      const bool isLowest = path.starts_with("blocks.0.attention.") && !path.ends_with("output");
      if (dense != nullptr) Add(dense->Weights(), false, !isLowest);
      if (table != nullptr && path == "token_embedding") head_ = &table->Weights();
      return true;
    });
    Add(*head_, true, true);
  }

  double Operations() const {
    double sum = 0;
    for (const Product& product : products_) {
      sum += (product.backward ? 4.0 : 2.0) * static_cast<double>(rows_) *
             static_cast<double>(product.weight->size());
    }
    return sum;
  }

  template <class Multiply>
  void Run(bool backward, const Multiply& multiply) {
    for (const Product& product : products_) {
      const Tensor<float>& weight = *product.weight;
      const Index in = product.transposed ? weight.cols() : weight.rows();
      const Index out = product.transposed ? weight.rows() : weight.cols();
      multiply(left_.at(in), weight, product.transposed, results_.at(out));
    }
    for (auto product = products_.rbegin(); backward && product != products_.rend(); ++product) {
      if (!product->backward) continue;
      const Tensor<float>& weight = *product->weight;
      const Index in = product->transposed ? weight.cols() : weight.rows();
      const Index out = product->transposed ? weight.rows() : weight.cols();
      multiply(left_.at(out), weight, !product->transposed, results_.at(in));
    }
  }

  void Ours(bool backward) {
    Run(backward, [](const auto& left, const auto& weight, bool transposed, auto& result) {
      if (transposed) {
        nola::detail::SetProduct(left, weight.transpose(), result);
      } else {
        nola::detail::SetProduct(left, weight, result);
      }
    });
  }

#ifdef NOLA_OPENBLAS
  void OpenBlas(bool backward) {
    Run(backward, [](const auto& left, const auto& weight, bool transposed, auto& result) {
      const auto size = [](Index number) { return static_cast<int>(number); };
      cblas_sgemm(101, 111, transposed ? 112 : 111, size(left.rows()), size(result.cols()), size(left.cols()),
                  1, left.data(), size(left.cols()), weight.data(), size(weight.cols()), 0, result.data(),
                  size(result.cols()));
    });
  }

  /// OpenBLAS has kernels that compute wrong results on processors newer than it.
  bool OpenBlasIsRight() {
    Ours(true);
    const std::map<Index, Tensor<float>> ours = results_;
    OpenBlas(true);
    for (const auto& [width, result] : results_) {
      if (!((result - ours.at(width)).norm() < 1e-3F * ours.at(width).norm())) return false;
    }
    return true;
  }
#endif

 private:
  struct Product {
    const Tensor<float>* weight;
    bool transposed;  ///< y = x W^T
    bool backward;
  };

  void Add(const Tensor<float>& weight, bool transposed, bool backward) {
    products_.push_back({&weight, transposed, backward});
    for (const Index width : {weight.rows(), weight.cols()}) {
      if (left_.contains(width)) continue;
      left_[width] = Tensor<float>::Random(rows_, width);
      results_[width].resize(rows_, width);
    }
  }

  Index rows_;
  const Tensor<float>* head_ = nullptr;
  std::vector<Product> products_;
  std::map<Index, Tensor<float>> left_;     // by width
  std::map<Index, Tensor<float>> results_;  // by width
};

std::string Group(const Shape& shape, int threads) {
  return "GPT-2, " + std::to_string(shape.sequences) + "x" + std::to_string(shape.tokens) + ", " +
         std::to_string(threads) + (threads > 1 ? " threads" : " thread");
}

void Compare(const Decoder& base, const Shape& shape, int threads, double seconds, Report& report) {
  const std::string group = Group(shape, threads);
  Training lora(base, nola::AdapterKind::lora, shape);
  Training nola(base, nola::AdapterKind::nola, shape);
  if (test::kCountsAllocations) {  // of the first step: all that it makes is above the weights
    const auto bytes = static_cast<double>(test::PeakBytesOf([&] { lora.Step(); }));
    report.Add(group, "memory of a step", {{"peak_bytes", bytes}});
  }
  Products products(base, shape.Rows());
  Race race;
  race.Add("products, ours", [&] { products.Ours(true); });
  bool openBlas = false;
#ifdef NOLA_OPENBLAS
  openBlas = products.OpenBlasIsRight();
  if (openBlas) race.Add("products, OpenBLAS", [&] { products.OpenBlas(true); });
  if (openBlas) race.Add("products forward, OpenBLAS", [&] { products.OpenBlas(false); });
  if (!openBlas) std::cout << "OpenBLAS computes wrong products here: see OPENBLAS_CORETYPE. Left out.\n";
#endif
  race.Add("LoRA", [&] { lora.Step(); });
  race.Add("NOLA", [&] { nola.Step(); });
  race.Add("inference", [&] { lora.Infer(); });
  race.Run(seconds);
  report.AddCases(group, race);
  const auto rows = static_cast<double>(shape.Rows());
  for (const char* const name : {"LoRA", "NOLA", "inference"}) {
    report.Add(group, name, {{"tokens_per_second", rows / race.Seconds(name)}});
  }
  for (const std::string& name : race.Names()) {
    if (!name.starts_with("products, ")) continue;
    report.Add(group, name, {{"gflops", products.Operations() / race.Seconds(name) / 1e9}});
    report.Add(group, "LoRA / " + name, {{"value", race.Ratio("LoRA", name)}});
  }
  if (openBlas && shape.tokens == 256) {
    report.AddBar(group, "step / its products by OpenBLAS", race.Ratio("LoRA", "products, OpenBLAS"), true,
                  1.15);
    report.Add(group, "inference / its products by OpenBLAS",
               {{"value", race.Ratio("inference", "products forward, OpenBLAS")}});
  }
  if (shape.tokens == 256) report.AddBar(group, "NOLA / LoRA", race.Ratio("NOLA", "LoRA"), true, 1.02);
}

/// One token after another.
void Generate(const Decoder& base, Index count, int threads, Report& report) {
  nola::KeyValueCache<float> cache = base.MakeCache();
  Tensor<float> logits;
  const Tensor<float> token = Tensor<float>::Constant(1, 1, 1);
  Race race;
  race.Add("next token", [&] {
    cache.SetLength(count);
    base.InferNext(token, cache, logits);
  });
  base.InferNext(Tensor<float>::Constant(count, 1, 1), cache, logits);
  race.Run(3);
  report.Add("GPT-2, generation, " + std::to_string(threads) + " threads",
             "after " + std::to_string(count) + " tokens",
             {{"tokens_per_second", 1 / race.Seconds("next token")}});
}

/// Reads from four places at a time, which keeps more of the memory busy than one. Up to 31 bytes are left.
void ReadPiece(std::span<const std::byte> bytes) {
  constexpr std::size_t kPlaces = 4;
  std::array<std::uint64_t, kPlaces> words{};
  constexpr std::size_t kWord = sizeof words[0];
  const std::size_t size = bytes.size() / kPlaces / kWord * kWord;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < size; i += kWord) {
    for (std::size_t place = 0; place < kPlaces; ++place) {
      std::memcpy(&words[place], bytes.data() + place * size + i, kWord);
    }
    sum += (words[0] + words[1]) + (words[2] + words[3]);
  }
  benchmarks::Use(&sum);
}

/// The network with all of its weights in a format, and what a token reads of them: all but the positions.
struct Frozen {
  Frozen(const Decoder& base, nola::WeightFormat format)
      : name(nola::WeightFormatName(format)), cache(base.MakeCache()) {
    bytesAtRest = static_cast<double>(test::BytesKeptBy([&] {
      network = std::dynamic_pointer_cast<Decoder>(base.CloneSharingFrozen());
      nola::QuantizeLayers(network, {"*"}, format);
    }));
    nola::VisitLayers<float>(*network, [&](const std::string& path, const auto& layer) {
      if (path == "position_embedding") return true;
      for (const nola::StoredWeight& stored : layer->OwnStoredWeights()) {
        const nola::EncodedMatrix& matrix = stored.weight->Matrix();
        const auto size = [&](Index stride) { return static_cast<std::size_t>(matrix.rows * stride); };
        weights.emplace_back(matrix.levels, size(matrix.levelStride));
        if (matrix.scales != nullptr) weights.emplace_back(matrix.scales, size(matrix.scaleStride));
      }
      return true;
    });
  }

  double WeightBytes() const {
    return std::accumulate(weights.begin(), weights.end(), 0.0, [](double sum, const auto& bytes) {
      return sum + static_cast<double>(bytes.size());
    });
  }

  /// As little as a token can take: no more is done with the bytes than reading needs.
  void Read() const {
    constexpr std::size_t kPiece = 1 << 18;
    for (const std::span<const std::byte> bytes : weights) {
      const std::size_t pieces = (bytes.size() + kPiece - 1) / kPiece;
      const auto read = [&](Index piece) {
        const std::size_t first = static_cast<std::size_t>(piece) * kPiece;
        ReadPiece(bytes.subspan(first, std::min(kPiece, bytes.size() - first)));
      };
      nola::detail::ParallelFor(static_cast<Index>(pieces), 0.1 * static_cast<double>(bytes.size()), read);
    }
  }

  void NextToken(Index after) {
    cache.SetLength(after);
    network->InferNext(Tensor<float>::Constant(1, 1, 1), cache, logits);
  }

  std::string name;
  std::shared_ptr<Decoder> network;
  nola::KeyValueCache<float> cache;
  Tensor<float> logits;
  double bytesAtRest = 0;
  std::vector<std::span<const std::byte>> weights;
};

/// The heap's growth in a first step, by a thread that has no scratch from steps before.
double PeakBytesOfFirstStep(Training& training, [[maybe_unused]] int threads) {
  std::int64_t bytes = 0;
  std::thread([&] {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    bytes = test::PeakBytesOf([&] { training.Step(); });
  }).join();
  return static_cast<double>(bytes);
}

/// Training, generation and memory with the weights in every format.
void CompareFormats(const Decoder& base, const Shape& shape, Index generated, int threads, double seconds,
                    Report& report) {
  using nola::WeightFormat;
  std::vector<std::unique_ptr<Frozen>> frozen;
  std::vector<std::unique_ptr<Training>> trainings;
  std::vector<double> peaks;
  Race tokens;
  Race steps;
  for (const WeightFormat format : nola::kWeightFormats) {
    Frozen& each = *frozen.emplace_back(std::make_unique<Frozen>(base, format));
    Training& training =
        *trainings.emplace_back(std::make_unique<Training>(*each.network, nola::AdapterKind::nola, shape));
    peaks.push_back(PeakBytesOfFirstStep(training, threads));
    steps.Add(each.name, [&] { training.Step(); });
    each.network->InferNext(Tensor<float>::Constant(generated, 1, 1), each.cache, each.logits);
    tokens.Add(each.name, [&, generated] { each.NextToken(generated); });
    tokens.Add("read " + each.name, [&] { each.Read(); });
  }
  tokens.Run(seconds);
  steps.Run(seconds);
  const std::string group = Group(shape, threads) + ", by format";
  for (std::size_t i = 0; i < frozen.size(); ++i) {
    const std::string& name = frozen[i]->name;
    const double bytes = frozen[i]->WeightBytes();
    Report::Numbers numbers{{"tokens_per_second", 1 / tokens.Seconds(name)},
                            {"reading_over_token", tokens.Ratio("read " + name, name)},
                            {"read_bytes_per_second", bytes / tokens.Seconds("read " + name)},
                            {"token_over_f32", tokens.Ratio(name, "f32")},
                            {"step_seconds", steps.Seconds(name)},
                            {"step_over_f32", steps.Ratio(name, "f32")}};
    if (test::kCountsAllocations) {
      numbers.emplace_back("rest_bytes", frozen[i]->bytesAtRest);
      numbers.emplace_back("step_bytes", peaks[i]);
    }
    report.Add(group, name, numbers);
  }
  for (const char* const name : {"int8", "int4"}) {
    report.AddBar(group, std::string("step, ") + name + " / f32", steps.Ratio(name, "f32"), true, 1.15);
  }
}

/// Adds to where the time of steps goes.
void Profile(const Decoder& base, const Shape& shape, Report& report) {
  Training training(base, nola::AdapterKind::lora, shape);
  benchmarks::Timing timing(training.Net());
  const auto bytes = static_cast<double>(test::PeakBytesOf([&] { training.Step(); }));
  timing.Clear();
  constexpr int kSteps = 3;
  const double start = benchmarks::Now();
  for (int step = 0; step < kSteps; ++step) training.Step();
  const double total = (benchmarks::Now() - start) / kSteps;
  for (const auto& [part, times] : timing.ByPart(kSteps)) {
    report.Add("profile", part,
               {{"forward", times[0]}, {"backward", times[1]}, {"share", (times[0] + times[1]) / total}});
  }
  report.Add("profile", "all", {{"seconds", total}, {"peak_bytes", bytes}});
}

/// Does what every line asks for, and answers with its seconds: for a program that takes turns with this one.
void Serve(const Decoder& base, const Shape& shape) {
  std::map<std::string, std::unique_ptr<Training>> trainings;
  trainings["lora"] = std::make_unique<Training>(base, nola::AdapterKind::lora, shape);
  trainings["nola"] = std::make_unique<Training>(base, nola::AdapterKind::nola, shape);
  std::string line;
  while (std::getline(std::cin, line)) {
    const double start = benchmarks::Now();
    if (line == "infer") {
      trainings.at("lora")->Infer();
    } else {
      trainings.at(line)->Step();
    }
    std::cout << benchmarks::Now() - start << std::endl;
  }
}

}  // namespace

int main(int argumentCount, char** argumentValues) {
  try {
    const benchmarks::Arguments arguments(argumentCount, argumentValues);
    const int threads = std::stoi(arguments.Get("threads", "1"));
    const Index sequences = std::stol(arguments.Get("sequences", "0"));
    Shape shape{sequences, std::stol(arguments.Get("tokens", "256"))};
    nola::TransformerDecoderOptions options{.vocabularySize = 50257,
                                            .positions = 1024,
                                            .width = 768,
                                            .blocks = std::stol(arguments.Get("blocks", "12")),
                                            .heads = 12,
                                            .initialization = nola::Initialization::none};
    if (arguments.Quick()) {
      options = {.vocabularySize = 100, .positions = 16, .width = 64, .blocks = 2, .heads = 2};
      shape = {2, 8};
    }
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    if (threads > 1) throw std::invalid_argument("built without OpenMP: one thread");
#endif
#ifdef NOLA_OPENBLAS
    openblas_set_num_threads(threads);
#endif
    const auto base = MakeBase(options);
    if (!arguments.Get("serve").empty()) {
      Serve(*base, shape);
      return 0;
    }
    Report report;
    const double seconds = arguments.Quick() ? 0 : std::stod(arguments.Get("seconds", "20"));
    const Index generated = arguments.Quick() ? 4 : 64;
    const bool byFormat = !arguments.Get("formats").empty();
    if (byFormat || arguments.Quick()) {
      CompareFormats(*base, shape.sequences == 0 ? Shape{1, 256} : shape, generated, threads, seconds,
                     report);
    }
    if (!arguments.Get("profile").empty()) {
      Profile(*base, shape, report);
    } else if (!byFormat) {
      // OpenMP's threads would go on spinning while OpenBLAS's want the cores.
      const char* const wait = std::getenv("OMP_WAIT_POLICY");
      if (wait == nullptr && threads > 1) std::cout << "set OMP_WAIT_POLICY=passive, or OpenBLAS is slowed\n";
#ifdef NOLA_OPENBLAS
      std::cout << "OpenBLAS for " << openblas_get_corename() << '\n';
#else
      std::cout << "built without OpenBLAS: CMake found none (Debian: apt install libopenblas-pthread-dev)\n";
#endif
      std::vector<Shape> shapes{shape};
      if (shape.sequences == 0) shapes = {{2, 256}, {8, 64}};
      for (const Shape& each : shapes) Compare(*base, each, threads, seconds, report);
      Generate(*base, generated, threads, report);
    }
    report.Write(arguments.Get("json"));
  } catch (const std::exception& error) {
    std::cerr << "gpt2_benchmark: " << error.what() << '\n';
    return 1;
  }
}

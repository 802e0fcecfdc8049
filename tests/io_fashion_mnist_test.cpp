// An adapter trained on real data classifies as well after its file as before.
#include <array>
#include <cstdio>

#include "catch.hpp"
#include "io_files.hpp"

namespace {

using nola::Index;

constexpr const char* kDirectory = "/usr/share/datasets/fashion-mnist/";

/// The first bytes of a gzipped file.
std::vector<std::uint8_t> Gunzip(const std::string& name, std::size_t most) {
  FILE* pipe = popen(("gunzip -c " + std::string(kDirectory) + name + "-ubyte.gz 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run gunzip");
  std::vector<std::uint8_t> bytes(most);
  bytes.resize(std::fread(bytes.data(), 1, most, pipe));
  pclose(pipe);
  return bytes;
}

struct Images {
  nola::Tensor<float> pixels;
  std::vector<std::int32_t> labels;
};

Images Read(const std::string& part, Index count) {
  const auto pixels = Gunzip(part + "-images-idx3", static_cast<std::size_t>(16 + count * 784));
  const auto labels = Gunzip(part + "-labels-idx1", static_cast<std::size_t>(8 + count));
  Images images{nola::Tensor<float>(count, 784), std::vector<std::int32_t>(labels.begin() + 8, labels.end())};
  for (Index i = 0; i < images.pixels.size(); ++i) {
    images.pixels.data()[i] = static_cast<float>(pixels.at(static_cast<std::size_t>(16 + i))) / 255.0F;
  }
  return images;
}

nola::Tensor<float> Turned(const nola::Tensor<float>& upright) {
  nola::Tensor<float> turned(upright.rows(), 784);
  for (Index row = 0; row < 28; ++row) {
    for (Index column = 0; column < 28; ++column) {
      turned.col(column * 28 + 27 - row) = upright.col(row * 28 + column);
    }
  }
  return turned;
}

std::shared_ptr<nola::Sequential<float>> Network() {
  auto network = std::make_shared<nola::Sequential<float>>();
  network->Emplace<nola::DenseLayer<float>>("fc1", 784, 512, true, 1U);
  network->Emplace<nola::ReLU<float>>("relu1", 512);
  network->Emplace<nola::DenseLayer<float>>("fc2", 512, 512, true, 2U);
  network->Emplace<nola::ReLU<float>>("relu2", 512);
  network->Emplace<nola::DenseLayer<float>>("fc3", 512, 10, true, 3U);
  return network;
}

void Train(nola::Sequential<float>& network, const nola::Tensor<float>& pixels,
           const std::vector<std::int32_t>& labels, Index epochs, double rate) {
  nola::AdamW<float> optimizer(network);
  nola::Trainer<float> trainer(
      network, optimizer, {.epochs = epochs, .batchSize = 128, .learningRate = rate, .warmupFraction = 0.1});
  trainer.Run(pixels, nola::ClassificationLoss<float>(labels));
}

}  // namespace

TEST_CASE(
    "Fashion-MNIST, turned: the same accuracy after the file, in a new process, and with int8 to 0.2 point",
    "[long]") {
  if (!std::filesystem::exists(kDirectory)) {
    WARN("skipped: no Fashion-MNIST (Debian: apt install dataset-fashion-mnist)");
    return;
  }
  const test::TemporaryDirectory directory;
  const Images training = Read("train", 20000);
  const Images testing = Read("t10k", 10000);
  const nola::Tensor<float> turned = Turned(testing.pixels);
  const auto network = Network();
  Train(*network, training.pixels, training.labels, 1, 1e-3);
  SaveWeights(*network, directory / "base");
  const double before = EvaluateAccuracy<float>(*network, turned, testing.labels);
  nola::AdapterConfig config;
  config.numBasisA = config.numBasisB = 256;
  config.distribution = nola::BasisDistribution::hadamard;
  nola::AdaptLayers(network, config);
  Train(*network, Turned(training.pixels), training.labels, 2, 0.03);
  const double after = EvaluateAccuracy<float>(*network, turned, testing.labels);
  CHECK(after > before + 0.4);

  using nola::CoefficientFormat;
  std::string table =
      "turned images: " + std::to_string(before) + " before, " + std::to_string(after) + " adapted\n";
  for (const auto& [format, tolerance] :
       std::array<std::pair<CoefficientFormat, double>, 4>{{{CoefficientFormat::exact, 0},
                                                            {CoefficientFormat::float16, 0.002},
                                                            {CoefficientFormat::int8, 0.002},
                                                            {CoefficientFormat::int4, 0.05}}}) {
    const auto report = SaveAdapters(*network, directory / "adapter", {.coefficients = format});
    const pid_t child = test::Start([&] {
      const auto loaded = Network();
      LoadWeights(*loaded, directory / "base");
      LoadAdapters(*loaded, directory / "adapter");
      const double accuracy = EvaluateAccuracy<float>(*loaded, turned, testing.labels);
      test::WriteFile(directory / "accuracy", std::as_bytes(std::span(&accuracy, 1)));
      return 0;
    });
    REQUIRE(test::WaitFor(child) == 0);
    const auto accuracy =
        nola::detail::LoadLittleEndian<double>(test::ReadFile(directory / "accuracy").data());
    table += std::string(CoefficientFormatName(format)) + ": " + std::to_string(report.fileBytes) +
             " bytes, accuracy " + std::to_string(accuracy) + ", error of the coefficients " +
             std::to_string(report.relativeError) + "\n";
    CHECK(std::abs(accuracy - after) <= tolerance);
    if (format == CoefficientFormat::exact) CHECK(report.fileBytes < 8000);
  }
  WARN(table);
}

// What the language detector promises about its parts. The whole is compared with the npm package itself by
// compare_with_package.sh.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "adaptation.hpp"
#include "bigrams.hpp"
#include "catch.hpp"
#include "embedding_bag.hpp"
#include "temporary_directory.hpp"
#include "tfjs_weights.hpp"
#include "wide_and_deep.hpp"

namespace {

using namespace language_detector;
using nlohmann::json;
using nola::FileError;
using nola::Index;
using nola::Tensor;

/// A new directory, removed at the end.
struct Directory {
  test::TemporaryDirectory owner;
  const std::filesystem::path& path = owner.Path();

  void Write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
  }
};

/// The message of the error that a call ends with; empty without one.
template <class Call>
std::string Complaint(const Call& call) {
  try {
    call();
  } catch (const nola::Error& error) {
    return error.what();
  }
  return "";
}

/// Adds a uint8-quantised weight of random numbers.
void AddWeight(json& manifest, std::string& shard, const std::string& name, const std::vector<int>& shape) {
  std::size_t size = 1;
  for (const int dimension : shape) size *= static_cast<std::size_t>(dimension);
  nola::RandomStream random(shard.size());
  for (std::size_t i = 0; i < size; ++i) shard += static_cast<char>(random.NextWord());
  manifest.push_back({{"name", name},
                      {"shape", shape},
                      {"dtype", "float32"},
                      {"quantization", {{"dtype", "uint8"}, {"scale", 0.004}, {"min", -0.5}}}});
}

/// Writes a small classifier of the package's layout, for three languages.
void WriteClassifier(const Directory& directory) {
  json manifest = json::array();
  std::string shard;
  AddWeight(manifest, shard, "dnn/input_from_feature_columns/input_layer/content_embedding/embedding_weights",
            {50, 7});
  AddWeight(manifest, shard, "dnn/hiddenlayer_0/kernel", {7, 12});
  AddWeight(manifest, shard, "dnn/hiddenlayer_0/bias", {12});
  AddWeight(manifest, shard, "dnn/hiddenlayer_1/kernel", {12, 9});
  AddWeight(manifest, shard, "dnn/hiddenlayer_1/bias", {9});
  AddWeight(manifest, shard, "dnn/logits/kernel", {9, 4});
  AddWeight(manifest, shard, "dnn/logits/bias", {4});
  AddWeight(manifest, shard, "linear/linear_model/content/weights", {50, 4});
  AddWeight(manifest, shard, "linear/linear_model/bias_weights", {4});
  for (const std::string language : {"c", "cpp", "py", "rs"}) {
    shard += std::string{static_cast<char>(language.size()), '\0', '\0', '\0'} + language;
  }
  manifest.push_back({{"name", "head/ExpandDims/input"}, {"shape", {4}}, {"dtype", "string"}});
  const json model{{"weightsManifest", {{{"paths", {"shard.bin"}}, {"weights", manifest}}}}};
  directory.Write("model.json", model.dump());
  directory.Write("shard.bin", shard);
}

std::string Bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// The largest difference between a layer's parameter gradients and central differences of a random
/// functional.
double GradientError(nola::ILayer<double>& layer, const Tensor<double>& input) {
  nola::RandomStream random(3);
  const Tensor<double> direction = Tensor<double>::NullaryExpr(
      input.rows(), layer.OutputSize(), [&] { return random.NextSymmetric<double>(); });
  layer.ClearGradients();
  layer.Forward(input);
  layer.Backward(direction);
  const nola::Vector<double> gradients = layer.GetParameterGradients();
  const nola::Vector<double> parameters = layer.GetParameters();
  double largest = 0;
  for (Index i = 0; i < parameters.size(); ++i) {
    const auto value = [&](double step) {
      nola::Vector<double> moved = parameters;
      moved(i) += step;
      layer.SetParameters(moved);
      return layer.Infer(input).cwiseProduct(direction).sum();
    };
    largest = std::max(largest, std::abs((value(1e-5) - value(-1e-5)) / 2e-5 - gradients(i)));
  }
  layer.SetParameters(parameters);
  return largest;
}

}  // namespace

TEST_CASE("short texts have FarmHash's fingerprints") {
  // From TensorFlow's documentation of to_hash_bucket_fast: Hello, TensorFlow and 2.x go to buckets 0, 2 and
  // 2 of 3.
  CHECK(Fingerprint64OfShort("Hello") % 3 == 0);
  CHECK(Fingerprint64OfShort("2.x") % 3 == 2);
  CHECK(Fingerprint64OfShort("abc") == 0x24A5B3A074E7F369U);
  CHECK_THROWS_AS(Fingerprint64OfShort(""), nola::ShapeError);
  CHECK_THROWS_AS(Fingerprint64OfShort("TensorFlow"), nola::ShapeError);
}

TEST_CASE("a text is what JavaScript makes of the bytes") {
  const std::string filler(20, '.');
  CHECK(NormaliseText(filler + "a\r\nb\rc\n") == filler + "a\nb\rc\n");
  CHECK(NormaliseText(filler + "caf\xC3\xA9 \xF0\x9F\x98\x80") == filler + "caf\xC3\xA9 \xF0\x9F\x98\x80");
  CHECK(NormaliseText(filler + "\xFF\xC0\x80") == filler + "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(NormaliseText(filler + "\xE2\x82") == filler + "\xEF\xBF\xBD");
  CHECK(NormaliseText(filler + "\xE2\x82z") == filler + "\xEF\xBF\xBDz");
  CHECK(NormaliseText(filler + "\xED\xA0\x80") == filler + "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_CASE("a text needs twenty UTF-16 units") {
  CHECK(!NormaliseText(""));
  CHECK(!NormaliseText(std::string(19, 'x')));
  CHECK(NormaliseText(std::string(20, 'x')));
  std::string pairs;
  for (int i = 0; i < 10; ++i) pairs += "\xF0\x9F\x98\x80";
  CHECK(NormaliseText(pairs));
  CHECK(NormaliseText(std::string(18, 'x') + "\r\n"));
}

TEST_CASE("the first ten thousand bigrams count, in order, and the rest is padding") {
  const Tensor<float> list = BigramBuckets("abc", 5000);
  REQUIRE(list.cols() == kMostBigrams);
  CHECK(list(0) == static_cast<float>(Fingerprint64OfShort("a b") % 5000));
  CHECK(list(1) == static_cast<float>(Fingerprint64OfShort("b c") % 5000));
  CHECK((list.rightCols(kMostBigrams - 2).array() == -1.0F).all());
  CHECK(BigramBuckets("", 5000).maxCoeff() == -1.0F);
  const std::string text = std::string(10'000, 'a') + "b";
  CHECK(BigramBuckets(text + "cdef", 5000) == BigramBuckets(text, 5000));
  CHECK(BigramBuckets(text, 5000) != BigramBuckets(std::string(10'001, 'a'), 5000));
  CHECK(BigramBuckets("a\xC3\xA9", 5000)(0) ==
        static_cast<float>(Fingerprint64OfShort("a \xEF\xBF\xBD") % 5000));
}

TEST_CASE("weights are read in manifest order and dequantised") {
  const Directory directory;
  const json model = {{"weightsManifest",
                       {{{"paths", {"one.bin", "two.bin"}},
                         {"weights",
                          {{{"name", "q"},
                            {"shape", {2, 2}},
                            {"dtype", "float32"},
                            {"quantization", {{"dtype", "uint8"}, {"scale", 0.5}, {"min", -1.0}}}},
                           {{"name", "s"}, {"shape", {2}}, {"dtype", "string"}},
                           {{"name", "i"}, {"shape", json::array()}, {"dtype", "int32"}}}}}}}};
  directory.Write("model.json", model.dump());
  directory.Write("one.bin", std::string{0, 1, 2, static_cast<char>(255), 1, 0});
  directory.Write("two.bin", std::string{0, 0, 'x', 2, 0, 0, 0, 'y', 'z', 7, 0, 0, 0});
  const TfjsWeights weights = ReadTfjsWeights(directory.path / "model.json");
  Tensor<float> expected(2, 2);
  expected << -1, -0.5F, 0, 126.5F;
  CHECK(weights.Matrix("q") == expected);
  CHECK(weights.Strings("s") == std::vector<std::string>{"x", "yz"});
  CHECK(weights.Matrix("i")(0, 0) == 7.0F);
  CHECK_THROWS_AS(weights.Matrix("none"), FileError);
}

TEST_CASE("a damaged model is an error that names the file") {
  const Directory directory;
  WriteClassifier(directory);
  REQUIRE_NOTHROW(ReadDetector(directory.path));
  const std::string shard = Bytes(directory.path / "shard.bin");
  const std::string text = Bytes(directory.path / "model.json");
  const auto fails = [&] {
    return Complaint([&] { ReadDetector(directory.path); }).find("model.json") != std::string::npos;
  };
  for (std::size_t size = 0; size < shard.size(); size += 7) {
    directory.Write("shard.bin", shard.substr(0, size));
    INFO(size);
    REQUIRE(fails());
  }
  directory.Write("shard.bin", shard + "x");
  CHECK(fails());
  directory.Write("shard.bin", shard);
  for (std::size_t size = 0; size < text.size(); size += 5) {
    directory.Write("model.json", text.substr(0, size));
    INFO(size);
    REQUIRE(fails());
  }
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string other = text;
    REQUIRE(other.find(from) != std::string::npos);
    other.replace(other.find(from), from.size(), to);
    directory.Write("model.json", other);
  };
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"[50,7]", "[18446744073709551615,18446744073709551615]"},
           {"[50,7]", "[-50,7]"},
           {"[50,7]", "[7,50]"},
           {"\"uint8\"", "\"float16\""},
           {"\"string\"", "\"complex64\""},
           {"shard.bin", "../shard.bin"},
           {"shard.bin", "missing.bin"},
           {"hiddenlayer_1/bias", "hiddenlayer_2/bias"}}) {
    INFO(from << " -> " << to);
    changed(from, to);
    CHECK(fails());
  }
}

TEST_CASE("a missing model is answered with how to fetch it") {
  CHECK(Complaint([&] { ReadDetector("/nothing/here"); }).find("fetch.sh") != std::string::npos);
}

TEST_CASE("gradients of the wide and deep layers are those of their outputs") {
  nola::RandomStream random(1);
  const auto table = [&](Index rows, Index columns) -> Tensor<double> {
    return Tensor<double>::NullaryExpr(rows, columns, [&] { return random.NextSymmetric<double>(); });
  };
  using Bag = EmbeddingBag<double>;
  const auto deep = std::make_shared<nola::Sequential<double>>();
  deep->Emplace<nola::DenseLayer<double>>("a", 3, 5).Emplace<nola::Tanh<double>>("b", 5);
  deep->Emplace<nola::DenseLayer<double>>("c", 5, 2);
  nola::Sequential<double> network;
  network.Add("features", std::make_shared<FeatureSums<double>>(
                              std::make_shared<Bag>(4, table(6, 3), Bag::Mode::mean),
                              std::make_shared<Bag>(4, table(6, 2), Bag::Mode::sum, table(1, 2))));
  network.Add("head", std::make_shared<DeepAndWideLogits<double>>(deep));
  Tensor<double> lists(3, 4);
  lists << 0, 5, 5, 2, 3, -1, 1, -1, -1, -1, -1, -1;
  CHECK(GradientError(network, lists) < 1e-8);

  // An empty list has a zero embedding, and an index beyond the table is an error.
  CHECK(network.Layer(0)->Infer(lists).row(2).leftCols(3).isZero(0));
  lists(0, 0) = 6;
  CHECK_THROWS_AS(network.Infer(lists), nola::ShapeError);
  lists(0, 0) = -2;
  CHECK_THROWS_AS(network.Infer(lists), nola::ShapeError);
}

TEST_CASE("files are held back by directory, and nothing is on both sides") {
  const Directory model;
  WriteClassifier(model);
  const Detector detector = ReadDetector(model.path);
  const Directory files;
  const auto path = [](const std::string& name) { return "files/" + name; };
  for (int i = 0; i < 20; ++i) {
    const std::string name = std::to_string(10 + i);
    files.Write(path("c/" + name), "some text of twenty characters and more " + name);
    files.Write(path("cpp/" + std::string(i < 8 ? "a/" : "b/") + name),
                "another text of twenty characters " + name);
  }
  files.Write(path("c/short"), "short");
  const LabelledFiles all = ReadLabelledFiles(detector, files.path / "files");
  CHECK(all.Count() == 40);
  const auto [training, heldBack] = HoldBack(all, 0.3);
  CHECK(training.Count() == 14 + 8);
  CHECK(heldBack.Count() == 6 + 12);
  for (Index i = 0; i < heldBack.Count(); ++i) {
    const std::filesystem::path& file = heldBack.files[static_cast<std::size_t>(i)];
    CHECK(std::find(training.files.begin(), training.files.end(), file) == training.files.end());
    CHECK(file.parent_path().filename() != "a");
  }
  CHECK(WithHalves(detector, training).Count() > training.Count());
}

TEST_CASE("labelled files that cannot be used are answered with what is needed") {
  const Directory model;
  WriteClassifier(model);
  const Detector detector = ReadDetector(model.path);
  const Directory files;
  CHECK(Complaint([&] { ReadLabelledFiles(detector, files.path / "none"); }).find("there is no directory") !=
        std::string::npos);
  std::filesystem::create_directories(files.path / "files" / "c");
  CHECK(Complaint([&] { ReadLabelledFiles(detector, files.path / "files"); }).find("has no files to read") !=
        std::string::npos);
  files.Write("files/klingon/a", "x");
  CHECK(Complaint([&] {
          ReadLabelledFiles(detector, files.path / "files");
        }).find("'klingon' is no language") != std::string::npos);
}

TEST_CASE("adapters of both kinds learn labels that the classifier gets wrong, and leave it as it was") {
  const Directory model;
  WriteClassifier(model);
  const Detector shipped = ReadDetector(model.path);
  const Directory files;
  for (int i = 0; i < 40; ++i) {
    const std::string word = i % 2 == 0 ? "abab" : "xyzx";
    std::string text;
    for (int j = 0; j < 10 + i; ++j) text += word;
    files.Write("files/" + std::string(i % 2 == 0 ? "py/" : "rs/") + std::to_string(i), text);
  }
  const LabelledFiles all = ReadLabelledFiles(shipped, files.path / "files");
  const Tensor<float> before = shipped.Head().Infer(all.features);
  for (const Method& method : {Method{nola::AdapterKind::lora, 2}, Method{nola::AdapterKind::nola, 8}}) {
    Recipe recipe;
    recipe.learningRate = 0.05;
    recipe.epochs = 60;
    const Detector adapted = Train(shipped, method, all, recipe);
    INFO(method.Name());
    CHECK(BalancedAccuracy(adapted.Head(), all) > 0.95);
    CHECK(adapted.network->ParameterCount() ==
          (method.kind == nola::AdapterKind::nola ? 48 : 2 * (19 + 21 + 13)));
    CHECK(shipped.Head().Infer(all.features) == before);
  }
  LabelledFiles broken = all;
  broken.features.setConstant(std::numeric_limits<float>::quiet_NaN());
  for (const auto& [training, heldBack] :
       std::vector<std::pair<const LabelledFiles*, const LabelledFiles*>>{{&broken, &all}, {&all, &broken}}) {
    const std::vector<RateTrial> trials =
        TryRates(shipped, {nola::AdapterKind::nola, 8}, *training, *heldBack, {.epochs = 1}, 1, 1);
    CHECK(trials.size() == std::size(kLearningRates));
    CHECK_THROWS_AS(nola::BestLearningRate(trials), nola::StateError);
    CHECK(std::isinf(SummaryOf(trials, kLearningRates[0]).heldBackLoss));
  }
  Detector other = shipped;
  CHECK_THROWS_AS(AddAdapters(other, {nola::AdapterKind::nola, 6}, 1), nola::ConfigError);
}

TEST_CASE("a rate's runs come to their mean, or to an infinite loss where one diverged") {
  const std::vector<RateTrial> trials{{.learningRate = 0.1, .score = -3, .heldBackAccuracy = 1},
                                      {.learningRate = 0.1, .score = -1, .heldBackAccuracy = 0.5},
                                      {.learningRate = 0.2, .score = -2},
                                      {.learningRate = 0.2, .diverged = true}};
  CHECK(SummaryOf(trials, 0.1).heldBackLoss == 2);
  CHECK(SummaryOf(trials, 0.1).heldBackAccuracy == 0.75);
  CHECK(std::isinf(SummaryOf(trials, 0.2).heldBackLoss));
}

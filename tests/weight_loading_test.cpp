// Weights by name: one at a time, validated, mapped, leniently and strictly.
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::DenseLayer;
using nola::Index;
using nola::Sequential;
using nola::ShapeError;
using nola::Tensor;
using nola::WeightLoadResult;
using nola::WeightLoadValidation;
using test::ErrorOf;
using test::RandomTensor;
using test::RequireRefused;
using test::SameBits;

namespace {

using Names = std::vector<std::string>;
using Weights = std::map<std::string, Tensor<float>>;

/// fc1 4x3 with bias, fc2 3x2 without.
Sequential<float> Network() {
  Sequential<float> network;
  network.Emplace<DenseLayer<float>>("fc1", 4, 3).Emplace<DenseLayer<float>>("fc2", 3, 2, false);
  return network;
}

Weights AllWeights() {
  return {{"fc1.weight", RandomTensor<float>(4, 3, 1)},
          {"fc1.bias", RandomTensor<float>(1, 3, 2)},
          {"fc2.weight", RandomTensor<float>(3, 2, 3)}};
}

std::optional<std::string> WithoutPrefix(const std::string& name) {
  if (name == "model.rotary") return std::nullopt;
  return name.starts_with("model.") ? name.substr(6) : name;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("SetParameter writes the named parameter alone; an unknown name returns false") {
  auto network = Network();
  const Tensor<float> bias = *network.TryGetParameter("fc1.bias");
  const Tensor<float> weight = RandomTensor<float>(4, 3, 4);
  REQUIRE(network.SetParameter("fc1.weight", weight));
  REQUIRE(SameBits(*network.TryGetParameter("fc1.weight"), weight));
  REQUIRE(SameBits(*network.TryGetParameter("fc1.bias"), bias));
  const test::Snapshot<float> before(network);
  REQUIRE_FALSE(network.SetParameter("fc1.weights", weight));
  REQUIRE(test::Snapshot<float>(network) == before);
}

TEST_CASE("a vector may come as a row or as a column") {
  auto network = Network();
  const Tensor<float> row = RandomTensor<float>(1, 3, 5);
  REQUIRE(network.SetParameter("fc1.bias", Tensor<float>(row.transpose())));
  REQUIRE(SameBits(*network.TryGetParameter("fc1.bias"), row));
  Weights weights = AllWeights();
  weights["fc1.bias"] = weights["fc1.bias"].transpose().eval();
  network.LoadWeights(weights, {}, true);
  REQUIRE(SameBits(*network.TryGetParameter("fc1.bias"), AllWeights()["fc1.bias"]));
}

TEST_CASE("a parameter of another shape, NaN or infinite is refused") {
  auto network = Network();
  const auto set = [&](const char* name, const Tensor<float>& value) {
    return [&network, name, value] { network.SetParameter(name, value); };
  };
  RequireRefused<ShapeError>(network, set("fc1.weight", RandomTensor<float>(3, 4, 6)));
  RequireRefused<ShapeError>(network, set("fc1.bias", RandomTensor<float>(1, 4, 6)));
  RequireRefused<ShapeError>(network, set("fc1.bias", RandomTensor<float>(3, 2, 6)));
  RequireRefused<ConfigError>(network, set("fc1.weight", Tensor<float>::Constant(4, 3, kNaN)));
  RequireRefused<ConfigError>(network, set("fc1.bias", Tensor<float>::Constant(3, 1, kInfinity)));
  REQUIRE(ErrorOf<ShapeError>(set("fc1.weight", RandomTensor<float>(3, 5, 6))) ==
          "Sequential: 'fc1.weight' is [4 x 3], given [3 x 5]");
}

TEST_CASE("a frozen parameter can still be read and loaded by name") {
  auto network = Network();
  network.SetTrainable(false);
  REQUIRE(network.GetParameterNames() == Names{"fc1.weight", "fc1.bias", "fc2.weight"});
  REQUIRE(network.LoadWeights(AllWeights(), {}, true).success);
  REQUIRE(SameBits(*network.TryGetParameter("fc2.weight"), AllWeights()["fc2.weight"]));
}

TEST_CASE("ValidateWeights says what would match, and changes nothing") {
  auto network = Network();
  const WeightLoadValidation whole = network.ValidateWeights({"fc2.weight", "fc1.bias", "fc1.weight"});
  REQUIRE(whole.IsValid());
  REQUIRE(whole.matched == Names{"fc1.weight", "fc1.bias", "fc2.weight"});

  const Names names{"model.fc1.weight", "fc1.weight", "lm_head", "model.rotary", "fc2.weight"};
  const WeightLoadValidation mapped = network.ValidateWeights(names, WithoutPrefix);
  REQUIRE_FALSE(mapped.IsValid());
  REQUIRE(mapped.matched == Names{"fc1.weight", "fc2.weight"});
  REQUIRE(mapped.missing == Names{"fc1.bias"});
  REQUIRE(mapped.unexpected == Names{"lm_head"});
  REQUIRE(mapped.duplicate == Names{"fc1.weight"});

  REQUIRE_FALSE(network.ValidateWeights({"fc1.weight", "fc1.bias"}).IsValid());
  REQUIRE_FALSE(network.ValidateWeights({"fc1.weight", "fc1.bias", "fc2.weight", "x"}).IsValid());
}

TEST_CASE("LoadWeights loads every weight to its name") {
  auto network = Network();
  const WeightLoadResult result = network.LoadWeights(AllWeights());
  REQUIRE(result.success);
  REQUIRE(result.loaded == Names{"fc1.weight", "fc1.bias", "fc2.weight"});
  for (const auto& [name, value] : AllWeights()) REQUIRE(SameBits(*network.TryGetParameter(name), value));
}

TEST_CASE("LoadWeights maps names, and skips what the mapping drops") {
  Weights weights;
  for (auto& [name, value] : AllWeights()) weights["model." + name] = value;
  weights["model.rotary"] = RandomTensor<float>(7, 7, 7);
  auto network = Network();
  const WeightLoadResult result = network.LoadWeights(weights, WithoutPrefix, true);
  REQUIRE(result.success);
  REQUIRE(result.unexpected.empty());
  for (const auto& [name, value] : AllWeights()) REQUIRE(SameBits(*network.TryGetParameter(name), value));
}

TEST_CASE("lenient loading loads what fits and reports the rest") {
  auto network = Network();
  const Tensor<float> weight = *network.TryGetParameter("fc1.weight");
  const Tensor<float> bias = *network.TryGetParameter("fc1.bias");
  Weights weights{{"fc1.weight", RandomTensor<float>(3, 4, 8)},
                  {"fc2.weight", RandomTensor<float>(3, 2, 9)},
                  {"fc3.weight", RandomTensor<float>(3, 2, 10)}};
  const WeightLoadResult result = network.LoadWeights(weights);
  REQUIRE_FALSE(result.success);
  REQUIRE(result.loaded == Names{"fc2.weight"});
  REQUIRE(result.missing == Names{"fc1.bias"});
  REQUIRE(result.unexpected == Names{"fc3.weight"});
  REQUIRE(result.errors.size() == 1);
  REQUIRE(result.errors[0].find("'fc1.weight' is [4 x 3], given [3 x 4]") != std::string::npos);
  REQUIRE(SameBits(*network.TryGetParameter("fc1.weight"), weight));
  REQUIRE(SameBits(*network.TryGetParameter("fc1.bias"), bias));
  REQUIRE(SameBits(*network.TryGetParameter("fc2.weight"), weights["fc2.weight"]));

  Weights bad = AllWeights();
  bad["fc1.bias"](0, 1) = kNaN;
  const WeightLoadResult second = network.LoadWeights(bad);
  REQUIRE_FALSE(second.success);
  REQUIRE(second.loaded == Names{"fc1.weight", "fc2.weight"});
  REQUIRE(second.errors.size() == 1);
  REQUIRE(SameBits(*network.TryGetParameter("fc1.bias"), bias));
}

TEST_CASE("two weights for one parameter are reported, or refused in strict mode") {
  auto network = Network();
  Weights weights = AllWeights();
  weights["model.fc1.bias"] = RandomTensor<float>(1, 3, 11);
  const WeightLoadResult result = network.LoadWeights(weights, WithoutPrefix);
  REQUIRE_FALSE(result.success);
  REQUIRE(result.errors.size() == 1);
  REQUIRE(result.errors[0].find("fc1.bias") != std::string::npos);
  RequireRefused<ConfigError>(network, [&] { network.LoadWeights(weights, WithoutPrefix, true); });
}

TEST_CASE("strict loading changes nothing unless everything fits") {
  auto network = Network();
  const auto load = [&](const Weights& weights) {
    return [&network, weights] { network.LoadWeights(weights, {}, true); };
  };
  Weights missing = AllWeights();
  missing.erase("fc1.bias");
  RequireRefused<ConfigError>(network, load(missing));
  REQUIRE(ErrorOf<ConfigError>(load(missing)).find("fc1.bias") != std::string::npos);

  Weights unexpected = AllWeights();
  unexpected["fc3.weight"] = RandomTensor<float>(3, 2, 12);
  RequireRefused<ConfigError>(network, load(unexpected));

  Weights misshapen = AllWeights();  // the last in order, so that the others would have been written by then
  misshapen["fc2.weight"] = RandomTensor<float>(2, 3, 13);
  RequireRefused<ShapeError>(network, load(misshapen));

  Weights infinite = AllWeights();
  infinite["fc2.weight"](2, 1) = -kInfinity;
  RequireRefused<ConfigError>(network, load(infinite));
}

TEST_CASE("an adapter's coefficients load by name like any weight") {
  Sequential<float> network;
  network.Emplace<nola::NOLAAdapter<float>>("fc", std::make_shared<DenseLayer<float>>(4, 3), 2, 5);
  REQUIRE(network.GetParameterNames() == Names{"fc.nola_coefficients_a", "fc.nola_coefficients_b"});
  REQUIRE(*network.GetParameterShape("fc.nola_coefficients_a") == std::array<Index, 2>{1, 5});
  const Tensor<float> column = RandomTensor<float>(5, 1, 14);
  REQUIRE(network.SetParameter("fc.nola_coefficients_b", column));
  REQUIRE(SameBits(*network.TryGetParameter("fc.nola_coefficients_b"), Tensor<float>(column.transpose())));
  RequireRefused<ShapeError>(
      network, [&] { network.SetParameter("fc.nola_coefficients_a", RandomTensor<float>(1, 6, 15)); });
  RequireRefused<ConfigError>(
      network, [&] { network.SetParameter("fc.nola_coefficients_a", Tensor<float>::Constant(1, 5, kNaN)); });
}

// ONNX files that are damaged or lie: one FileError each, before anything is built, and nothing else.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "nola/nola.hpp"
#include "nola/onnx.hpp"
#include "onnx_models.hpp"
#include "tensors.hpp"

using nola::FileError;
using nola::ImportONNX;
using test::ErrorOf;
using test::OnnxModelBuilder;
using test::RandomTensor;
using Proto = ::onnx::TensorProto;

namespace {

/// x -> MatMul w -> Add b -> Relu -> y
OnnxModelBuilder SmallModel() {
  OnnxModelBuilder model({0, 3});
  model.Constant("w", RandomTensor<double>(3, 2, 1)).Constant("b", {2}, RandomTensor<double>(1, 2, 2));
  model.Node("MatMul", {"x", "w"}, "m", "dense");
  model.Node("Add", {"m", "b"}, "a", "add");
  model.Node("Relu", {"a"}, "y", "act");
  return model;
}

/// The message of the FileError that importing gives; empty if it gives none.
std::string Refusal(const OnnxModelBuilder& builder) {
  const test::TemporaryDirectory directory;
  const auto path = builder.Write(directory / "model.onnx");
  return ErrorOf<FileError>([&] { ImportONNX<float>(path); });
}

Proto& Weight(OnnxModelBuilder& model) { return *model.model.mutable_graph()->mutable_initializer(0); }
::onnx::NodeProto& FirstNode(OnnxModelBuilder& model) {
  return *model.model.mutable_graph()->mutable_node(0);
}

void RequireRefused(const std::string& reason, const std::function<void(OnnxModelBuilder&)>& damage) {
  OnnxModelBuilder model = SmallModel();
  damage(model);
  INFO("expected: " << reason);
  const std::string message = Refusal(model);
  INFO("given: " << message);
  REQUIRE(message.find(reason) != std::string::npos);
}

void KeepOutside(Proto& tensor, const std::string& location, const std::string& offset = "",
                 const std::string& length = "") {
  tensor.clear_float_data();
  tensor.set_data_location(Proto::EXTERNAL);
  const auto entry = [&](const char* key, const std::string& value) {
    if (value.empty()) return;
    auto& pair = *tensor.add_external_data();
    pair.set_key(key);
    pair.set_value(value);
  };
  entry("location", location);
  entry("offset", offset);
  entry("length", length);
}

}  // namespace

TEST_CASE("a model as it should be is imported") { REQUIRE(Refusal(SmallModel()).empty()); }

TEST_CASE("tensors that do not hold what their extents say are refused") {
  RequireRefused("tensor 'w' has 6 numbers, expected 8", [](auto& model) { Weight(model).set_dims(0, 4); });
  RequireRefused("tensor 'w' has an extent of -3", [](auto& model) { Weight(model).set_dims(0, -3); });
  RequireRefused("tensor 'w' has 6 numbers, expected 0", [](auto& model) { Weight(model).set_dims(0, 0); });
  for (const std::int64_t extent : {std::int64_t{1} << 62, std::int64_t{1} << 33, std::int64_t{6442450944}}) {
    RequireRefused("tensor 'w' is larger than any memory", [&](auto& model) {
      Weight(model).set_dims(0, extent);
      Weight(model).set_dims(1, extent);
      Weight(model).add_dims(0);
    });
  }
  RequireRefused("tensor 'w' has 6 numbers, expected 4611686018427", [](auto& model) {
    Weight(model).set_dims(0, 4611686018427);
    Weight(model).set_dims(1, 1);
  });
  RequireRefused("tensor 'w' has 23 bytes, expected 24", [](auto& model) {
    Weight(model).clear_float_data();
    Weight(model).set_raw_data(std::string(23, 'a'));
  });
  RequireRefused("tensor 'w' has 0 numbers, expected 6",
                 [](auto& model) { Weight(model).set_data_type(Proto::DOUBLE); });
  RequireRefused("tensor 'w' has too many axes", [](auto& model) {
    for (int i = 0; i < 100; ++i) Weight(model).add_dims(1);
  });
  RequireRefused("tensor 'w' is a segment",
                 [](auto& model) { Weight(model).mutable_segment()->set_begin(0); });
  RequireRefused("its weight is empty", [](auto& model) {
    Weight(model).clear_float_data();
    Weight(model).set_dims(1, 0);
    auto& add = *model.model.mutable_graph()->mutable_node(1);
    add.set_op_type("Relu");
    add.mutable_input()->RemoveLast();
  });
  RequireRefused("'dense' has a number that is NaN or infinite in float", [](auto& model) {
    Weight(model).set_float_data(3, std::numeric_limits<float>::infinity());
  });
  RequireRefused("'dense' has a number that is NaN or infinite in float", [](auto& model) {
    Weight(model).set_data_type(Proto::DOUBLE);
    Weight(model).clear_float_data();
    for (int i = 0; i < 6; ++i) Weight(model).add_double_data(1e300);
  });
  RequireRefused("a constant in it is not finite", [](auto& model) {
    model.model.mutable_graph()->mutable_initializer(1)->set_float_data(
        0, std::numeric_limits<float>::quiet_NaN());
  });
}

TEST_CASE("graphs that break ONNX's rules are refused") {
  RequireRefused("reads 'nothing', which nothing before it makes",
                 [](auto& model) { FirstNode(model).set_input(0, "nothing"); });
  RequireRefused("reads 'y', which nothing before it makes",  // a circle
                 [](auto& model) { FirstNode(model).set_input(0, "y"); });
  RequireRefused("reads 'm', which nothing before it makes",  // a node of itself
                 [](auto& model) { FirstNode(model).set_input(0, "m"); });
  RequireRefused("the value 'a' is made twice", [](auto& model) { FirstNode(model).add_output("a"); });
  RequireRefused("the value 'x' is made twice", [](auto& model) { FirstNode(model).set_output(0, "x"); });
  RequireRefused("a tensor's name is 'w', which is empty or another's",
                 [](auto& model) { model.model.mutable_graph()->mutable_initializer(1)->set_name("w"); });
  RequireRefused("nothing makes the output 'z'",
                 [](auto& model) { model.model.mutable_graph()->mutable_output(0)->set_name("z"); });
  RequireRefused("node 0 has no operator", [](auto& model) { FirstNode(model).clear_op_type(); });
  RequireRefused("has two settings 'axis'", [](auto& model) {
    test::Set(FirstNode(model), "axis", 1);
    test::Set(FirstNode(model), "axis", 2);
  });
  RequireRefused("it names no version of ONNX's operators",
                 [](auto& model) { model.model.clear_opset_import(); });
  RequireRefused("no ONNX model", [](auto& model) { model.model.clear_graph(); });
  RequireRefused("multiplies rows of 3 numbers by columns of 2", [](auto& model) {
    Weight(model).set_dims(0, 2);
    Weight(model).set_dims(1, 3);
  });
  RequireRefused("extents of 2 and 3 do not fit each other", [](auto& model) {
    auto& bias = *model.model.mutable_graph()->mutable_initializer(1);
    bias.set_dims(0, 3);
    bias.add_float_data(1);
  });
  RequireRefused("its extents do not fit its numbers", [](auto& model) {
    model.Integers("shape", {0, -1, 5});
    auto& relu = *model.model.mutable_graph()->mutable_node(2);
    relu.set_op_type("Reshape");
    relu.add_input("shape");
  });
  RequireRefused("it has no two inputs", [](auto& model) { FirstNode(model).mutable_input()->RemoveLast(); });
}

TEST_CASE("a model reads files beside it and no others") {
  const test::TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "models/data");
  const auto write = [&](const char* name) {
    std::ofstream(directory / name, std::ios::binary) << std::string(32, '\0');
  };
  write("outside.bin");
  write("models/inside.bin");
  write("models/data/below.bin");
  std::filesystem::create_symlink("../outside.bin", directory / "models/link.bin");
  std::filesystem::create_symlink("inside.bin", directory / "models/inner_link.bin");
  const auto import = [&](const std::string& location, const std::string& offset = "",
                          const std::string& length = "") {
    OnnxModelBuilder model = SmallModel();
    KeepOutside(Weight(model), location, offset, length);
    const auto path = model.Write(directory / "models/model.onnx");
    return ErrorOf<FileError>([&] { ImportONNX<float>(path); });
  };
  for (const char* inside :
       {"inside.bin", "./inside.bin", "data/below.bin", "data/../inside.bin", "inner_link.bin"}) {
    REQUIRE(import(inside).empty());
  }
  REQUIRE(import("inside.bin", "8", "24").empty());
  for (const char* outside : {"../outside.bin", "link.bin", "data/../../outside.bin"}) {
    REQUIRE(import(outside).find("which lies outside the model's directory") != std::string::npos);
  }
  REQUIRE(import((directory / "models/inside.bin").string()).find("expected one beside the model") !=
          std::string::npos);
  REQUIRE(import(std::string("inside.bin\0.txt", 15)).find("expected one beside the model") !=
          std::string::npos);
  REQUIRE(import("").find("expected one beside the model") != std::string::npos);
  REQUIRE(import("missing.bin").find("'missing.bin'") != std::string::npos);
  REQUIRE_FALSE(import("data").empty());
  REQUIRE(import("inside.bin", "9").find("tensor 'w' needs 24 bytes, not 24 from 9 on in a file of 32") !=
          std::string::npos);
  REQUIRE(import("inside.bin", "0", "23").find("needs 24 bytes, not 23") != std::string::npos);
  REQUIRE(import("inside.bin", "18446744073709551615").find("needs 24 bytes") != std::string::npos);
  for (const char* number : {"-1", "x", "99999999999999999999", "1.5"}) {
    REQUIRE(import("inside.bin", number).find("offset is '") != std::string::npos);
  }
}

TEST_CASE("a file that is cut short anywhere is refused, and so is no file") {
  const std::string whole = SmallModel().Bytes();
  const auto isModel = [](const std::string& bytes) {
    try {
      const auto model = nola::detail::ReadOnnxModel(std::as_bytes(std::span(bytes)), "model");
      nola::detail::MakeOnnxNetwork<float>(model, "model", {});
      return true;
    } catch (const FileError&) {
      return false;
    }
  };
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO(size << " of " << whole.size() << " bytes");
    // The version of the operators stands last: without it nothing says what they mean.
    REQUIRE_FALSE(isModel(whole.substr(0, size)));
  }
  REQUIRE(isModel(whole));
  const test::TemporaryDirectory directory;
  REQUIRE_THROWS_AS(ImportONNX<float>(directory / "none.onnx"), FileError);
  REQUIRE_THROWS_AS(ImportONNX<float>(directory.Path()), FileError);
}

TEST_CASE("a file with any one byte changed gives a network or one of nola's errors") {
  const std::string whole = SmallModel().Bytes();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int change : {1, 0x7F, 0x80, 0xFF}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ change);
      try {
        const auto model = nola::detail::ReadOnnxModel(std::as_bytes(std::span(bytes)), "model");
        const auto network = nola::detail::MakeOnnxNetwork<float>(model, "model", {});
        network->Infer(nola::Tensor<float>::Zero(2, network->InputSize()));
      } catch (const nola::Error&) {
      }
    }
  }
  SUCCEED();
}

TEST_CASE("models of many nodes neither overflow the stack nor take for ever") {
  OnnxModelBuilder chain({0, 3});
  constexpr int kNodes = 20000;
  const auto value = [](int i) { return i == 0 ? std::string("x") : i == kNodes ? "y" : std::to_string(i); };
  SECTION("one after the other") {
    for (int i = 0; i < kNodes; ++i) chain.Node("Identity", {value(i)}, value(i + 1));
    REQUIRE(Refusal(chain).empty());
  }
  SECTION("branches within branches") {
    // y = x + relu(x + relu(x + ..))
    for (int i = 0; i < kNodes; ++i) {
      if (i % 2 == 0) {
        chain.Node("Relu", {value(i)}, value(i + 1));
      } else {
        chain.Node("Add", {"x", value(i)}, value(i + 1));
      }
    }
    const test::TemporaryDirectory directory;
    const auto path = chain.Write(directory / "model.onnx");
    REQUIRE(ErrorOf<nola::UnsupportedError>([&] {
              ImportONNX<float>(path);
            }).find("branches within branches") != std::string::npos);
  }
  SECTION("products of products") {
    for (int i = 0; i < kNodes; ++i) chain.Node("Mul", {value(i), value(i)}, value(i + 1), "same");
    const test::TemporaryDirectory directory;
    const auto path = chain.Write(directory / "model.onnx");
    REQUIRE(ErrorOf<nola::UnsupportedError>([&] { ImportONNX<float>(path); }).find("more than 4096 layers") !=
            std::string::npos);
  }
  SECTION("more than any model has") {
    for (int i = 0; i < (1 << 16) + 1; ++i)
      chain.Node("Identity", {"x"}, i == 0 ? "y" : "v" + std::to_string(i));
    const test::TemporaryDirectory directory;
    const auto path = chain.Write(directory / "model.onnx");
    REQUIRE_THROWS_AS(ImportONNX<float>(path), nola::UnsupportedError);
  }
}

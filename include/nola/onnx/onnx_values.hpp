// OnnxValues: what is known of a model's values before it runs: constants, extents, lists of extents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nola/onnx/onnx_model.hpp"

namespace nola::detail {

/// A whole number that a model computes: known, or an extent that is not, by its number.
struct OnnxExtent {
  std::int64_t number = 0;
  bool isKnown = true;
};

/// The values of a model by name. Constants are folded where that takes no arithmetic worth the name, and
/// shapes are followed through the operators that are imported and those that compute extents; after others
/// the file's own word counts. What is not known is nothing, never a guess.
class OnnxValues {
 public:
  /// @param model  must outlive this. @param name  of the file, for messages.
  /// @param input  a value that counts as given, whatever makes it; empty for the model's own alone.
  /// @throws FileError for operators whose operands do not fit each other.
  OnnxValues(const OnnxModel& model, std::string name, const std::string& input = "");

  const OnnxModel& Model() const { return model_; }
  const std::string& Name() const { return name_; }

  /// The constant of this name, or null.
  const OnnxTensor* Constant(const std::string& value) const;
  /// The one number of a constant, whatever its extents.
  std::optional<double> Scalar(const std::string& value) const;
  /// A constant as the numbers of a row: its extents are 1 but for the last. Nothing otherwise.
  std::optional<std::vector<double>> Row(const std::string& value) const;
  /// The extents of a value, or null.
  const OnnxShape* Shape(const std::string& value) const;
  /// The node that makes a value that is not given, or null.
  const OnnxNode* Producer(const std::string& value) const;
  /// The same if it is of a type and has so many inputs, `least` or more with `orMore`; null otherwise. What
  /// asks for a node's inputs asks so: a file may hold a node without any.
  const OnnxNode* Producer(const std::string& value, const char* type, std::size_t least,
                           bool orMore = false) const;
  /// Whether a value is computed of extents alone.
  bool IsExtents(const std::string& value) const { return ListOf(value) != nullptr; }
  /// Whether there is a value of this name, a constant or not.
  bool Has(const std::string& value) const;

  /// Settings of a node.
  static std::int64_t Integer(const OnnxNode& node, const std::string& name, std::int64_t otherwise);
  static double Real(const OnnxNode& node, const std::string& name, double otherwise);
  /// Axes from the setting `axes`, or from the input of this index as later versions have it.
  std::optional<std::vector<std::int64_t>> Axes(const OnnxNode& node, std::size_t input) const;
  /// Whether an axis, counted from either end, is the last of a value; nothing if that is not known.
  std::optional<bool> IsLastAxis(const std::string& value, std::int64_t axis) const;
  /// Which one a Gather of one index, or a Slice of one, takes along the first axis.
  std::optional<std::int64_t> FirstOfAxis(const OnnxNode& node) const;

 private:
  using List = std::vector<OnnxExtent>;

  [[noreturn]] void Fail(const OnnxNode& node, const std::string& reason) const;
  void Follow(const OnnxNode& node);
  void FollowConstant(const OnnxNode& node);
  bool Fold(const OnnxNode& node);
  bool FollowList(const OnnxNode& node);
  std::optional<OnnxShape> ShapeOf(const OnnxNode& node);
  std::optional<OnnxShape> Broadcast(const OnnxNode& node);
  std::optional<OnnxShape> ProductShape(const OnnxNode& node);
  std::optional<OnnxShape> Reshaped(const OnnxNode& node);
  std::optional<OnnxShape> Squeezed(const OnnxNode& node);
  std::optional<OnnxShape> Reduced(const OnnxNode& node);
  const List* ListOf(const std::string& value) const;
  std::int64_t Unknown() { return --unknown_; }

  const OnnxModel& model_;
  std::string name_;
  std::string given_;  // beside the model's own inputs
  std::map<std::string, const OnnxNode*> producers_;
  std::map<std::string, OnnxTensor> folded_;
  std::map<std::string, OnnxShape> shapes_;
  std::map<std::string, List> lists_;
  std::size_t constantBytes_ = 0;
  std::size_t foldedBytes_ = 0;
  std::int64_t unknown_ = -(std::int64_t{1} << 40);  // beyond those of the reader
};

}  // namespace nola::detail

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/onnx_values.inl"
#include "nola/onnx/onnx_values_shapes.inl"
#endif

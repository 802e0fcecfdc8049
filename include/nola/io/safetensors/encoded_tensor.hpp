// Frozen weights in files: tensors as they lie, levels with their scales beside them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "nola/io/safetensors/weight_source.hpp"
#include "nola/storage/encoded_weight.hpp"

namespace nola::detail {

inline constexpr std::string_view kScales = ".scales";
inline constexpr std::string_view kTransposedLayout = "output,input";

/// A weight of a file: numbers, or levels and their scales.
struct FileWeight {
  const SafetensorsTensor* tensor = nullptr;
  const SafetensorsTensor* scales = nullptr;

  bool IsQuantized() const { return scales != nullptr; }
};

/// The weights of a file by name, `w` and `w.scales` as one where `w` is of whole numbers.
inline std::vector<std::pair<std::string, FileWeight>> FileWeights(const TensorPointers& tensors) {
  const auto areLevels = [](const SafetensorsTensor& tensor) {
    return tensor.type == NumberType::i8 || tensor.type == NumberType::u8;
  };
  std::vector<std::pair<std::string, FileWeight>> weights;
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with(kScales)) {
      const auto scaled = tensors.find(std::string_view(name).substr(0, name.size() - kScales.size()));
      if (scaled != tensors.end() && areLevels(*scaled->second)) continue;
    }
    FileWeight weight{tensor};
    if (areLevels(*tensor)) {
      const auto scales = tensors.find(name + std::string(kScales));
      if (scales != tensors.end()) weight.scales = scales->second;
    }
    weights.emplace_back(name, weight);
  }
  return weights;
}

/// The format of levels that are a matrix [rows x columns] as it lies, or nothing for any other.
inline std::optional<WeightFormat> FormatOf(const FileWeight& weight, Index rows, Index columns) {
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4, WeightFormat::nf4}) {
    const EncodedMatrix matrix = MatrixOf(format, rows, columns, nullptr, nullptr);
    const StoredTensor stored = StoredTensorOf(matrix);
    if (weight.tensor->type == stored.type && weight.tensor->shape == stored.shape &&
        weight.scales->type == stored.scaleType && weight.scales->shape == stored.scaleShape) {
      return format;
    }
  }
  return std::nullopt;
}

/// A file's bytes as they are, or a copy of them if the caller keeps them.
inline std::shared_ptr<const EncodedWeight> TakeBytes(const FileWeight& weight, const EncodedMatrix& matrix) {
  const bool keepsAlive =
      weight.tensor->owner != nullptr && (weight.scales == nullptr || weight.scales->owner != nullptr);
  if (!keepsAlive) return EncodedWeight::Copy(matrix);
  if (weight.scales == nullptr) return std::make_shared<EncodedWeight>(matrix, weight.tensor->owner);
  using Owners = std::array<std::shared_ptr<const void>, 2>;
  return std::make_shared<EncodedWeight>(
      matrix, std::make_shared<Owners>(Owners{weight.tensor->owner, weight.scales->owner}));
}

/// What a file's numbers are to become.
struct StoredShape {
  WeightFormat format;
  Index rows;  ///< of the weight as the layer calls it
  Index columns;
  bool isLinear;      ///< of a linear layer, whose levels lie [out x in]
  bool isTransposed;  ///< whether the file's numbers lie so
};

/// Encodes a file's numbers, or takes them where they lie if they are in the format.
/// @throws ConfigError for numbers that the format cannot hold.
inline StoredWeight StoreNumbers(const SafetensorsTensor& tensor, const StoredShape& shape) {
  const WeightFormatFacts& facts = FactsOf(shape.format);
  const Index rows = shape.isTransposed ? shape.columns : shape.rows;  // in the file
  const Index columns = shape.isTransposed ? shape.rows : shape.columns;
  if (tensor.type == facts.levelType) {
    return {"weight",
            TakeBytes({&tensor}, MatrixOf(shape.format, rows, columns, tensor.bytes.data(), nullptr)),
            shape.isTransposed};
  }
  const auto decode = [&](Index row, Index first, Index count, float* to) {
    const auto size = static_cast<Index>(NumberTypeSize(tensor.type));
    DecodeNumbers<float>(tensor.type,
                         tensor.bytes.subspan(static_cast<std::size_t>((row * columns + first) * size)),
                         {to, static_cast<std::size_t>(count)});
  };
  const bool liesTransposed = facts.IsQuantized() ? shape.isLinear : shape.isTransposed;
  if (liesTransposed == shape.isTransposed) {
    return {"weight",
            EncodedWeight::Encode(shape.format, rows, columns,
                                  [&](Index first, Index count, float* band) {
                                    for (Index row = 0; row < count; ++row) {
                                      decode(first + row, 0, columns, band + row * columns);
                                    }
                                  }),
            liesTransposed};
  }
  std::vector<float> piece;
  return {"weight",
          EncodedWeight::Encode(shape.format, columns, rows,
                                [&](Index first, Index count, float* band) {
                                  piece.resize(static_cast<std::size_t>(count));
                                  for (Index row = 0; row < rows; ++row) {
                                    decode(row, first, count, piece.data());
                                    for (Index i = 0; i < count; ++i) {
                                      band[i * rows + row] = piece[static_cast<std::size_t>(i)];
                                    }
                                  }
                                }),
          liesTransposed};
}

/// Why levels cannot become a weight, or nothing, and then what they become. Numbers of another type than the
/// format's are StoreNumbers's.
inline std::optional<std::string> StoreLevels(const FileWeight& weight, const StoredShape& shape,
                                              StoredWeight& stored) {
  const Index rows = shape.isLinear ? shape.columns : shape.rows;
  const Index columns = shape.isLinear ? shape.rows : shape.columns;
  const std::optional<WeightFormat> format = FormatOf(weight, rows, columns);
  if (!format) {
    return Message({" is ", weight.tensor->TypeText(), " ", weight.tensor->ShapeText(), " with scales ",
                    weight.scales->TypeText(), " ", weight.scales->ShapeText(),
                    " in the file, which are no levels of a [", rows, " x ", columns, "] matrix"});
  }
  if (*format != shape.format) {
    return Message(
        {" is in ", WeightFormatName(*format), " in the file, needed is ", WeightFormatName(shape.format)});
  }
  const EncodedMatrix matrix =
      MatrixOf(*format, rows, columns, weight.tensor->bytes.data(), weight.scales->bytes.data());
  const std::string fault = FaultOf(matrix);
  if (!fault.empty()) return Message({" ", fault, " in the file"});
  stored = {"weight", TakeBytes(weight, matrix), shape.isLinear};
  return std::nullopt;
}

/// Adds a stored weight to a file as it lies, and what the metadata say of it.
inline void AddStoredEntries(const std::string& name, const StoredWeight& stored,
                             std::vector<SafetensorsEntry>& entries, SafetensorsMetadata& metadata) {
  const StoredTensor tensor = stored.weight->Stored();
  const auto add = [&](std::string entry, NumberType type, std::vector<Index> shape,
                       std::span<const std::byte> bytes) {
    entries.push_back({std::move(entry), type, std::move(shape),
                       [bytes, keepsAlive = stored.weight](const ByteSink& sink) { sink(bytes); }});
  };
  add(name, tensor.type, tensor.shape, tensor.bytes);
  if (tensor.scaleType != NumberType::unknown) {
    add(name + std::string(kScales), tensor.scaleType, tensor.scaleShape, tensor.scales);
  } else if (stored.isTransposed) {
    metadata.emplace("layout." + name, kTransposedLayout);
  }
}

}  // namespace nola::detail

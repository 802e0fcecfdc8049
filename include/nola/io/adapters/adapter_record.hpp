// What a file says about one adapter, as one line of text.
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "nola/adapters/adapt_layers.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/io/safetensors/strict_json.hpp"

namespace nola {

/// Everything but the coefficients that makes an adapter, and what it was trained on.
struct AdapterRecord : AdapterDescription {
  std::string path;
  std::string base;  ///< fingerprint of the base layer's weights, or kTrainedBase
  // Of a NOLAAdapter alone:
  std::string checksumA;  ///< see BasisChecksum
  std::string checksumB;
  std::string sharedA;  ///< the network's name for the coefficients that it shares, or empty
  std::string sharedB;

  /// In the place of a base that trained with its adapter: its weights are in the file.
  static constexpr const char* kTrainedBase = "trained";
  bool IsBaseFrozen() const { return base != kTrainedBase; }
};

namespace detail {

template <std::integral Integer>
std::optional<Integer> ParseInteger(std::string_view text) {
  Integer integer = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, integer);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return integer;
}

/// "nola rank=8 alpha=8.0 shape=784,512 base=... bases=64,64 seed=42 stream=0 distribution=hadamard
/// frame=weight,128,... basis=...,..."
inline std::string RecordText(const AdapterRecord& record) {
  const bool isNola = record.kind == AdapterKind::nola;
  std::string text = DescriptionText(isNola ? "nola" : "lora", record, NumberText(record.alpha), record.base);
  if (isNola) {
    text += Message({" basis=", record.checksumA, ",", record.checksumB});
    if (!record.sharedA.empty()) text += Message({" coefficients=", record.sharedA, ",", record.sharedB});
  }
  return text;
}

/// @throws FileError with the reason for any text that RecordText does not write.
inline AdapterRecord ParseRecord(const std::string& path, const std::string& text) {
  std::map<std::string_view, std::string_view> fields;
  std::string_view rest = text;
  std::string_view kind;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(word.size() + 1, rest.size()));
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) {
      kind = word;
    } else {
      fields[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
  const auto fail = [&](const std::string& reason) {
    throw FileError("adapter " + Quoted(path) + ": " + reason);
  };
  const auto pair = [&](const char* field) {
    const std::string_view both = fields[field];
    const std::size_t comma = std::min(both.find(','), both.size());
    return std::pair(both.substr(0, comma), both.substr(std::min(comma + 1, both.size())));
  };
  const auto integer = [](std::string_view digits) { return ParseInteger<Index>(digits).value_or(-1); };

  AdapterRecord record;
  record.path = path;
  record.kind = kind == "lora" ? AdapterKind::lora : AdapterKind::nola;
  record.inputSize = integer(pair("shape").first);
  record.outputSize = integer(pair("shape").second);
  record.rank = integer(fields["rank"]);
  record.alpha = ParseNumber(fields["alpha"]).value_or(-1);
  record.base = fields["base"];
  const Index most = std::min(record.inputSize, record.outputSize);
  if (record.rank < 1 || record.rank > std::min(most, BasisGenerator::kMaxRank) ||
      std::max(record.inputSize, record.outputSize) > BasisGenerator::kMaxLength || !(record.alpha >= 0)) {
    fail("sizes, rank or alpha are missing or out of range");
  }
  if (record.kind == AdapterKind::nola) {
    record.numBasisA = integer(pair("bases").first);
    record.numBasisB = integer(pair("bases").second);
    record.seed = ParseInteger<std::uint64_t>(fields["seed"]).value_or(0);
    record.stream = ParseInteger<std::uint32_t>(fields["stream"]).value_or(0);
    record.checksumA = pair("basis").first;
    record.checksumB = pair("basis").second;
    record.sharedA = pair("coefficients").first;
    record.sharedB = pair("coefficients").second;
    if (const std::string_view frame = fields["frame"]; !frame.empty()) {  // weight,128,0123456789abcdef
      const std::string_view sizes = pair("frame").second;
      const std::size_t comma = std::min(sizes.find(','), sizes.size());
      record.frame = BasisFrame::weight;
      record.frameRank = integer(sizes.substr(0, comma));
      record.frameChecksum = sizes.substr(std::min(comma + 1, sizes.size()));
      if (record.frameRank < record.rank || record.frameRank > std::min(most, kMostFrameRank) ||
          !record.IsBaseFrozen()) {
        fail("the rank of its frame is out of range, or its base trained");
      }
    }
    if (record.numBasisA < 0 || record.numBasisB < 1 ||
        std::max(record.numBasisA, record.numBasisB) > BasisGenerator::kMaxBases) {
      fail("the numbers of bases are missing or out of range");
    }
    try {
      record.distribution = DistributionFromName(fields["distribution"]);
    } catch (const ConfigError&) {
      fail("unknown distribution " + Quoted(fields["distribution"]));
    }
  }
  // What was not understood above, a wrong order, a field too many or a zero in front: all of it shows here.
  if (RecordText(record) != text) fail("not a description of an adapter: " + Quoted(text));
  return record;
}

/// The names that a network lists coefficients under which its adapters share.
template <std::floating_point T>
std::map<const ParameterSlot<T>*, std::string> SharedNames(const ILayer<T>& network) {
  std::map<const ParameterSlot<T>*, std::string> names;
  const ObjectNumbers factors = FactorSlots(network);
  for (const NamedSlot<T>& listed : ListSlots(network)) {
    if (factors.Contains(listed.slot.get())) names.emplace(listed.slot.get(), listed.name);
  }
  for (const PlacedAdapter<T>& placed : FindAdapters(network)) {
    for (const NamedSlot<T>& own : placed.layer->OwnParameters()) names.erase(own.slot.get());
  }
  return names;
}

/// @param shared  see SharedNames.
/// @throws UnsupportedError for an adapter of another kind, or one whose base is an adapter; ConfigError for
/// coefficients that the network does not list, and as FrameOfAdapter.
template <std::floating_point T>
AdapterRecord DescribeAdapter(const PlacedAdapter<T>& placed, const WeightFingerprints<T>& weights,
                              const std::map<const ParameterSlot<T>*, std::string>& shared) {
  const ILoRAAdapter<T>& adapter = *placed.adapter;
  const std::optional<AdapterDescription> description = adapter.Description();
  if (!description) {
    Throw<UnsupportedError>(
        {"'", placed.path, "' is a ", placed.layer->LayerType(), ": files hold NOLAAdapter and LoRAAdapter"});
  }
  if (adapter.BaseLayer()->AsAdapter() != nullptr) {
    throw UnsupportedError("the base of '" + placed.path + "' is an adapter itself: merge it first");
  }
  AdapterRecord record;
  static_cast<AdapterDescription&>(record) = *description;
  record.path = placed.path;
  record.base =
      adapter.IsBaseLayerFrozen() ? weights.OfLayer(placed.path) : std::string(AdapterRecord::kTrainedBase);
  if (placed.layer->OwnParameters().empty()) {
    const auto nameOf = [&](const std::shared_ptr<ParameterSlot<T>>& slot) {
      const auto found = shared.find(slot.get());
      if (found == shared.end()) {
        throw ConfigError("the network does not list the coefficients of '" + placed.path + "'");
      }
      if (found->second.find_first_of(" ,=") == std::string::npos) return found->second;
      throw ConfigError("a file cannot hold the name of the shared coefficients '" + found->second + "'");
    };
    record.sharedA = nameOf(adapter.FactorParameters()[0]);
    record.sharedB = nameOf(adapter.FactorParameters()[1]);
  }
  if (record.kind == AdapterKind::lora) return record;
  const BasisGenerator generator(record.seed, record.stream, record.distribution);
  FrameOfAdapter(adapter, placed.path);  // a file whose frame no base has could never be opened
  record.checksumA = BasisChecksum<T>(generator, Factor::a, BasisShapeOf(record, Factor::a));
  record.checksumB = BasisChecksum<T>(generator, Factor::b, BasisShapeOf(record, Factor::b));
  return record;
}

}  // namespace detail
}  // namespace nola

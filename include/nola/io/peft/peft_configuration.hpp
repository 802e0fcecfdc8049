// PEFTConfiguration: what adapter_config.json says, and whether the factors mean here what they mean there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/io/peft/peft_pattern.hpp"
#include "nola/io/safetensors/strict_json.hpp"

namespace nola::detail {

/// The configuration of a LoRA. A setting is known to leave the meaning of the factors alone, or is
/// implemented, or is off; anything else is an error, so that an option of a later PEFT is never a wrong
/// model.
class PEFTConfiguration {
 public:
  /// @param name  of the file, for messages.
  /// @throws FileError for text that is no configuration of a LoRA, or of one with a rule that is not
  /// supported.
  PEFTConfiguration(std::span<const std::byte> text, std::string name);

  struct Scale {
    double rank = 0;
    double scaling = 0;  ///< alpha/rank, or alpha/sqrt(rank) for a rank-stabilized LoRA
  };

  /// Rank and scaling of a module, by PEFT's rule: the first key of a pattern, in the order of the file, that
  /// stands for it. Time: a comparison for each key.
  /// @throws FileError for a name that is not printable ASCII, if there are patterns, or too long for one
  /// that is a regular expression, and when all calls together take too long.
  Scale ScaleOf(const std::string& module);

  /// Whether layers that are tied were trained as one.
  bool KeepsTies() const { return Flag("ensure_weight_tying"); }

 private:
  struct Key {
    std::string text;
    PEFTPattern pattern;
    double value = 0;
  };

  [[noreturn]] void Fail(const std::string& reason) const;
  void CheckSettings() const;
  void CheckInitialization(const JsonValue& value) const;
  bool Flag(const char* key) const;
  double Number(const JsonValue& object, const std::string& key) const;
  std::vector<Key> ReadPattern(const char* key) const;
  std::optional<double> Find(const std::vector<Key>& keys, const std::string& module);

  std::string name_;
  JsonValue config_;
  bool isRankStabilized_ = false;
  double rank_ = 0;
  double alpha_ = 0;
  std::vector<Key> ranks_;
  std::vector<Key> alphas_;
  std::int64_t steps_ = 100'000'000;  // that all matches may take: seconds
};

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/peft/peft_configuration.inl"
#endif

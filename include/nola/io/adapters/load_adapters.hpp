// LoadAdapters: the adapters of a file, made anew in a network.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/core/compiled.hpp"
#include "nola/io/adapters/adapter_file.hpp"
#include "nola/io/adapters/load_mode.hpp"
#include "nola/io/safetensors/parameter_entry.hpp"

namespace nola {

struct AdapterLoadOptions {
  LoadMode mode = LoadMode::strict;
  /// Whether the base may have other weights than those that the adapters were trained on: the same rounded
  /// to fewer bits, or trained further. The report says where it has.
  bool anyBase = false;
};

namespace detail {

/// Collects what LoadAdapters is going to do, and changes nothing.
template <std::floating_point T>
class AdapterLoad {
 public:
  AdapterLoad(const ILayer<T>& network, const AdapterFile& file, bool anyBase)
      : file_(file), anyBase_(anyBase), layers_(LayersByPath(network)), weights_(network) {
    for (const AdapterRecord& record : file.Adapters()) AddAdapter(record);
    for (const PlacedAdapter<T>& placed : FindAdapters(network)) {
      const auto isHere = [&](const AdapterRecord& record) { return record.path == placed.path; };
      if (std::none_of(file.Adapters().begin(), file.Adapters().end(), isHere)) {
        report_.mismatched.push_back(Quoted(placed.path) + " has an adapter that the file does not hold");
      }
    }
    std::set<std::string> taken;  // names that shared coefficients cannot have
    const auto sharedHere = SharedNames(network);
    for (const NamedSlot<T>& listed : ListSlots(network)) {
      if (!sharedHere.contains(listed.slot.get())) taken.insert(listed.name);
    }
    for (const PlacedAdapter<T>& placed : FindAdapters(network)) {  // those that stay keep theirs
      const auto isHere = [&](const AdapterRecord& record) { return record.path == placed.path; };
      if (std::any_of(file.Adapters().begin(), file.Adapters().end(), isHere)) continue;
      for (const auto& slot : placed.adapter->FactorParameters()) {
        const auto name = sharedHere.find(slot.get());
        if (name != sharedHere.end()) taken.insert(name->second);
      }
    }
    for (const auto& [name, slot] : shared_) {
      const std::size_t dot = name.rfind('.');
      if (taken.contains(name) || (dot != std::string::npos && !layers_.contains(name.substr(0, dot)))) {
        report_.mismatched.push_back("there is no place for the coefficients " + Quoted(name) +
                                     " that adapters share");
      }
    }
    std::map<std::string, ConstParameter<T>> parameters;
    for (ConstParameter<T>& parameter : network.Parameters()) parameters.emplace(parameter.name, parameter);
    for (const std::string& name : file.TrainedParameters()) {
      if (file.Owner(name) != nullptr) continue;  // came with its adapter
      const auto found = parameters.find(name);
      if (found == parameters.end()) {
        report_.missing.push_back(name);
      } else {
        AddParameter(name, found->second);
      }
    }
    const auto isHeld = [&](const std::string& name) { return file.HoldsWeight(name); };
    if (report_.missing.empty() && report_.mismatched.empty() &&
        weights_.OfAllBut(isHeld) != file.NetworkFingerprint()) {
      if (anyBase_) {
        if (report_.otherBase.empty()) report_.otherBase.emplace_back(AdapterLoadReport::kRest);
      } else {
        report_.mismatched.push_back(
            "weights outside of its layers differ from those it was trained on (anyBase allows it)");
      }
    }
  }

  const AdapterLoadReport& Report() const { return report_; }

  /// The one function that changes something.
  void Apply(ILayer<T>& network) const {
    PlaceAdapters(network, adapters_, trainable_, shared_);
    AssignParameters(network, values_);
  }

 private:
  void AddAdapter(const AdapterRecord& record) {
    const auto found = layers_.find(record.path);
    if (found == layers_.end()) {
      report_.missing.push_back(record.path);
      return;
    }
    const auto mismatch = [&](const std::string& reason) {
      report_.mismatched.push_back(Quoted(record.path) + reason);
    };
    const std::shared_ptr<ILayer<T>> base = LayerToAdapt(found->second);
    if (base->InputSize() != record.inputSize || base->OutputSize() != record.outputSize) {
      return mismatch(Message({" maps ", base->InputSize(), " to ", base->OutputSize(),
                               ", its adapter in the file ", record.inputSize, " to ", record.outputSize}));
    }
    const bool isOtherBase = record.IsBaseFrozen() && record.base != weights_.OfLayer(record.path);
    if (isOtherBase && !anyBase_) {
      return mismatch(" has other weights than those that its adapter was trained on (anyBase allows it)");
    }
    const std::string prefix = record.path + ".base_layer.";
    const std::vector<ConstParameter<T>> trained =
        record.IsBaseFrozen() ? std::vector<ConstParameter<T>>() : std::as_const(*base).Parameters();
    if (NamesBelow(prefix) != trained.size()) {
      return mismatch(
          Message({": its base has ", trained.size(), " parameters, the file holds ", NamesBelow(prefix)}));
    }
    for (const ConstParameter<T>& parameter : trained) {
      const auto& held = file_.TrainedParameters();
      if (!std::binary_search(held.begin(), held.end(), prefix + parameter.name)) {
        return mismatch(": the file lacks its base's " + Quoted(parameter.name));
      }
    }
    CheckBases(record);
    try {
      std::shared_ptr<const WeightFrame<T>> frame;  // held until the adapter holds it
      if (record.frame == BasisFrame::weight) {
        if (isOtherBase) return mismatch(": its bases lie in a frame of the weight that it was trained on");
        frame = FrameOf(*base, record.frameRank);
      }
      if (frame && frame->checksum != record.frameChecksum) {
        file_.File().Fail("the frame of " + Quoted(record.path) +
                          " comes out differently here than where it " + "was trained");
      }
      adapters_.emplace_back(record.path, Make(record, base));
    } catch (const ConfigError& error) {
      return mismatch(std::string(": ") + error.what());
    }
    report_.matched.push_back(record.path);
    if (isOtherBase) report_.otherBase.push_back(record.path);
    for (const ConstParameter<T>& parameter : trained) AddParameter(prefix + parameter.name, parameter);
  }

  std::size_t NamesBelow(const std::string& prefix) const {
    const auto& names = file_.TrainedParameters();
    const auto isBelow = [&](const std::string& name) { return name.starts_with(prefix); };
    const auto first = std::lower_bound(names.begin(), names.end(), prefix);
    return static_cast<std::size_t>(std::find_if_not(first, names.end(), isBelow) - first);
  }

  /// Not a matter of this network: the numbers in the file mean something else to this generator.
  void CheckBases(const AdapterRecord& record) const {
    if (record.kind != AdapterKind::nola) return;
    const BasisGenerator generator(record.seed, record.stream, record.distribution);
    if (BasisChecksum<T>(generator, Factor::a, BasisShapeOf(record, Factor::a)) != record.checksumA ||
        BasisChecksum<T>(generator, Factor::b, BasisShapeOf(record, Factor::b)) != record.checksumB) {
      file_.File().Fail("the bases of " + Quoted(record.path) + " come out differently here than where it " +
                        "was trained: a wrong basis generator");
    }
  }

  std::shared_ptr<ILayer<T>> Make(const AdapterRecord& record, const std::shared_ptr<ILayer<T>>& base) {
    const auto read = [&](std::size_t index, Index rows, Index columns) {
      return file_.ReadParameter<T>(AdapterTensors(record)[index].first, rows, columns);
    };
    if (record.kind == AdapterKind::lora) {
      return std::make_shared<LoRAAdapter<T>>(base, read(0, record.rank, record.inputSize).transpose(),
                                              read(1, record.rank, record.outputSize), record.alpha,
                                              record.IsBaseFrozen());
    }
    const NOLAOptions options{.rank = record.rank,
                              .numBasisA = record.numBasisA,
                              .numBasisB = record.numBasisB,
                              .alpha = record.alpha,
                              .seed = record.seed,
                              .stream = record.stream,
                              .distribution = record.distribution,
                              .frame = record.frame,
                              .frameRank = record.frameRank,
                              .freezeBaseLayer = record.IsBaseFrozen()};
    if (record.sharedA.empty()) {
      return std::make_shared<NOLAAdapter<T>>(base, options, read(0, 1, record.numBasisA),
                                              read(1, 1, record.numBasisB));
    }
    const auto slotOf = [&](const std::string& name, std::size_t index, Index numBasis) {
      auto& slot = shared_[name];
      if (!slot) slot = std::make_shared<ParameterSlot<T>>(read(index, 1, numBasis));
      return slot;
    };
    return std::make_shared<NOLAAdapter<T>>(
        base, options,
        std::array{slotOf(record.sharedA, 0, record.numBasisA), slotOf(record.sharedB, 1, record.numBasisB)});
  }

  void AddParameter(const std::string& name, const ConstParameter<T>& parameter) {
    const Index rows = parameter.value.rows();
    const Index columns = parameter.value.cols();
    if (file_.File().At(name).shape != FileShape(rows, columns)) {
      report_.mismatched.push_back(Message({Quoted(name), " is [", rows, " x ", columns,
                                            "] in the network and of another shape in the file"}));
      return;
    }
    values_.emplace(name, file_.ReadParameter<T>(name, rows, columns));
    report_.matched.push_back(name);
    const auto layer = layers_.find(name.substr(0, std::min(name.rfind('.'), name.size())));
    if (layer != layers_.end()) trainable_.push_back(layer->second);
  }

  const AdapterFile& file_;
  bool anyBase_;
  std::map<std::string, std::shared_ptr<ILayer<T>>> layers_;
  WeightFingerprints<T> weights_;
  AdapterLoadReport report_;
  std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>> adapters_;
  std::vector<std::shared_ptr<ILayer<T>>> trainable_;
  SlotsByName<T> shared_;
  std::map<std::string, Tensor<T>> values_;  // of parameters that are stored whole
};

}  // namespace detail

/// Makes every adapter of the file anew, around the layer at its path, with its seed, stream, distribution,
/// rank and coefficients; an adapter that is there already is replaced. Everything else is frozen, as by
/// AdaptLayers, but for parameters that the file holds whole. Build the optimizer after this.
///
/// All of the file and all of the fit are checked before anything changes: sizes, the fingerprints of the
/// weights that the adapters were trained on, and a checksum of every basis. Coefficients saved from a
/// network in double load into one in float and the other way round.
/// Time: reads every weight of the network once, for the fingerprints.
/// @throws FileError with the reason for a file that is damaged, of another format or made by another basis
/// generator, and in strict mode for one that does not fit the network in every part. The
/// network is then as it was.
template <std::floating_point T>
AdapterLoadReport LoadAdapters(ILayer<T>& network, const AdapterFile& file,
                               const AdapterLoadOptions& options = {}) {
  const detail::AdapterLoad<T> load(network, file, options.anyBase);
  detail::RequireFit(load.Report(), options.mode, file.File().Name());
  load.Apply(network);
  return load.Report();
}

/// The same from the file at a path.
template <std::floating_point T>
AdapterLoadReport LoadAdapters(ILayer<T>& network, const std::filesystem::path& path,
                               const AdapterLoadOptions& options = {}) {
  return LoadAdapters(network, AdapterFile(path), options);
}

/// The same with a mode alone.
template <std::floating_point T>
AdapterLoadReport LoadAdapters(ILayer<T>& network, const AdapterFile& file, LoadMode mode) {
  return LoadAdapters(network, file, AdapterLoadOptions{.mode = mode});
}

template <std::floating_point T>
AdapterLoadReport LoadAdapters(ILayer<T>& network, const std::filesystem::path& path, LoadMode mode) {
  return LoadAdapters(network, AdapterFile(path), AdapterLoadOptions{.mode = mode});
}

NOLA_COMPILED_TEMPLATE(io, AdapterLoadReport LoadAdapters<float>(ILayer<float>&, const AdapterFile&,
                                                                 const AdapterLoadOptions&));
NOLA_COMPILED_TEMPLATE(io, AdapterLoadReport LoadAdapters<double>(ILayer<double>&, const AdapterFile&,
                                                                  const AdapterLoadOptions&));
NOLA_COMPILED_TEMPLATE(io, AdapterLoadReport LoadAdapters<float>(ILayer<float>&, const std::filesystem::path&,
                                                                 const AdapterLoadOptions&));
NOLA_COMPILED_TEMPLATE(io,
                       AdapterLoadReport LoadAdapters<double>(ILayer<double>&, const std::filesystem::path&,
                                                              const AdapterLoadOptions&));

}  // namespace nola

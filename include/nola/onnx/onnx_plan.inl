// How a model's part is found and wired, for onnx_plan.hpp.

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

namespace nola::detail {

/// Plans one network.
class OnnxPlanner {
 public:
  OnnxPlanner(const OnnxValues& values, const ImportOptions& options) : values_(values), options_(options) {}

  OnnxPlan Plan();

 private:
  using Kind = OnnxStep::Kind;

  /// A value of the network: the input, or what a step makes.
  struct Place {
    std::string value;
    OnnxStep step;
    std::vector<std::size_t> from;  // places of the step's inputs
    std::size_t dominator = 0;      // the nearest place that all ways from the input go through
    std::size_t depth = 0;          // dominators above it
    std::size_t rows = 0;           // the set of places whose rows are equally wide
    bool isBuilt = false;
  };
  /// What stands in the way, and the nodes where it does.
  using Refusals = std::map<std::string, std::vector<std::string>>;

  [[noreturn]] void Unsupported(const std::string& reason) const {
    Throw<UnsupportedError>({"ImportONNX: ", Quoted(values_.Name()), ": ", reason});
  }
  std::string FindOutput() const;
  void FindPlaces(const std::string& output);
  void CheckInputs(const std::set<std::string>& reached) const;
  [[noreturn]] void ListRefusals(const Refusals& refusals) const;
  void FindDominators();

  void FindWidths();
  std::size_t RowsOf(std::size_t place);
  void Join(std::size_t place, std::size_t other);
  void SetWidth(std::size_t place, std::size_t width);
  Index Width(std::size_t place) { return static_cast<Index>(widths_[RowsOf(place)]); }

  OnnxWiring Chain(std::size_t end, std::size_t begin, int depth);
  OnnxWiring Branches(std::size_t place, int depth);
  void Append(const Place& place, std::vector<OnnxLayerPlan>& chain, OnnxWiring& wiring);
  std::string NewName(const std::string& node);

  const OnnxValues& values_;
  const ImportOptions& options_;
  std::vector<Place> places_;         // the input first, each after those it is made of
  std::vector<std::size_t> widths_;   // of each set of places, 0 for not known
  std::map<std::string, int> names_;  // the next number for each
  std::size_t pieces_ = 0;            // layers and joints so far
  OnnxPlan plan_;
};

NOLA_ONNX_DEFINITION std::string OnnxLayerName(const std::string& node) {
  std::string name = node.substr(std::min(node.find_first_not_of('/'), node.size()));
  for (char& c : name) {
    if (c == '.' || c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '_';
  }
  return name.empty() ? "_" : name;
}

NOLA_ONNX_DEFINITION OnnxPlan PlanOnnx(const OnnxValues& values, const ImportOptions& options) {
  return OnnxPlanner(values, options).Plan();
}

NOLA_ONNX_DEFINITION OnnxPlan OnnxPlanner::Plan() {
  constexpr std::int64_t kFirst = 7;
  constexpr std::int64_t kLast = 26;
  const std::int64_t version = values_.Model().opset;
  if (version < kFirst || version > kLast) {
    Unsupported(
        Message({"its operators are those of version ", version, ", known are ", kFirst, " to ", kLast}));
  }
  for (const std::string& name : {options_.input, options_.output}) {
    if (name.empty() || (values_.Has(name) && values_.Constant(name) == nullptr)) continue;
    Throw<ConfigError>({"ImportONNX: ", Quoted(values_.Name()), " computes no value ", Quoted(name),
                        ", which the options name"});
  }
  FindPlaces(FindOutput());
  FindDominators();
  FindWidths();
  plan_.inputSize = Width(0);
  plan_.outputSize = Width(places_.size() - 1);
  plan_.wiring = Chain(places_.size() - 1, 0, 0);
  return std::move(plan_);
}

NOLA_ONNX_DEFINITION std::string OnnxPlanner::FindOutput() const {
  if (!options_.output.empty()) return options_.output;
  const std::vector<OnnxValueInfo>& outputs = values_.Model().outputs;
  if (outputs.size() == 1) return outputs[0].name;
  std::string names;
  for (std::size_t i = 0; i < outputs.size() && i < 8; ++i)
    names += (i > 0 ? ", " : "") + Quoted(outputs[i].name);
  Unsupported(Message({"it has ", outputs.size(), " outputs: ", names,
                       "; a network has one, which ImportOptions::output names"}));
}

/// Everything between input and output, backwards. A node's inputs stand before it, so one pass over the
/// nodes is enough, however deep the model is.
NOLA_ONNX_DEFINITION void OnnxPlanner::FindPlaces(const std::string& output) {
  std::set<std::string> needed{output};
  std::set<std::string> reached;
  Refusals refusals;
  Refusals uncertain;
  std::vector<Place> found;
  const std::vector<OnnxNode>& nodes = values_.Model().nodes;
  for (std::size_t i = nodes.size(); i-- > 0;) {
    for (const std::string& value : nodes[i].outputs) {
      if (value.empty() || value == options_.input || !needed.contains(value)) continue;
      OnnxStep step = ReadOnnxStep(values_, value);
      if (step.kind == Kind::refused) {
        (step.isUncertain ? uncertain : refusals)[step.why].push_back(step.name);
      }
      needed.insert(step.inputs.begin(), step.inputs.end());
      found.push_back({value, std::move(step), {}});
    }
  }
  if (!refusals.empty() || !uncertain.empty()) ListRefusals(refusals.empty() ? uncertain : refusals);
  if (!options_.input.empty() && needed.contains(options_.input)) reached.insert(options_.input);
  for (const OnnxValueInfo& input : values_.Model().inputs) {
    if (needed.contains(input.name)) reached.insert(input.name);
  }
  CheckInputs(reached);
  places_.push_back({*reached.begin(), {}, {}});
  std::map<std::string, std::size_t> indices{{*reached.begin(), 0}};
  for (std::size_t i = found.size(); i-- > 0;) {
    for (const std::string& input : found[i].step.inputs) found[i].from.push_back(indices.at(input));
    indices[found[i].value] = places_.size();
    places_.push_back(std::move(found[i]));
  }
}

NOLA_ONNX_DEFINITION void OnnxPlanner::CheckInputs(const std::set<std::string>& reached) const {
  if (reached.empty()) Unsupported("what it computes depends on no input");
  if (options_.input.empty() ? reached.size() == 1 : reached == std::set<std::string>{options_.input}) return;
  std::string names;
  std::size_t count = 0;
  for (const std::string& name : reached) {
    if (++count <= 8) names += (count > 1 ? ", " : "") + Quoted(name);
  }
  Unsupported(
      Message({"it needs the inputs ", names, "; a network has one, which ImportOptions::input names"}));
}

NOLA_ONNX_DEFINITION void OnnxPlanner::ListRefusals(const Refusals& refusals) const {
  std::string list;
  std::size_t kinds = 0;
  for (const auto& [why, names] : refusals) {
    if (++kinds > 32) {
      list += Message({", and ", refusals.size() - 32, " more"});
      break;
    }
    list += Message(
        {list.empty() ? "" : ", ", why.size() < 120 ? why : why.substr(0, 120), " (", names.size(), ": "});
    // In the order of the model; they were found from its end.
    for (std::size_t i = 0; i < names.size() && i < 3; ++i) {
      list += (i > 0 ? ", " : "") + names[names.size() - 1 - i].substr(0, 60);
    }
    list += names.size() > 3 ? ", ..)" : ")";
  }
  for (char& c : list) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  Unsupported("no layer of this library does " + list);
}

NOLA_ONNX_DEFINITION void OnnxPlanner::FindDominators() {
  for (std::size_t i = 1; i < places_.size(); ++i) {
    Place& place = places_[i];
    std::size_t common = place.from.front();
    for (std::size_t other : place.from) {
      while (common != other) {
        std::size_t& deeper = places_[common].depth < places_[other].depth ? other : common;
        deeper = places_[deeper].dominator;
      }
    }
    place.dominator = common;
    place.depth = places_[common].depth + 1;
  }
}

/// From `begin`, which dominates `end`, to `end`.
NOLA_ONNX_DEFINITION OnnxWiring OnnxPlanner::Chain(std::size_t end, std::size_t begin, int depth) {
  constexpr int kDeepest = 64;
  if (depth > kDeepest) Unsupported(Message({"branches within branches, more than ", kDeepest, " deep"}));
  std::vector<std::size_t> ways;
  for (std::size_t i = end; i != begin;
       i = places_[i].from.size() > 1 ? places_[i].dominator : places_[i].from[0]) {
    ways.push_back(i);
  }
  std::reverse(ways.begin(), ways.end());
  OnnxWiring wiring;
  wiring.width = Width(begin);
  std::vector<OnnxLayerPlan> chain;
  for (const std::size_t i : ways) {
    Place& place = places_[i];
    if (place.step.kind == Kind::skip) continue;
    if (place.isBuilt) {
      Unsupported(Message(
          {"what ", Quoted(place.step.name), " makes is used in branches that are not one within another"}));
    }
    place.isBuilt = true;
    constexpr std::size_t kMost = 4096;
    if (++pieces_ > kMost) Unsupported(Message({"more than ", kMost, " layers"}));
    if (place.from.size() > 1) {
      std::move(chain.begin(), chain.end(), std::back_inserter(plan_.layers));
      chain.clear();
      wiring.parts.push_back(Branches(i, depth));
    } else {
      Append(place, chain, wiring);
    }
  }
  std::move(chain.begin(), chain.end(), std::back_inserter(plan_.layers));
  if (wiring.parts.empty()) wiring.kind = OnnxWiring::Kind::identity;
  if (wiring.parts.size() != 1) return wiring;
  OnnxWiring only = std::move(wiring.parts.front());
  return only;
}

NOLA_ONNX_DEFINITION OnnxWiring OnnxPlanner::Branches(std::size_t place, int depth) {
  const std::size_t begin = places_[place].dominator;
  OnnxWiring joined;
  joined.width = Width(begin);
  joined.kind = places_[place].step.kind == Kind::sum ? OnnxWiring::Kind::sum : OnnxWiring::Kind::product;
  std::vector<OnnxWiring> parts;
  for (const std::size_t from : places_[place].from) parts.push_back(Chain(from, begin, depth + 1));
  if (joined.kind == OnnxWiring::Kind::sum) {
    const auto isIdentity = [](const OnnxWiring& part) { return part.kind == OnnxWiring::Kind::identity; };
    const auto identity = std::find_if(parts.begin(), parts.end(), isIdentity);
    if (identity != parts.end() && !std::all_of(parts.begin(), parts.end(), isIdentity)) {
      parts.erase(identity);
      joined.kind = OnnxWiring::Kind::residual;
    }
  }
  joined.parts = std::move(parts);
  return joined;
}

NOLA_ONNX_DEFINITION std::string OnnxPlanner::NewName(const std::string& node) {
  const std::string name = OnnxLayerName(node);
  const auto [place, isNew] = names_.emplace(name, 2);
  std::string unique = name;
  while (!isNew && !names_.emplace(unique, 2).second) unique = Message({name, "_", place->second++});
  return unique;
}

}  // namespace nola::detail

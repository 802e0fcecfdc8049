// The tasks of basis_study.
#include "task_maker.hpp"

namespace basis_study {
namespace {

struct FashionVariant {
  std::string name;
  fashion_mnist::Settings settings;
};

const std::vector<FashionVariant>& FashionVariants() {
  static const std::vector<FashionVariant> variants{
      {"fashion-100", {.images = 100, .asManyOfEachClass = true, .epochs = 30}},
      {"fashion-1000", {.images = 1000}},
      {"fashion-5000", {.images = 5000}},
      {"fashion-20000", {.images = 20000}},
      {"wide", {.images = 500, .width = 1024, .epochs = 10}}};
  return variants;
}

}  // namespace

std::vector<std::string> TaskNames() {
  std::vector<std::string> names;
  for (const FashionVariant& variant : FashionVariants()) names.push_back(variant.name);
  for (const char* name : {"detector", "text"}) names.emplace_back(name);
  return names;
}

TaskFacts FactsOf(const std::string& name) {
  if (name == "text") return {.layers = 12, .tolerance = 0.05, .unit = "minus bits a character"};
  if (name == "detector") return {.unit = "balanced accuracy in %"};
  return {};
}

std::vector<std::uint64_t> BaseSeedsOf(const std::string& name, const Settings& settings) {
  return name == "fashion-20000" ? settings.baseSeeds : std::vector<std::uint64_t>{1};
}

examples::Task TaskMaker::Make(const std::string& name, std::uint64_t baseSeed) {
  const auto sized = [&](const auto& whole) { return settings_.small ? examples::Small(whole) : whole; };
  if (name == "detector") {
    return examples::DetectorTask(settings_.detector, sized(language_detector::Recipe()));
  }
  if (name == "text") return examples::TextTask(sized(examples::TextSettings()));
  for (const FashionVariant& variant : FashionVariants()) {
    if (name != variant.name) continue;
    fashion_mnist::Settings images = sized(variant.settings);
    images.baseSeed = baseSeed;
    const std::pair wanted{images.width, baseSeed};
    examples::Task task =
        examples::FashionTask(settings_.fashion, images, pretrained_ == wanted ? network_ : nullptr);
    pretrained_ = wanted;
    network_ = task.network;
    // The name that the tables of the distributions have.
    if (name != "fashion-5000") task.name += " (" + name + ")";
    return task;
  }
  throw nola::ConfigError("there is no task " + nola::Quoted(name));
}

}  // namespace basis_study

// The definition of PlanText.

#include "nola/core/text.hpp"

namespace nola::detail {

template <class Layout>
std::string PlanText(const Layout& plan) {
  const auto whole = [&plan](const PlanPlace& place) -> std::string {
    switch (place.kind) {
      case PlanPlace::Kind::input:
        return "input";
      case PlanPlace::Kind::output:
        return "output";
      case PlanPlace::Kind::buffer:
        return Message({"buffer ", place.number});
      case PlanPlace::Kind::constant:
        return plan.constantNames[place.number];
      case PlanPlace::Kind::none:
        break;
    }
    return "";
  };
  const auto named = [&whole](const PlanPlace& place) {
    if (place.columns == place.width) return whole(place);
    return Message({whole(place), "[", place.firstColumn, ":", place.firstColumn + place.columns, "]"});
  };
  std::string text;
  for (const PlanStep& step : plan.steps) {
    text += named(step.result) + " = ";
    text += step.isCopy ? "Copy" : NodeText(step.node);
    for (const PlanPlace& operand : step.operands) {
      text += (&operand == step.operands.data() ? "(" : ", ") + named(operand);
    }
    text += ")";
    if (step.initial.IsSet()) text += " + " + named(step.initial);
    for (const PlanFinish& finish : step.finishes) {
      text += std::string(", ") + GraphOperationName(finish.operation);
      if (finish.operand.IsSet()) text += " " + named(finish.operand);
    }
    text += "\n";
  }
  return text;
}

}  // namespace nola::detail

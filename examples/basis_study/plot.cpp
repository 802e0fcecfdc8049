// Scripts of gnuplot.
#include "plot.hpp"

#include <algorithm>

namespace basis_study {

Curve& Panel::At(const std::string& name) {
  const auto found =
      std::find_if(curves.begin(), curves.end(), [&](const Curve& curve) { return curve.name == name; });
  return found != curves.end() ? *found : curves.emplace_back(Curve{name});
}

void DrawPanels(std::ostream& script, const std::filesystem::path& picture, const std::string& xName,
                const std::vector<Panel>& panels) {
  const auto quoted = [](const std::string& text) {  // gnuplot doubles a quote
    std::string result = "'";
    for (const char letter : text) result += letter == '\'' ? "''" : std::string(1, letter);
    return result + "'";
  };
  script << "set terminal svg size 760," << 360 * panels.size()
         << " font 'sans-serif,12' background 'white'\nset output " << quoted(picture.string())
         << "\nset multiplot layout " << panels.size()
         << ",1\nset logscale x 2\nset grid\nset key outside right\nset xlabel " << quoted(xName) << '\n';
  int block = 0;
  for (const Panel& panel : panels) {
    std::string command;
    const auto add = [&](const std::string& element) {
      command += (command.empty() ? "plot " : ", \\\n  ") + element;
    };
    for (const Curve& curve : panel.curves) {
      const std::string id = "$curve" + std::to_string(block++);
      script << id << " << EOD\n";
      for (const auto& [x, mean, interval] : curve.points) {
        script << x << ' ' << mean << ' ' << interval << '\n';
      }
      script << "EOD\n";
      add(id + " using 1:2:3 with yerrorlines pointtype 7 pointsize 0.5 title " + quoted(curve.name));
    }
    for (const Curve& level : panel.levels) {
      add(std::to_string(level.points.front()[1]) + " title " + quoted(level.name) + " dashtype 2");
    }
    script << "set title " << quoted(panel.title) << "\nset ylabel " << quoted(panel.scoreName) << '\n'
           << command << '\n';
  }
  script << "unset multiplot\nunset output\n";
}

}  // namespace basis_study

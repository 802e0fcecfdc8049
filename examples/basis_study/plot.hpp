// Plots of the studies, as scripts of gnuplot.
#pragma once

#include <array>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

namespace basis_study {

/// Points of one method: x, a mean, and half the width of its interval.
struct Curve {
  std::string name;
  std::vector<std::array<double, 3>> points = {};
};

struct Panel {
  std::string title;
  std::string scoreName;
  std::vector<Curve> curves = {};
  std::vector<Curve> levels = {};  ///< horizontal lines, at the mean of their one point

  /// The curve of this name, added if there is none.
  Curve& At(const std::string& name);
};

/// Writes what draws panels one below the other into an SVG picture.
void DrawPanels(std::ostream& script, const std::filesystem::path& picture, const std::string& xName,
                const std::vector<Panel>& panels);

}  // namespace basis_study

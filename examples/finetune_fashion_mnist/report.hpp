// What the experiment leaves behind: a table on the screen, CSV files and a plot.
#pragma once

#include <filesystem>
#include <ostream>

#include "experiment.hpp"

namespace fashion_mnist {

/// The table that people read, a line for each method.
void PrintTable(const Results& results, std::ostream& out);

/// One line for each method. @throws nola::FileError if the file cannot be written.
void WriteResults(const Results& results, const std::filesystem::path& path);

/// One line for each training run, those of the search included. @throws as above.
void WriteRuns(const Results& results, const std::filesystem::path& path);

/// Writes a gnuplot script that draws accuracy against trained numbers into `picture` (SVG), with the numbers
/// in the script. @throws as above.
void WritePlotScript(const Results& results, const std::filesystem::path& script,
                     const std::filesystem::path& picture);

/// Runs gnuplot on the script. @return false if there is no gnuplot or it failed.
bool RunGnuplot(const std::filesystem::path& script);

}  // namespace fashion_mnist

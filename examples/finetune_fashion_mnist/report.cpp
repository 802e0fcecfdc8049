// Writing the table, the CSV files and the plot.
#include "report.hpp"

#include <spawn.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <map>
#include <string>

#include "output_files.hpp"

extern char** environ;

namespace fashion_mnist {
namespace {

/// printf into a string.
template <class... Values>
std::string Format(const char* format, Values... values) {
  std::array<char, 200> text{};
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

/// 669706 as 669,706.
std::string Grouped(long long value) {
  const std::string digits = std::to_string(value);
  std::string grouped;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

/// A file that must be written whole.
template <class Write>
void WriteFile(const std::filesystem::path& path, Write write) {
  examples::TextFile file;
  write(file.Stream());
  file.Save(path);
}

/// The curve of the plot that a method belongs to.
std::string Curve(const Method& method) {
  switch (method.kind) {
    case MethodKind::full:
      return "full fine-tuning";
    case MethodKind::lora:
      return "LoRA rank r";
    case MethodKind::nola:
      return method.name.substr(0, method.name.rfind(" with"));
    default:
      return "";
  }
}

/// What a point of a curve is labelled with.
std::string PointLabel(const Method& method) {
  switch (method.kind) {
    case MethodKind::lora:
      return "r = " + std::to_string(method.rank);
    case MethodKind::nola:
      return "k = " + std::to_string(method.numBasis);
    default:
      return "";
  }
}

}  // namespace

void PrintTable(const Results& results, std::ostream& out) {
  out << Format("%-34s %15s %11s %8s %17s %9s\n", "method", "trained numbers", "file bytes", "rate",
                "test accuracy", "seconds");
  for (const MethodResult& row : results.methods) {
    const bool trained = row.trainedNumbers > 0;
    const std::string accuracy = trained ? Format("%.2f +- %.2f %%", 100 * row.meanAccuracy, 100 * row.spread)
                                         : Format("%.2f %%        ", 100 * row.meanAccuracy);
    out << Format("%-34s %15s %11s %8s %17s %9s\n", row.method.name.c_str(),
                  Grouped(row.trainedNumbers).c_str(), Grouped(static_cast<long long>(row.fileBytes)).c_str(),
                  trained ? Format("%.4f", row.learningRate).c_str() : "", accuracy.c_str(),
                  trained ? Format("%.1f", row.cpuSeconds).c_str() : "");
  }
  const auto name = [&](std::size_t method) { return results.methods[method].method.name; };
  out << examples::DivergedNote(results.search, examples::kSearchNote, name)
      << examples::DivergedNote(results.final, examples::kFinalNote, name);
}

void WriteResults(const Results& results, const std::filesystem::path& path) {
  WriteFile(path, [&](std::ostream& out) {
    out << "method,trained_numbers,file_bytes,learning_rate,test_accuracy_mean,test_accuracy_spread,"
           "seconds\n";
    for (const MethodResult& row : results.methods) {
      out << row.method.name
          << Format(",%lld,%zu,%.6g,%.4f,%.4f,%.2f\n", static_cast<long long>(row.trainedNumbers),
                    row.fileBytes, row.learningRate, 100 * row.meanAccuracy, 100 * row.spread,
                    row.cpuSeconds);
    }
  });
}

void WriteRuns(const Results& results, const std::filesystem::path& path) {
  WriteFile(path, [&](std::ostream& out) {
    out << "method,part,seed,learning_rate,held_back_accuracy,test_accuracy,diverged,seconds\n";
    const auto write = [&](const std::vector<Run>& runs, bool search) {
      for (const Run& run : runs) {
        const std::string accuracy = Format("%.4f", 100 * run.score);
        out << results.methods[run.method].method.name << ',' << (search ? "search" : "final")
            << Format(",%llu,%.6g,", static_cast<unsigned long long>(run.seed), run.learningRate)
            << (search ? accuracy + "," : "," + accuracy)
            << Format(",%d,%.2f\n", run.diverged ? 1 : 0, run.cpuSeconds);
      }
    };
    write(results.search, true);
    write(results.final, false);
  });
}

void WritePlotScript(const Results& results, const std::filesystem::path& script,
                     const std::filesystem::path& picture) {
  std::string output;  // in single quotes, where gnuplot doubles a quote
  for (const char c : picture.string()) output += c == '\'' ? "''" : std::string(1, c);

  std::vector<std::string> names;
  std::map<std::string, std::string> points;
  for (const MethodResult& row : results.methods) {
    const std::string curve = Curve(row.method);
    if (curve.empty()) continue;
    if (!points.contains(curve)) names.push_back(curve);
    points[curve] += Format("%lld %.4f %.4f ", static_cast<long long>(row.trainedNumbers),
                            100 * row.meanAccuracy, 100 * row.spread) +
                     '"' + PointLabel(row.method) + "\"\n";
  }

  WriteFile(script, [&](std::ostream& out) {
    out << "set terminal svg size 760,480 font 'sans-serif,13' background 'white'\n"
        << "set output '" << output << "'\n"
        << "set logscale x\nset format x '%.0s%c'\nset grid\nset key bottom right\n"
        << "set xlabel 'trained numbers'\nset ylabel 'test accuracy on turned images, %'\n"
        << "set offsets graph 0.05, graph 0.08, graph 0.05, graph 0.02\n";
    std::string plot;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const std::string block = "$curve" + std::to_string(i);
      out << block << " << EOD\n" << points[names[i]] << "EOD\n";
      const std::string style = Format(" linetype %zu linewidth 2 pointtype 7 pointsize 0.6", i + 1);
      plot += (i == 0 ? "plot " : ", \\\n  ") + block + " using 1:2:3 with yerrorlines" + style + " title '" +
              names[i] + "', \\\n  " + block + " using 1:2:4 with labels offset 0,-0.9 font ',10' notitle";
    }
    out << plot << '\n';
  });
}

bool RunGnuplot(const std::filesystem::path& script) {
  std::string program = "gnuplot";
  std::string argument = script.string();
  std::array<char*, 3> arguments{program.data(), argument.data(), nullptr};
  pid_t child = 0;
  if (posix_spawnp(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ) != 0) return false;
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace fashion_mnist

// Every factor of an adapter for LLaMA-2 70B, rebuilt from seed and coefficients layer by layer, against
// reading the LoRA of the same rank from a file: from the page cache, and from the disk.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "measure.hpp"
#include "nola/kernels/basis_kernels.hpp"

using benchmarks::Race;
using benchmarks::Report;
using nola::BasisDistribution;
using nola::BasisGenerator;
using nola::Factor;
using nola::FactorMatrix;
using nola::Index;
using nola::Vector;

namespace {

struct Linear {
  const char* name;
  Index inputs, outputs;
};

/// The linear layers of a block of LLaMA-2 70B; k and v are narrow since eight heads share each.
constexpr Linear kLinears[] = {{"q", 8192, 8192},    {"k", 8192, 1024},     {"v", 8192, 1024},
                               {"o", 8192, 8192},    {"gate", 8192, 28672}, {"up", 8192, 28672},
                               {"down", 28672, 8192}};
constexpr Index kRank = 16;
constexpr Index kBases = 512;

/// Numbers of A and B of all linear layers of a block.
Index BlockSize() {
  Index size = 0;
  for (const Linear& linear : kLinears) size += kRank * (linear.inputs + linear.outputs);
  return size;
}

/// Rebuilds A and B of every layer in turn into one buffer each, as inference layer by layer would.
class Adapter {
 public:
  explicit Adapter(Index blocks) : blocks_(blocks), buffer_(28672, kRank) {
    const Index layers = blocks * static_cast<Index>(std::size(kLinears));
    coefficients_ = Eigen::MatrixXf::Random(kBases, 2 * layers) * 0.05F;
  }

  /// @param offset  with A's frozen offset, as the adapter has it
  void Rebuild(BasisDistribution distribution, bool offset = true) {
    Index layer = 0;
    for (Index block = 0; block < blocks_; ++block) {
      for (const Linear& linear : kLinears) {
        const BasisGenerator generator(42, static_cast<std::uint32_t>(layer), distribution);
        Build(generator, offset ? Factor::a : Factor::b, linear.inputs, 2 * layer);
        Build(generator, Factor::b, linear.outputs, 2 * layer + 1);
        ++layer;
      }
    }
  }

 private:
  void Build(const BasisGenerator& generator, Factor factor, Index length, Index column) {
    Eigen::Map<FactorMatrix<float>> matrix(buffer_.data(), length, kRank);
    nola::BuildFactor<float>(generator, factor, coefficients_.col(column), matrix, workspace_);
    benchmarks::Use(matrix.data());
  }

  Index blocks_;
  Eigen::MatrixXf coefficients_;
  FactorMatrix<float> buffer_;
  nola::BasisWorkspace<float> workspace_;
};

/// A float16 LoRA of the same rank, as a file that is removed at the end.
class LoraFile {
 public:
  LoraFile(const std::string& directory, Index blocks)
      : path_(directory + "/nola-llama70b.lora"), blocks_(blocks) {
    descriptor_ = open(path_.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (descriptor_ < 0) throw std::runtime_error("cannot write " + path_);
    buffer_.resize(static_cast<std::size_t>(BlockSize()) * sizeof(std::uint16_t));
    for (std::size_t i = 0; i < buffer_.size(); ++i) buffer_[i] = static_cast<char>(i * 2654435761U >> 13);
    for (Index block = 0; block < blocks; ++block) {
      if (write(descriptor_, buffer_.data(), buffer_.size()) != static_cast<ssize_t>(buffer_.size())) {
        throw std::runtime_error("cannot write " + path_);
      }
    }
    fsync(descriptor_);
  }
  ~LoraFile() {
    close(descriptor_);
    unlink(path_.c_str());
  }
  LoraFile(const LoraFile&) = delete;
  LoraFile& operator=(const LoraFile&) = delete;

  /// Reads it block by block into one buffer. @param convert  to float32 too, as the rebuilt factors are
  void Read(bool convert = false) {
    for (Index block = 0; block < blocks_; ++block) {
      ReadAt(static_cast<std::size_t>(block) * buffer_.size(), buffer_.data(), buffer_.size());
      benchmarks::Use(buffer_.data());
      if (!convert) continue;
      const Eigen::Map<const Eigen::Matrix<Eigen::half, Eigen::Dynamic, 1>> halves(
          reinterpret_cast<const Eigen::half*>(buffer_.data()), BlockSize());
      Index first = 0;
      for (const Linear& linear : kLinears) {
        for (const Index length : {linear.inputs, linear.outputs}) {
          factor_.head(kRank * length) = halves.segment(first, kRank * length).cast<float>();
          benchmarks::Use(factor_.data());
          first += kRank * length;
        }
      }
    }
  }

  /// Reads all of it into memory of its own, as a program that loads an adapter does.
  void ReadWhole() {
    const auto size = buffer_.size() * static_cast<std::size_t>(blocks_);
    const std::unique_ptr<char[]> memory(new char[size]);
    ReadAt(0, memory.get(), size);
    benchmarks::Use(memory.get());
  }

  /// Has the kernel drop the file's pages, so that the next Read comes from the disk (as the machine sees it:
  /// a host may have a cache of its own).
  void DropFromCache() {
    if (posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED) != 0) throw std::runtime_error("posix_fadvise");
  }

  double Bytes() const { return static_cast<double>(buffer_.size()) * static_cast<double>(blocks_); }

 private:
  void ReadAt(std::size_t offset, char* to, std::size_t size) {
    for (std::size_t done = 0; done < size;) {
      const ssize_t count = pread(descriptor_, to + done, size - done, static_cast<off_t>(offset + done));
      if (count <= 0) throw std::runtime_error("cannot read " + path_);
      done += static_cast<std::size_t>(count);
    }
  }

  std::string path_;
  Index blocks_;
  int descriptor_ = -1;
  std::vector<char> buffer_;
  Vector<float> factor_ = Vector<float>(28672 * kRank);
};

}  // namespace

int main(int argumentCount, char** argumentValues) {
  try {
    const benchmarks::Arguments arguments(argumentCount, argumentValues);
    const Index blocks = arguments.Quick() ? 1 : 80;
    Adapter adapter(blocks);
    LoraFile file(arguments.Get("directory", "/var/tmp"), blocks);
    Report report;
    const std::string group = "LLaMA-2 70B, rank 16, 512 bases";
    Race race;
    race.Add("rebuild, hadamard", [&] { adapter.Rebuild(BasisDistribution::hadamard); });
    race.Add("rebuild, hadamard, without the frozen offset",
             [&] { adapter.Rebuild(BasisDistribution::hadamard, false); });
    race.Add("read LoRA, page cache", [&] { file.Read(); });
    race.Add("read LoRA, page cache, to float32", [&] { file.Read(true); });
    race.Add("read LoRA, page cache, into fresh memory", [&] { file.ReadWhole(); });
    race.Run(arguments.Quick() ? 0 : 15);
    Race slow;
    slow.Add("rebuild, rademacher", [&] { adapter.Rebuild(BasisDistribution::rademacher); });
    slow.Run(arguments.Quick() ? 0 : 10);
    std::vector<double> disk;
    for (int i = 0; i < 5; ++i) {
      file.DropFromCache();
      const double start = benchmarks::Now();
      file.Read();
      disk.push_back(benchmarks::Now() - start);
    }
    report.Add(group, "size",
               {{"factor_elements", static_cast<double>(BlockSize() * blocks)},
                {"lora_bytes", file.Bytes()},
                {"coefficient_bytes", static_cast<double>(blocks) * std::size(kLinears) * 2 * kBases * 4}});
    report.AddCases(group, race);
    report.AddCases(group, slow);
    report.Add(group, "read LoRA, disk", {{"seconds", benchmarks::Median(disk)}});
    report.AddBar(group, "rebuild, hadamard, seconds", race.Seconds("rebuild, hadamard"), true, 0.1);
    report.AddBar(group, "rebuild, hadamard / read LoRA, page cache",
                  race.Ratio("rebuild, hadamard", "read LoRA, page cache"), true, 1);
    report.AddBar(group, "rebuild, hadamard / read LoRA, page cache, to float32",
                  race.Ratio("rebuild, hadamard", "read LoRA, page cache, to float32"), true, 1);
    report.Write(arguments.Get("json"));
  } catch (const std::exception& error) {
    std::cerr << "llama70b_benchmark: " << error.what() << '\n';
    return 1;
  }
}

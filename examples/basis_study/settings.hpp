// What basis_study is told.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "tasks.hpp"

namespace basis_study {

struct Settings : examples::StudySettings {
  std::filesystem::path output = "results/basis_study";
  bool resume = false;
  bool small = false;

  // The study of numbers:
  std::vector<nola::Index> numbers = {24, 48, 96, 144, 192, 384, 768, 1536};
  nola::Index frameRank = 128;
  std::vector<std::uint64_t> baseSeeds = {1};

  // The study of distributions:
  std::vector<nola::Index> bases = {16, 64, 256, 1024, 4096};
  std::vector<nola::Index> denseBases = {16, 64, 256, 1024, 4096};
  std::vector<nola::Index> ranks = {1, 2, 4, 8, 16};
};

}  // namespace basis_study

// A directory of labelled files: DIRECTORY/<language>/..., as rows for the classifier's head.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "detector.hpp"

namespace language_detector {

/// Files as the head sees them. Row i is files[i].
struct LabelledFiles {
  nola::Tensor<float> features;  ///< [files x head inputs]
  std::vector<std::int32_t> labels;
  std::vector<std::filesystem::path> files;

  nola::Index Count() const { return features.rows(); }
};

/// Reads all files below DIRECTORY/<language>, in the order of their paths; <language> is one that the
/// classifier knows: c, cpp, py, ... Files too short for an answer are left out.
/// @throws nola::FileError if there is no such directory or no file in it, nola::ConfigError for a language
/// that the
///         classifier does not know.
LabelledFiles ReadLabelledFiles(const Detector& detector, const std::filesystem::path& directory);

/// Holds back about this share of each language's files, for choices that the training must not see: the last
/// ones in the order of their paths, which keeps neighbours together, cut between two directories where there
/// are several.
/// @param share  0..1. @return {for training, held back}.
std::pair<LabelledFiles, LabelledFiles> HoldBack(const LabelledFiles& all, double share);

/// The files, and the two halves of each file's beginning as files of their own: three texts to learn from
/// for one, and two in three without the same licence at the top.
LabelledFiles WithHalves(const Detector& detector, const LabelledFiles& files);

/// Mean over the languages present of the share of its files that the head classifies as labelled, 0..1: a
/// language counts the same however many files it has.
double BalancedAccuracy(const nola::ILayer<float>& head, const LabelledFiles& files);

}  // namespace language_detector

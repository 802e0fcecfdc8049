// The real Fashion-MNIST, read from the gzipped IDX files of Debian's package dataset-fashion-mnist.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nola/nola.hpp>
#include <span>
#include <vector>

namespace fashion_mnist {

inline constexpr nola::Index kSide = 28;
inline constexpr nola::Index kPixels = kSide * kSide;
inline constexpr nola::Index kClasses = 10;

/// Images as rows of pixels in 0..1, and the class of each.
struct LabelledImages {
  nola::Tensor<float> pixels;  ///< [images x 784], an image row by row
  std::vector<std::int32_t> labels;

  nola::Index Count() const { return pixels.rows(); }
};

struct Dataset {
  LabelledImages training;
  LabelledImages test;
};

/// Reads a pair of IDX files, gzipped or plain: images (magic 00000803, count, 28, 28, bytes) and labels
/// (magic 00000801, count, bytes). Memory grows with what the files hold, never with what their headers
/// claim.
/// @throws nola::FileError, naming the file, if one is missing, damaged, shorter or longer than its header
/// says, of another kind or shape, if the counts differ or a label is no class.
LabelledImages ReadLabelledImages(const std::filesystem::path& images, const std::filesystem::path& labels);

/// Reads {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz from a directory.
/// @throws nola::FileError as above; for missing files it says what to install.
Dataset ReadDataset(const std::filesystem::path& directory);

/// The images turned by 90 degrees clockwise.
nola::Tensor<float> Turned(const nola::TensorRef<float>& pixels);

/// Rows first..first+count-1.
LabelledImages Slice(const LabelledImages& all, nola::Index first, nola::Index count);

/// The first images of each class, as many of each, in the order that they have.
/// @throws nola::ConfigError if the classes cannot share the count evenly, or have fewer images.
LabelledImages FirstOfEachClass(const LabelledImages& all, nola::Index count);

}  // namespace fashion_mnist

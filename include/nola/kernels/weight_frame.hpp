// The frame of a weight: its first singular directions, the same bits on every machine.
#pragma once

#include <string>

#include "nola/core/compiled.hpp"
#include "nola/core/tensor.hpp"
#include "nola/kernels/instruction_set.hpp"
#include "nola/storage/encoded_weight.hpp"

namespace nola {

/// Of the frame specification that ComputeFrame follows.
inline constexpr int kFrameSpecificationVersion = 1;

namespace detail {

inline constexpr Index kMostFrameRank = 512;

/// The two sides of a frame: left L [rows x rank] and right R transposed [columns x rank].
struct FrameSides {
  Tensor<float> left;
  Tensor<float> right;
};

/// L = U_p S_p^1/2 and R = S_p^1/2 V_p^T of the first p = `rank` singular directions of a weight
/// [rows x columns], scaled to ||L||^2 = ||R||^2 = p. Directions that the weight has not (with a singular
/// value below a millionth of the largest) are zero.
///
/// Numbers below 2^-126 in size count as zero.
///
/// The bits are those of the frame specification on every instruction set, for any number of threads and
/// whatever a compiler fuses. The weight is read nine times, some rows at a time: memory for 2^20 of its
/// numbers and for 5 (rows + columns) (rank + 40) more. Cost: 16 rows columns (rank + 16) operations, and on
/// one thread about 40 (rank + 16)^3.
/// @throws ConfigError for a rank outside 1..min(rows, columns, 512), and for a weight that is zero or has
/// numbers that are not finite in float.
/// @see frame specification v1; Halko, Martinsson, Tropp: Finding structure with randomness (SIAM Review
/// 2011), algorithm 4.4.
FrameSides ComputeFrame(Index rows, Index columns, Index rank, const EncodedWeight::RowReader& read,
                        InstructionSet set = DefaultInstructionSet());

/// Of all numbers of both sides, 16 hexadecimal digits.
std::string FrameChecksum(const FrameSides& sides);

}  // namespace detail
}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/kernels/weight_frame.inl"
#endif

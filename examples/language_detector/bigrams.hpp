// What the classifier sees of a text: the bigrams of bytes at its beginning, hashed into buckets.
#pragma once

#include <filesystem>
#include <nola/nola.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace language_detector {

/// Bigrams beyond these are not looked at: the first 10,001 bytes make 10,000.
inline constexpr nola::Index kMostBigrams = 10'000;
/// Characters, in UTF-16, that a text must have for an answer.
inline constexpr std::size_t kFewestCharacters = 20;

/// Fingerprint64 of FarmHash for texts of 1 to 7 bytes, which is all that a bigram needs.
/// @see https://github.com/google/farmhash, farmhashna::HashLen0to16.
/// @throws nola::ShapeError for other lengths.
std::uint64_t Fingerprint64OfShort(std::string_view text);

/// A file's bytes as the package sees them, through a JavaScript string and back: what is not UTF-8 becomes
/// U+FFFD, by the WHATWG decoder's rules, and each CR LF becomes LF.
/// @return nothing for fewer than kFewestCharacters characters, for which the package gives no answer.
std::optional<std::string> NormaliseText(std::string_view bytes);

/// The buckets of the first kMostBigrams bigrams of a normalised text, in order, padded with
/// EmbeddingBag<float>::kPadding. A bigram is two bytes with a space between them. A byte outside ASCII
/// stands there as U+FFFD: the package's byte is a JavaScript string on its way, and no UTF-8 by itself.
/// @return [1 x kMostBigrams]
nola::Tensor<float> BigramBuckets(std::string_view text, nola::Index buckets);

/// The beginning of a file, long enough for all bigrams that count.
/// @throws nola::FileError if it cannot be read.
std::string ReadBeginning(const std::filesystem::path& path);

}  // namespace language_detector

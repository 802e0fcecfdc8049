// The study of distributions: which basis, how many, and which rank.
#pragma once

#include "settings.hpp"

namespace basis_study {

/// Runs the study: a row of results.csv for each method, group by group. @throws nola::FileError.
void StudyDistributions(const Settings& settings);

}  // namespace basis_study

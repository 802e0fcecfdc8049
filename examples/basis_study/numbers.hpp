// The study of numbers: how few a task needs, by adapters of several kinds.
#pragma once

#include "settings.hpp"

namespace basis_study {

/// Runs the study: a row of numbers.csv for each method, as soon as it is done. @throws nola::FileError.
void StudyNumbers(const Settings& settings);

}  // namespace basis_study

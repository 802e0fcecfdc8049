// The study of refinements: what a training of few numbers gains by more than an optimizer.
#pragma once

#include "settings.hpp"

namespace basis_study {

/// Runs the study on tasks of images: a row of refinements.csv for each method, as soon as it is done.
/// @throws nola::FileError, nola::ConfigError for a task of another kind.
void StudyRefinements(const Settings& settings);

}  // namespace basis_study

// What nola asks of a compiler and of Eigen, each in a sentence where it is not met.
#pragma once

#if !defined(_MSVC_LANG) && __cplusplus < 202002L || defined(_MSVC_LANG) && _MSVC_LANG < 202002L
#error "nola needs C++20: compile with -std=c++20 or later"
#endif
#if !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "nola reports errors by exceptions: compile without -fno-exceptions"
#endif
#if !defined(__cpp_rtti) && !defined(_CPPRTTI)
#error "nola asks layers for their type: compile without -fno-rtti"
#endif
#if defined(__FAST_MATH__) || defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error \
    "nola's bases are the same bits everywhere and its checks find NaN only in IEEE arithmetic: compile without -ffast-math and -ffinite-math-only"
#endif
#if defined(__ASSOCIATIVE_MATH__)
#error \
    "nola's bases are the same bits everywhere only in IEEE arithmetic: compile without -funsafe-math-optimizations and -fassociative-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 2
#error \
    "nola's bases are the same bits everywhere only where float is computed in float: compile with -mfpmath=sse -msse2"
#endif

#include <Eigen/Core>

static_assert(EIGEN_VERSION_AT_LEAST(3, 4, 0), "nola needs Eigen 3.4 or later");
static_assert(
    sizeof(Eigen::Index) == 8,
    "nola needs a 64-bit Eigen::Index: leave EIGEN_DEFAULT_DENSE_INDEX_TYPE undefined, on a 64-bit target");

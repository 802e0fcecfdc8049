// The intrinsics that the kernels use, without the rest of <immintrin.h> where that is known to be possible.
#pragma once

// GCC's <immintrin.h> declares some 6,000 functions, which takes the compiler 57 MB in every unit. Its parts
// ask for this macro; a later #include <immintrin.h> adds the others.
#if defined(__GNUC__) && __GNUC__ == 12 && !defined(__EDG__) && !defined(_IMMINTRIN_H_INCLUDED)
#include <smmintrin.h>
#define _IMMINTRIN_H_INCLUDED
#include <avxintrin.h>

#include <avx2intrin.h>

#include <avx512fintrin.h>

#include <avx512vlintrin.h>

#include <avx512bwintrin.h>
#include <avx512dqintrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#undef _IMMINTRIN_H_INCLUDED
#else
#include <immintrin.h>
#endif

// What benchmarks call of OpenBLAS, whose header is not where every package puts it.
#pragma once

#ifdef NOLA_OPENBLAS
extern "C" {
void cblas_sgemm(int order, int transposeLeft, int transposeRight, int rows, int columns, int depth,
                 float alpha, const float* left, int leftStride, const float* right, int rightStride,
                 float beta, float* result, int resultStride);
void openblas_set_num_threads(int threads);
char* openblas_get_corename();
}
#endif

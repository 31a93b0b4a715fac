// SPDX-License-Identifier: Apache-2.0
// The few products and solves of this folder, in float and double, over OpenBLAS. Row-major; `ld` is the distance
// between rows in elements. Called inside a parallel region each runs on the calling thread.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_BLAS_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_BLAS_H_

#include <cblas.h>

#include <cstdint>

// LAPACK's Cholesky factor, which OpenBLAS holds; liblapacke would bring a second copy of OpenBLAS with it.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming): LAPACK's names.
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
// NOLINTEND(readability-identifier-naming)
}

namespace quant::weight_only::blas {

// Sizes are at most 65536 (hessian.h).
inline int Int(int64_t n) { return static_cast<int>(n); }

// Lower Cholesky factor of a[n, n] in place; 0, or 1 + the number of the pivot that is not positive. Row-major lower is
// column-major upper.
inline int CholeskyTile(int64_t n, float* a, int64_t ld) {
  const int size = Int(n);
  const int stride = Int(ld);
  int info = 0;
  spotrf_("U", &size, a, &stride, &info);
  return info;
}
inline int CholeskyTile(int64_t n, double* a, int64_t ld) {
  const int size = Int(n);
  const int stride = Int(ld);
  int info = 0;
  dpotrf_("U", &size, a, &stride, &info);
  return info;
}

// b[m, n] = b L^-T with L[n, n] lower.
inline void SolveRightTransposed(int64_t m, int64_t n, const float* l, int64_t ldl, float* b, int64_t ldb) {
  cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, Int(m), Int(n), 1.0f, l, Int(ldl), b,
              Int(ldb));
}
inline void SolveRightTransposed(int64_t m, int64_t n, const double* l, int64_t ldl, double* b, int64_t ldb) {
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, Int(m), Int(n), 1.0, l, Int(ldl), b,
              Int(ldb));
}

// b[m, n] = b L^-1 with L[n, n] lower.
inline void SolveRight(int64_t m, int64_t n, const float* l, int64_t ldl, float* b, int64_t ldb) {
  cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, Int(m), Int(n), 1.0f, l, Int(ldl), b,
              Int(ldb));
}

// b[n, m] = -L^-T b with L[n, n] lower.
inline void NegativeSolveLeftTransposed(int64_t n, int64_t m, const float* l, int64_t ldl, float* b, int64_t ldb) {
  cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, Int(n), Int(m), -1.0f, l, Int(ldl), b,
              Int(ldb));
}
inline void NegativeSolveLeftTransposed(int64_t n, int64_t m, const double* l, int64_t ldl, double* b, int64_t ldb) {
  cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, Int(n), Int(m), -1.0, l, Int(ldl), b,
              Int(ldb));
}

// c[m, n] -= a[m, k] b[n, k]^T.
inline void SubtractProductTransposed(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                                      int64_t ldb, float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, Int(m), Int(n), Int(k), -1.0f, a, Int(lda), b, Int(ldb), 1.0f, c,
              Int(ldc));
}
inline void SubtractProductTransposed(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
                                      int64_t ldb, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, Int(m), Int(n), Int(k), -1.0, a, Int(lda), b, Int(ldb), 1.0, c,
              Int(ldc));
}

// c[m, n] = a[k, m]^T b[k, n]; k may be 0.
inline void TransposedProduct(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                              float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, Int(m), Int(n), Int(k), 1.0f, a, Int(lda), b, Int(ldb), 0.0f, c,
              Int(ldc));
}
inline void TransposedProduct(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
                              int64_t ldb, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, Int(m), Int(n), Int(k), 1.0, a, Int(lda), b, Int(ldb), 0.0, c,
              Int(ldc));
}

// c[m, n] = a[m, k] b[k, n] + beta c.
inline void Product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                    float beta, float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, Int(m), Int(n), Int(k), 1.0f, a, Int(lda), b, Int(ldb), beta,
              c, Int(ldc));
}

}  // namespace quant::weight_only::blas

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_BLAS_H_

// SPDX-License-Identifier: Apache-2.0
// Copies of a matrix between arrangements: the moves behind layout changes and Transpose.
#ifndef QUANT_WORKER_RUNTIME_KERNELS_TRANSPOSE_H_
#define QUANT_WORKER_RUNTIME_KERNELS_TRANSPOSE_H_

#include <cstddef>
#include <cstdint>

namespace quant::kernels {

// dst[r * cols + c] = src[r * row_stride + c * col_stride] for elements of `size` bytes (1, 2, 4 or 8; CHECK-fails
// otherwise), strides in elements, 0 or more. Fast when either stride is 1. src and dst are aligned for their elements
// and do not overlap. One thread.
void CopyMatrix(size_t size, int64_t rows, int64_t cols, const std::byte* src, int64_t row_stride, int64_t col_stride,
                std::byte* dst);

}  // namespace quant::kernels

#endif  // QUANT_WORKER_RUNTIME_KERNELS_TRANSPOSE_H_

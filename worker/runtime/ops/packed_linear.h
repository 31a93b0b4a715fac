// SPDX-License-Identifier: Apache-2.0
// MatMulNBits (com.microsoft) and MatMulCodebook (quantd): linear layers whose weights stay packed. The forms are those
// of worker/graph/linear.h; here are their checked sizes, for the plain loops and the oneDNN plan alike. Internal to
// worker/runtime.
#ifndef QUANT_WORKER_RUNTIME_OPS_PACKED_LINEAR_H_
#define QUANT_WORKER_RUNTIME_OPS_PACKED_LINEAR_H_

#include <cstdint>
#include <vector>

#include "worker/runtime/ops/util.h"

namespace quant::ops {

// Sizes of MatMulNBits(x, codes, scales[, zero_points[, g_idx[, bias]]]).
struct NBitsShape {
  int64_t rows = 0, cols = 0;  // N, K
  int bits = 4;                // 2, 4 or 8
  int64_t block = 0;           // columns that share a scale
  int64_t blocks = 0;          // per row; the last may be partial
  int64_t block_bytes = 0;     // of codes, whole blocks
  int64_t zero_bytes = 0;      // of packed zero points per row
  bool packed_zeros = false;   // uint8; else floats or absent
  int default_zero() const { return 1 << (bits - 1); }
};

// INVALID_ARGUMENT: attributes make no matrix or a constant's size does not fit them. UNIMPLEMENTED: g_idx.
absl::StatusOr<NBitsShape> GetNBitsShape(const Node& node, Descs in);

// Packed zero points [rows, zero_bytes] as floats [rows, blocks].
std::vector<float> UnpackZeros(const NBitsShape& shape, const Tensor& zeros);

// Sizes of MatMulCodebook(x, codes, absmax, codebook).
struct CodebookShape {
  int64_t rows = 0, cols = 0;
  int64_t block = 0;  // elements of the flattened matrix that share a magnitude
  int64_t blocks = 0;
};

absl::StatusOr<CodebookShape> GetCodebookShape(const Node& node, Descs in);

}  // namespace quant::ops

#endif  // QUANT_WORKER_RUNTIME_OPS_PACKED_LINEAR_H_

// SPDX-License-Identifier: Apache-2.0
// The quantized weights of a linear layer, as every weight-only method makes them, every checkpoint format stores them
// and the graph's MatMulNBits form (worker/graph/linear.h) carries them. Codes are unpacked here, one per byte: a layer
// at a time is in this form, never a model.
//
// A linear layer y = x W^T has `rows` outputs and `cols` inputs; W is [rows, cols] row-major, as in Hugging Face
// checkpoints. Groups run along the inputs.
//
// Thread-safety: values.
#ifndef QUANT_WORKER_TENSOR_WEIGHT_MATRIX_H_
#define QUANT_WORKER_TENSOR_WEIGHT_MATRIX_H_

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/status.h"

namespace quant {

// An integer grid per group:
//
//   W[r, c] = scales[r, g] * (codes[r, c] - zeros[r, g]),   g = group_of.empty() ? c / group_size : group_of[c]
//
// The last group is shorter when group_size does not divide cols; group_size == cols is one group per row.
struct GroupedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;                   // 2, 3, 4 or 8
  int64_t group_size = 0;         // 1 to cols
  std::vector<uint8_t> codes;     // [rows, cols], each 0 to 2^bits - 1
  std::vector<float> scales;      // [rows, groups()], finite; negative ones are legal (full-range symmetric grids)
  std::vector<float> zeros;       // [rows, groups()], or empty: 2^(bits-1) everywhere (symmetric). Integers 0 to
                                  // 2^bits - 1 but for HQQ with float zero points
  std::vector<int32_t> group_of;  // [cols], or empty: dynamic act-order's g_idx

  int64_t groups() const { return group_size > 0 ? (cols + group_size - 1) / group_size : 0; }
  bool symmetric() const { return zeros.empty(); }
  float zero(int64_t row, int64_t group) const {
    return zeros.empty() ? static_cast<float>(1 << (bits - 1)) : zeros[static_cast<size_t>(row * groups() + group)];
  }
  int64_t group(int64_t col) const { return group_of.empty() ? col / group_size : group_of[static_cast<size_t>(col)]; }
};

// A codebook per tensor and a magnitude per block of the flattened matrix, which may cross rows (bitsandbytes NF4,
// FP4):
//
//   W[i] = codebook[codes[i]] * absmax[i / block_size],   i = r * cols + c
struct CodebookMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t block_size = 64;      // a power of two, 32 to 4096
  bool fp4 = false;             // which of the two tables `codebook` is: NF4 or FP4
  std::vector<uint8_t> codes;   // [rows * cols], 0 to 15
  std::vector<float> codebook;  // 16
  std::vector<float> absmax;    // [blocks()]: as used, that is after double quantization where there is one
  // Double quantization (QLoRA, Dettmers et al. 2023, section 3): absmax[b] = nested_map[nested_codes[b]] *
  // nested_absmax[b / nested_block] + nested_offset. Empty: absmax is stored as float.
  std::vector<uint8_t> nested_codes;
  std::vector<float> nested_absmax;
  std::vector<float> nested_map;  // 256
  float nested_offset = 0;
  int64_t nested_block = 256;

  int64_t blocks() const { return (rows * cols + block_size - 1) / block_size; }
};

using WeightMatrix = std::variant<GroupedMatrix, CodebookMatrix>;

int64_t Rows(const WeightMatrix& w);
int64_t Cols(const WeightMatrix& w);

// Whether the fields agree with each other: sizes, code and zero-point ranges, finite scales. INVALID_ARGUMENT naming
// the field. Readers of files call it before anyone uses what they made.
absl::Status Validate(const WeightMatrix& w);

// The real weights of rows [begin, end) as float32, row-major into dst[(end - begin) * cols], computed in float32 as
// the formulas above read from left to right: scale * (code - zero), table entry * absmax.
void DequantizeRows(const WeightMatrix& w, int64_t begin, int64_t end, std::span<float> dst);

// Stored bits per weight: codes, scales of `scale_bits` and zero points of `bits` bits (float zero points: scale_bits);
// for a codebook 4 bits, and per block 32 bits or 8 bits and a share of the nested scales.
double BitsPerWeight(const WeightMatrix& w, int scale_bits = 16);

}  // namespace quant

#endif  // QUANT_WORKER_TENSOR_WEIGHT_MATRIX_H_

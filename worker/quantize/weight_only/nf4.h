// SPDX-License-Identifier: Apache-2.0
// NF4 and FP4 with optional double quantization (QLoRA: Dettmers et al. 2023, arXiv 2305.14314, section 3), byte for
// byte as bitsandbytes' CPU code has it, unless a search is asked for.
//
//   value[i] = codebook[code[i]] * absmax[i / block],   i = r * cols + c: blocks run over the flattened matrix
//
// absmax = max |w| of the block; code = the table entry nearest to w / absmax, an exact midpoint going to the lower
// entry. A block of zeros has absmax 0 and the code of 0. Double quantization: absmax minus its mean, in blocks of 256,
// against an 8-bit map whose 256 entries are denser near 0.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_NF4_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_NF4_H_

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

enum class FourBitCode { kNf4, kFp4 };

struct CodebookOptions {
  FourBitCode code = FourBitCode::kNf4;
  int64_t block_size = 64;  // a power of two, 32 to 4096
  bool double_quantization = false;
  // Off: absmax is the largest magnitude, as bitsandbytes has it. On: the least error sum importance (value - w)^2 over
  // 0.80 to 1.10 of that, refitted to its codes; files stay readable by bitsandbytes.
  bool search = false;
};

// The 256 values of double quantization's 8-bit map, ascending.
std::span<const float, 256> DynamicMap();

// `importance` (one weight >= 0 per column, E[x^2]; or empty) counts in the search only. With double quantization codes
// are chosen for the exact absmax (as bitsandbytes does) when there is no search, else for the absmax that a file gives
// back. The result's absmax is the latter always.
// INVALID_ARGUMENT: options out of range, as CheckWeights, an importance of another length. Uses `threads` (0:
// OpenMP's); the bits do not depend on it.
absl::StatusOr<CodebookMatrix> QuantizeCodebook(const MatrixView& weights, const CodebookOptions& options,
                                                std::span<const float> importance = {}, int threads = 0);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_NF4_H_

// SPDX-License-Identifier: Apache-2.0
// ggml's block formats of 32 weights that we write. Layout, rounding rules and vectors: docs/formats/gguf.md.
#ifndef QUANT_WORKER_FORMATS_GGUF_BLOCKS_H_
#define QUANT_WORKER_FORMATS_GGUF_BLOCKS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

// Names and values are those of the file format.
// NOLINTNEXTLINE(readability-identifier-naming): Q4_0 is a name
enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kBF16 = 30 };

inline constexpr int64_t kGgufBlock = 32;

const char* GgufTypeName(GgufType type);
// Bytes of a row of `cols` weights; cols is a multiple of 32 for the Q types.
int64_t GgufRowBytes(GgufType type, int64_t cols);

// Appends a row to `out`, quantized by ggml's own rule of the type:
//   Q8_0: d = max|x| / 127, q = x / d rounded half away from zero
//   Q4_0: d = (the value of largest magnitude) / -8, q = min(15, trunc(x / d + 8.5))
//   Q4_1: d = (max - min) / 15, m = min, q = min(15, trunc((x - m) / d + 0.5))
// Codes use the unrounded d; only then is d rounded to float16. A block of zeros has d = 0. F16 and BF16: round half to
// even; F32: as it is. x.size() is a multiple of 32 for the Q types; values must be finite.
void QuantizeGgufRow(GgufType type, std::span<const float> x, std::string* out);

// How a grouped matrix goes into a type.
struct GgufFit {
  GgufType type = GgufType::kF16;
  bool same_codes = false;  // stored as it is, no requantization
  bool exact = false;  // dequantizes to the same numbers (same_codes, and in Q4_1 every offset is a float16 number)
  std::string reason;  // why not, in a few words; "" when exact
};

// The smallest type that holds the matrix exactly: Q4_0 when every code minus its zero point lies in -8 to 7, Q8_0 in
// -128 to 127 for 8 bits. Asymmetric grids up to 4 bits that Q4_0 cannot hold go into Q4_1 with their codes, whose
// offset -scale * zero is rounded to float16. What has no such form (groups that are no multiple of 32 inputs, scales
// that are no float16, dynamic act-order, codebooks) is requantized to Q8_0, or stored as F16 when the inputs are no
// multiple of 32.
GgufFit FitGguf(const WeightMatrix& weights);

// Appends row `row` of the matrix as `fit` says.
void PackGgufRow(const WeightMatrix& weights, const GgufFit& fit, int64_t row, std::string* out);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GGUF_BLOCKS_H_

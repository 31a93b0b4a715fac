// SPDX-License-Identifier: Apache-2.0
// The two tables of 16 values that 4-bit codebooks have (CodebookMatrix), exactly as bitsandbytes stores them
// (functional.py, get_4bit_type).
#ifndef QUANT_WORKER_TENSOR_CODEBOOKS_H_
#define QUANT_WORKER_TENSOR_CODEBOOKS_H_

#include <span>

namespace quant {

// NormalFloat4: quantiles of a normal distribution, ascending from -1 to 1; code 7 is 0.
std::span<const float> Nf4Table();
// FP4: sign, two exponent bits, one mantissa bit, over 12; code 0 is 0, and code 8 a positive zero too.
std::span<const float> Fp4Table();

}  // namespace quant

#endif  // QUANT_WORKER_TENSOR_CODEBOOKS_H_

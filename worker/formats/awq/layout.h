// SPDX-License-Identifier: Apache-2.0
// How AWQ's GEMM layout puts eight columns into a word: column 8c + kAwqOrder[i] stands in bits 4i to 4i + 3.
#ifndef QUANT_WORKER_FORMATS_AWQ_LAYOUT_H_
#define QUANT_WORKER_FORMATS_AWQ_LAYOUT_H_

namespace quant {

inline constexpr int kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_AWQ_LAYOUT_H_

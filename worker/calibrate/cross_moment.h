// SPDX-License-Identifier: Apache-2.0
// How far the inputs of linear layers have moved since earlier layers were quantized, as far as a linear map can tell:
//
//   D = (2 / n) sum over tokens of (x - y) y^T,     x from the original model, y from the quantized one
//
// Beside the Hessian of y it gives the weights that would undo the difference
// (worker/quantize/weight_only/input_error.h). Blocks of 1024 tokens and tiles of fixed size as in hessian.h: the bits
// depend on the tokens alone. float32 products.
//
// Memory: 4 cols^2 bytes and 8 KiB per column.
#ifndef QUANT_WORKER_CALIBRATE_CROSS_MOMENT_H_
#define QUANT_WORKER_CALIBRATE_CROSS_MOMENT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

struct CrossMomentMatrix {
  int64_t cols = 0;
  int64_t tokens = 0;
  std::vector<float> d;  // [cols, cols] row-major; row i is the difference in x_i
};

// Thread-compatible; Add uses OpenMP's threads inside.
class CrossMoment {
 public:
  // INVALID_ARGUMENT unless 1 <= cols <= 65536. RESOURCE_EXHAUSTED: memory cannot be had.
  static absl::StatusOr<CrossMoment> Create(int64_t cols);

  // The same tokens in both models, [tokens, cols] row-major each. INVALID_ARGUMENT, with nothing added: sizes that do
  // not fit, or a NaN or infinity. Cost: 2 tokens * cols^2 multiply-adds.
  absl::Status Add(std::span<const float> original, std::span<const float> quantized, int64_t tokens);

  int64_t cols() const { return cols_; }
  int64_t tokens() const { return tokens_; }

  // D so far; the storage moves out.
  CrossMomentMatrix Finish() &&;

 private:
  CrossMoment() = default;
  void Flush();

  int64_t cols_ = 0;
  int64_t tokens_ = 0;
  int64_t pending_ = 0;
  std::vector<float> sum_;
  std::vector<float> difference_;  // [1024, cols]
  std::vector<float> quantized_;   // [1024, cols]
};

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_CROSS_MOMENT_H_

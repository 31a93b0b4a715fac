// SPDX-License-Identifier: Apache-2.0
// The second moments of one distinct input tensor of linear layers, from which GPTQ, AWQ's search and the sensitivities
// follow: q, k and v share one, gate and up share one.
//
//   H = (2 / n) sum over the n tokens of x x^T      (Frantar et al. 2023, arXiv 2210.17323, section 3.1)
//
// Tokens are taken in blocks of 1024, whatever the sizes of the Add calls, and a block's products are summed before
// they are added to the total; so the result depends on the tokens and their order alone, for any number of threads and
// any batching, and the error of H[i, j] relative to sqrt(H[i, i] H[j, j]) stays about 2^-25 (sqrt(1024) + sqrt(n /
// 1024)), under 1e-5 for a hundred million tokens.
//
// On CPUs with AVX512_BF16 the products are taken of x rounded to bfloat16 (half to even), twice as fast, with float32
// sums: exactly the H of inputs that differ by at most one part in 512 each, so it stays positive semi-definite, its
// diagonal is off by about 1e-6 and other entries by 1.6e-3 / sqrt(n), a thousandth of what drawing other tokens
// changes. HessianArithmetic::kFloat32 keeps every bit. Bits differ between the two, so between CPUs.
//
// Memory: 4 cols^2 bytes, and at most 4 KiB per column for the block being gathered (11008 columns: 485 MB + 45 MB).
#ifndef QUANT_WORKER_CALIBRATE_HESSIAN_H_
#define QUANT_WORKER_CALIBRATE_HESSIAN_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

// What the methods read. A value; the caller shares it between the layers that share the input.
struct HessianMatrix {
  int64_t cols = 0;
  int64_t tokens = 0;
  std::vector<float> h;         // [cols, cols] row-major, both triangles; all zeros when there were no tokens
  std::vector<float> mean_abs;  // [cols], mean of |x|: AWQ's measure of activation magnitude

  // E[x^2] up to the factor 2: the importance of a column in a scale search.
  std::vector<float> Diagonal() const;
};

enum class HessianArithmetic {
  kFastest,  // bfloat16 products where the CPU has them, else float32
  kFloat32,
};

// Thread-compatible; Add uses OpenMP's threads inside.
class Hessian {
 public:
  // INVALID_ARGUMENT unless 1 <= cols <= 65536 (17 GB). RESOURCE_EXHAUSTED: memory cannot be had.
  static absl::StatusOr<Hessian> Create(int64_t cols, HessianArithmetic arithmetic = HessianArithmetic::kFastest);

  // Adds tokens: x is [tokens, cols] row-major. INVALID_ARGUMENT, with nothing added: a size that does not fit, or a
  // NaN or infinity, whose token (counted from this call's first) and column are named. Cost: tokens * cols^2
  // multiply-adds.
  absl::Status Add(std::span<const float> x, int64_t tokens);

  // Adds what another has seen, as if its tokens came after ours (up to rounding: block limits differ).
  // INVALID_ARGUMENT: other columns or arithmetic.
  absl::Status Merge(const Hessian& other);

  int64_t cols() const { return cols_; }
  int64_t tokens() const { return tokens_; }

  // H so far, leaving nothing behind: the storage moves out.
  HessianMatrix Finish() &&;

 private:
  Hessian() = default;
  void Gather(const float* x, int64_t tokens);
  void Flush();

  int64_t cols_ = 0;
  int64_t tokens_ = 0;
  bool bfloat16_ = false;
  std::vector<float> sum_;  // [cols, cols]: sum of x x^T over whole blocks; the lower triangle and the diagonal tiles
  std::vector<double> abs_sum_;  // [cols]
  int64_t pending_ = 0;          // tokens gathered and not yet in sum_
  std::vector<float> block_;     // float32: [1024, cols]
  std::vector<uint32_t> pairs_;  // bfloat16: [cols / 16 rounded up][512][16], a pair of tokens in each word
};

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_HESSIAN_H_

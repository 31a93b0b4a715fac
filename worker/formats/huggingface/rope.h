// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) as config.json describes it: the frequencies
//
//   inv_freq[i] = theta^(-2 i / rotary_dim),   i < rotary_dim / 2
//
// and what rope_scaling makes of them. Angles are position * inv_freq, in float32 as Transformers computes them.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_ROPE_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_ROPE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/checkpoint.h"

namespace quant::huggingface {

inline constexpr int64_t kMaxPositions = int64_t{1} << 31;  // that config.json may claim

struct Rope {
  double theta = 10000;
  std::string type = "default";  // of the scaling, whose keys stand in config.json's member `block`
  std::string block;
  int64_t rotary_dim = 0;       // even; the first rotary_dim of head_dim turn, the rest passes
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  double attention_factor = 1;  // cos and sin are multiplied by it
  // longrope: the frequencies for sequences longer than `original_positions`; else empty.
  std::vector<float> long_inv_freq;
  // dynamic: beyond original_positions tokens inv_freq[i] is multiplied by
  // (factor * tokens / original_positions - (factor - 1))^(-2 i / (rotary_dim - 2)).
  double dynamic_factor = 0;  // 0: not dynamic
  int64_t original_positions = 0;
};

// Reads rope_theta, partial_rotary_factor and rope_scaling (or rope_parameters, their newer place). Scaling types:
// default, linear, dynamic, llama3, yarn, longrope (also "su"). UNIMPLEMENTED naming another one; INVALID_ARGUMENT
// naming the key: missing, not positive, or a factor list of another length than rotary_dim / 2.
absl::StatusOr<Rope> ReadRope(const Checkpoint& checkpoint, int64_t head_dim, int64_t max_positions);

}  // namespace quant::huggingface

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_ROPE_H_

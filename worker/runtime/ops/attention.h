// SPDX-License-Identifier: Apache-2.0
// Attention and RotaryEmbedding of ONNX opset 23, as checked shapes and attributes: what their plain loops
// (attention.cc) and the vectorised steps of the oneDNN plan both start from. Internal to worker/runtime.
//
//   Y = softmax(softcap(scale * Q K^T) + mask) V     per batch and head, K and V being past and new ones in one
//
// Query head h reads key and value head h / (q_heads / kv_heads). With is_causal query i sees keys up to past + i.
// softcap(s) = c * tanh(s / c) comes before the mask, as the specification says since onnx 1.19 (masked scores stay
// minus infinity). A query that may see no key at all gives zeros, where the formula would give NaN.
#ifndef QUANT_WORKER_RUNTIME_OPS_ATTENTION_H_
#define QUANT_WORKER_RUNTIME_OPS_ATTENTION_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "worker/runtime/ops/util.h"

namespace quant::ops {

struct AttentionShape {
  int64_t batch = 0;
  int64_t q_heads = 0, kv_heads = 0;
  int64_t q_len = 0;             // queries
  int64_t past = 0, kv_len = 0;  // keys from past_key, and from K
  int64_t head = 0, v_head = 0;  // elements of a query or key, and of a value
  bool flat = false;             // Q, K, V and Y are [batch, length, heads * size], else [batch, heads, length, size]
  bool causal = false;
  double scale = 1, softcap = 0;  // softcap 0: none
  bool has_mask = false;
  int64_t mask_keys = 0;                  // its last dimension; keys beyond it are masked out
  std::array<int64_t, 4> mask_strides{};  // over batch, head, query, key; 0 where it broadcasts

  int64_t total() const { return past + kv_len; }
  // Keys that query i may see by its position.
  int64_t Visible(int64_t i) const { return causal ? std::min(total(), past + i + 1) : total(); }
};

// INVALID_ARGUMENT when inputs or attributes do not fit each other; UNIMPLEMENTED for the fourth output (the scores)
// and for nonpad_kv_seqlen of opset 24.
absl::StatusOr<AttentionShape> GetAttentionShape(const Node& node, Descs in);

struct RotaryShape {
  int64_t batch = 0, heads = 0, length = 0, head = 0;
  int64_t rotated = 0;       // leading elements of a head that are rotated: even
  bool flat = false;         // X is [batch, length, heads * head], else [batch, heads, length, head]
  bool interleaved = false;  // pairs are (2i, 2i + 1), else (i, i + rotated / 2)
  bool positions = false;    // cos and sin are [positions, rotated / 2] looked up by position_ids [batch, length]; else
                             // [batch, length, rotated / 2]
  int64_t rows = 0;          // of the caches
};

// The standard operator takes (X, cos, sin, position_ids), com.microsoft's (X, position_ids, cos, sin).
struct RotaryInputs {
  size_t cos = 1, sin = 2, positions = 3;
};
RotaryInputs RotaryInputsOf(const Node& node);

absl::StatusOr<RotaryShape> GetRotaryShape(const Node& node, Descs in);

}  // namespace quant::ops

#endif  // QUANT_WORKER_RUNTIME_OPS_ATTENTION_H_

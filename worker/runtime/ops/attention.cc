// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quant::ops {
namespace {

constexpr size_t kMask = 3, kPastKey = 4, kPastValue = 5, kNonPad = 6;

// Heads and their size of input `what`, from rank 4 or from rank 3 and the number of heads.
struct Heads {
  int64_t heads, length, size;
};

absl::StatusOr<Heads> GetHeads(const TensorDesc& desc, int64_t attribute, const char* what, const char* key) {
  RETURN_IF_ERROR(CheckFloat(desc, what));
  const Shape& s = desc.shape;
  if (s.size() == 4) return Heads{s[1], s[2], s[3]};
  if (s.size() != 3) return Invalid(what, " has shape ", ShapeString(s), "; rank 3 or 4 is needed");
  if (attribute < 1 || s[2] % attribute != 0) {
    return Invalid(key, " is ", attribute, "; it must divide the ", s[2], " elements of ", what);
  }
  return Heads{attribute, s[1], s[2] / attribute};
}

absl::Status CheckPast(const TensorDesc& desc, const AttentionShape& s, int64_t size, const char* what) {
  const Shape want = {s.batch, s.kv_heads, s.past, size};
  if (desc.shape == want) return absl::OkStatus();
  return Invalid(what, " has shape ", ShapeString(desc.shape), "; ", ShapeString(want), " is needed");
}

absl::Status GetMask(const TensorDesc& mask, AttentionShape* s) {
  if (mask.dtype != DType::kBool) RETURN_IF_ERROR(CheckFloat(mask, "attn_mask"));
  const Shape& m = mask.shape;
  const Shape full = {s->batch, s->q_heads, s->q_len, s->total()};
  bool fits = !m.empty() && m.size() <= 4;
  const std::vector<int64_t> strides = Strides(m);
  for (size_t d = 0; fits && d < m.size(); ++d) {
    const size_t to = 4 - m.size() + d;
    // The last dimension may be shorter than the keys: the others are masked out.
    fits = m[d] == full[to] || m[d] == 1 || (to == 3 && m[d] < full[3]);
    s->mask_strides[to] = m[d] == 1 ? 0 : strides[d];
  }
  if (!fits) return Invalid("attn_mask ", ShapeString(m), " does not broadcast to ", ShapeString(full));
  s->has_mask = true;
  s->mask_keys = m.back() == 1 ? full[3] : m.back();
  return absl::OkStatus();
}

absl::Status InferAttention(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 7, 4));
  ASSIGN_OR_RETURN(const AttentionShape s, GetAttentionShape(node, in));
  for (TensorDesc& o : out) o.dtype = in[0]->dtype;
  out[0].shape = s.flat ? Shape{s.batch, s.q_len, s.q_heads * s.v_head} : Shape{s.batch, s.q_heads, s.q_len, s.v_head};
  if (out.size() > 1) out[1].shape = {s.batch, s.kv_heads, s.total(), s.head};
  if (out.size() > 2) out[2].shape = {s.batch, s.kv_heads, s.total(), s.v_head};
  return absl::OkStatus();
}

// Where element 0 of key or value `j` of a batch and head is.
class Rows {
 public:
  Rows(const AttentionShape& s, const Tensor& fresh, const Tensor* past, int64_t size)
      : s_(s), fresh_(Ptr<float>(fresh)), past_(past ? Ptr<float>(*past) : nullptr), size_(size) {}
  const float* At(int64_t b, int64_t h, int64_t j) const {
    if (j < s_.past) return past_ + ((b * s_.kv_heads + h) * s_.past + j) * size_;
    j -= s_.past;
    return fresh_ +
           (s_.flat ? ((b * s_.kv_len + j) * s_.kv_heads + h) : ((b * s_.kv_heads + h) * s_.kv_len + j)) * size_;
  }
  void CopyAllTo(Tensor& present) const {
    float* to = MutablePtr<float>(present);
    for (int64_t b = 0; b < s_.batch; ++b) {
      for (int64_t h = 0; h < s_.kv_heads; ++h) {
        for (int64_t j = 0; j < s_.total(); ++j, to += size_) std::copy_n(At(b, h, j), size_, to);
      }
    }
  }

 private:
  const AttentionShape& s_;
  const float* fresh_;
  const float* past_;
  int64_t size_;
};

double Dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// What the mask adds to a score.
double MaskAt(const AttentionShape& s, const Tensor& mask, int64_t b, int64_t h, int64_t i, int64_t j) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  if (j >= s.mask_keys) return kNever;
  const int64_t at = b * s.mask_strides[0] + h * s.mask_strides[1] + i * s.mask_strides[2] + j * s.mask_strides[3];
  if (mask.dtype() == DType::kBool) return Ptr<uint8_t>(mask)[at] != 0 ? 0.0 : kNever;
  return static_cast<double>(Ptr<float>(mask)[at]);
}

absl::Status ComputeAttention(const Node& node, Inputs in, Outputs out) {
  std::vector<TensorDesc> descs(in.size());
  std::vector<const TensorDesc*> pointers(in.size(), nullptr);
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == nullptr) continue;
    descs[i] = {in[i]->dtype(), in[i]->shape(), in[i]};
    pointers[i] = &descs[i];
  }
  ASSIGN_OR_RETURN(const AttentionShape s, GetAttentionShape(node, pointers));
  const Tensor* mask = At(in, kMask);
  const Rows keys(s, *in[1], At(in, kPastKey), s.head), values(s, *in[2], At(in, kPastValue), s.v_head);
  const float* q = Ptr<float>(*in[0]);
  float* y = MutablePtr<float>(out[0]);
  std::vector<double> p(static_cast<size_t>(s.total())), sum(static_cast<size_t>(s.v_head));
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.q_heads; ++h) {
      const int64_t g = h / (s.q_heads / s.kv_heads);
      for (int64_t i = 0; i < s.q_len; ++i) {
        const int64_t row = s.flat ? (b * s.q_len + i) * s.q_heads + h : (b * s.q_heads + h) * s.q_len + i;
        const int64_t visible = s.Visible(i);
        double max = -std::numeric_limits<double>::infinity();
        for (int64_t j = 0; j < visible; ++j) {
          double score = Dot(q + row * s.head, keys.At(b, g, j), s.head) * s.scale;
          if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
          if (mask != nullptr) score += MaskAt(s, *mask, b, h, i, j);
          p[static_cast<size_t>(j)] = score;
          max = std::max(max, score);
        }
        double total = 0;
        std::fill(sum.begin(), sum.end(), 0.0);
        const bool none = max == -std::numeric_limits<double>::infinity();
        for (int64_t j = 0; j < visible && !none; ++j) {
          const double e = std::exp(p[static_cast<size_t>(j)] - max);
          total += e;
          const float* v = values.At(b, g, j);
          for (size_t c = 0; c < sum.size(); ++c) sum[c] += e * static_cast<double>(v[c]);
        }
        for (size_t c = 0; c < sum.size(); ++c) {
          y[row * s.v_head + static_cast<int64_t>(c)] = none ? 0.0f : static_cast<float>(sum[c] / total);
        }
      }
    }
  }
  if (Wanted(out, 1)) keys.CopyAllTo(out[1]);
  if (Wanted(out, 2)) values.CopyAllTo(out[2]);
  return absl::OkStatus();
}

absl::Status InferRotary(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 4));
  RETURN_IF_ERROR(GetRotaryShape(node, in).status());
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeRotary(const Node& node, Inputs in, Outputs out) {
  std::vector<TensorDesc> descs(in.size());
  std::vector<const TensorDesc*> pointers(in.size(), nullptr);
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == nullptr) continue;
    descs[i] = {in[i]->dtype(), in[i]->shape(), in[i]};
    pointers[i] = &descs[i];
  }
  ASSIGN_OR_RETURN(const RotaryShape s, GetRotaryShape(node, pointers));
  const RotaryInputs at = RotaryInputsOf(node);
  const float *x = Ptr<float>(*in[0]), *cos = Ptr<float>(*in[at.cos]), *sin = Ptr<float>(*in[at.sin]);
  float* y = MutablePtr<float>(out[0]);
  std::vector<int64_t> positions;
  if (s.positions) {
    ASSIGN_OR_RETURN(positions, ToInt64(*in[at.positions]));
  }
  const int64_t half = s.rotated / 2;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t i = 0; i < s.length; ++i) {
      int64_t row = b * s.length + i;
      if (s.positions) {
        // One position: com.microsoft's offset of the first token.
        row = positions.size() == 1 ? positions[0] + i : positions[static_cast<size_t>(row)];
        if (row < 0 || row >= s.rows) return Invalid("position ", row, " is outside the cache of ", s.rows);
      }
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t from = (s.flat ? (b * s.length + i) * s.heads + h : (b * s.heads + h) * s.length + i) * s.head;
        for (int64_t k = 0; k < half; ++k) {
          const int64_t first = from + (s.interleaved ? 2 * k : k), second = s.interleaved ? first + 1 : first + half;
          const double c = static_cast<double>(cos[row * half + k]), z = static_cast<double>(sin[row * half + k]);
          const double p = static_cast<double>(x[first]), q = static_cast<double>(x[second]);
          y[first] = static_cast<float>(c * p - z * q);
          y[second] = static_cast<float>(z * p + c * q);
        }
        for (int64_t k = s.rotated; k < s.head; ++k) y[from + k] = x[from + k];
      }
    }
  }
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Attention", {InferAttention, ViaFloat<ComputeAttention>}},
    {"RotaryEmbedding", {InferRotary, ViaFloat<ComputeRotary>}},
    {"RotaryEmbedding", {InferRotary, ViaFloat<ComputeRotary>}, "com.microsoft"},
};

}  // namespace

absl::StatusOr<AttentionShape> GetAttentionShape(const Node& node, Descs in) {
  if (At(in, kNonPad) != nullptr) return Unsupported("nonpad_kv_seqlen is not supported; give an attn_mask instead");
  for (size_t i = 3; i < node.outputs.size(); ++i) {
    if (!node.outputs[i].empty()) return Unsupported("the output of scores (qk_matmul_output) is not supported");
  }
  ASSIGN_OR_RETURN(const Heads q, GetHeads(*in[0], node.Int("q_num_heads", 0), "Q", "q_num_heads"));
  ASSIGN_OR_RETURN(const Heads k, GetHeads(*in[1], node.Int("kv_num_heads", 0), "K", "kv_num_heads"));
  ASSIGN_OR_RETURN(const Heads v, GetHeads(*in[2], node.Int("kv_num_heads", 0), "V", "kv_num_heads"));
  AttentionShape s;
  const Shape &qs = in[0]->shape, &ks = in[1]->shape, &vs = in[2]->shape;
  if (qs.size() != ks.size() || qs.size() != vs.size() || qs[0] != ks[0] || qs[0] != vs[0] || k.length != v.length ||
      k.heads != v.heads || q.size != k.size) {
    return Invalid("Q ", ShapeString(qs), ", K ", ShapeString(ks), " and V ", ShapeString(vs), " do not fit");
  }
  if (k.heads < 1 || q.heads % k.heads != 0) {
    return Invalid(q.heads, " query heads cannot share ", k.heads, " key and value heads");
  }
  s.batch = qs[0];
  s.q_heads = q.heads, s.kv_heads = k.heads;
  s.q_len = q.length, s.kv_len = k.length;
  s.head = q.size, s.v_head = v.size;
  s.flat = qs.size() == 3;
  s.causal = node.Int("is_causal", 0) != 0;
  s.scale =
      node.Has("scale") ? static_cast<double>(node.Float("scale", 1)) : 1 / std::sqrt(static_cast<double>(s.head));
  s.softcap = static_cast<double>(node.Float("softcap", 0));
  if (!std::isfinite(s.scale) || !std::isfinite(s.softcap) || s.softcap < 0) {
    return Invalid("scale ", s.scale, " and softcap ", s.softcap, " must be finite and softcap not negative");
  }
  const TensorDesc *past_key = At(in, kPastKey), *past_value = At(in, kPastValue);
  if ((past_key == nullptr) != (past_value == nullptr)) return Invalid("past_key and past_value come together");
  if (past_key != nullptr) {
    RETURN_IF_ERROR(CheckFloat(*past_key, "past_key"));
    RETURN_IF_ERROR(CheckFloat(*past_value, "past_value"));
    if (past_key->shape.size() == 4) s.past = past_key->shape[2];
    RETURN_IF_ERROR(CheckPast(*past_key, s, s.head, "past_key"));
    RETURN_IF_ERROR(CheckPast(*past_value, s, s.v_head, "past_value"));
  }
  if (const TensorDesc* mask = At(in, kMask)) RETURN_IF_ERROR(GetMask(*mask, &s));
  return s;
}

RotaryInputs RotaryInputsOf(const Node& node) {
  if (node.domain == "com.microsoft") return {.cos = 2, .sin = 3, .positions = 1};
  return {};
}

absl::StatusOr<RotaryShape> GetRotaryShape(const Node& node, Descs in) {
  const bool microsoft = node.domain == "com.microsoft";
  const RotaryInputs at = RotaryInputsOf(node);
  const TensorDesc *cos = At(in, at.cos), *sin = At(in, at.sin), *positions = At(in, at.positions);
  if (cos == nullptr || sin == nullptr) return Invalid("the caches of cosines and sines are required");
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  RETURN_IF_ERROR(CheckFloat(*cos, "cos_cache"));
  RETURN_IF_ERROR(CheckFloat(*sin, "sin_cache"));
  const Shape& x = in[0]->shape;
  RotaryShape s;
  s.interleaved = node.Int("interleaved", 0) != 0;
  s.rotated = node.Int("rotary_embedding_dim", 0);
  s.flat = x.size() == 3;
  if (microsoft && (node.Int("is_packed_batching", 0) != 0 || node.Float("scale", 1) != 1)) {
    return Unsupported("is_packed_batching and scale of RotaryEmbedding are not supported");
  }
  if (microsoft && positions == nullptr) return Invalid("position_ids is required");
  if (x.size() == 4) {
    s.batch = x[0], s.heads = x[1], s.length = x[2], s.head = x[3];
  } else if (x.size() == 3) {
    s.batch = x[0], s.length = x[1];
    s.heads = node.Int("num_heads", 0);
    // Without num_heads com.microsoft's takes the size of a head from the caches.
    if (microsoft && s.heads == 0 && s.rotated == 0 && cos->shape.size() == 2 && cos->shape[1] > 0) {
      s.heads = x[2] / (2 * cos->shape[1]);
    }
    if (s.heads < 1 || x[2] % s.heads != 0) {
      return Invalid("num_heads is ", s.heads, "; it must divide the ", x[2], " elements of X");
    }
    s.head = x[2] / s.heads;
  } else {
    return Invalid("X has shape ", ShapeString(x), "; rank 3 or 4 is needed");
  }
  if (s.rotated == 0) s.rotated = s.head;
  if (s.rotated < 0 || s.rotated > s.head || s.rotated % 2 != 0) {
    return Invalid("rotary_embedding_dim is ", s.rotated, "; it must be even and at most ", s.head);
  }
  s.positions = positions != nullptr;
  if (s.positions) {
    if (positions->dtype != DType::kInt64 && positions->dtype != DType::kInt32) {
      return Invalid("position_ids is ", DTypeName(positions->dtype), "; int64 is needed");
    }
    if (positions->shape != Shape{s.batch, s.length} && !(microsoft && positions->shape == Shape{1})) {
      return Invalid("position_ids has shape ", ShapeString(positions->shape), "; ",
                     ShapeString(Shape{s.batch, s.length}), " is needed");
    }
    s.rows = cos->shape.empty() ? 0 : cos->shape[0];
  } else {
    s.rows = s.batch * s.length;
  }
  const Shape want = s.positions ? Shape{s.rows, s.rotated / 2} : Shape{s.batch, s.length, s.rotated / 2};
  if (cos->shape != want || sin->shape != want) {
    return Invalid("cos_cache ", ShapeString(cos->shape), " and sin_cache ", ShapeString(sin->shape), " must be ",
                   ShapeString(want));
  }
  return s;
}

std::span<const OpEntry> AttentionOps() { return kOps; }

}  // namespace quant::ops

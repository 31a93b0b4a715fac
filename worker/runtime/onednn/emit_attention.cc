// SPDX-License-Identifier: Apache-2.0
// Attention (ops/attention.h), in blocks of queries of one head:
//
//   scores = Q K^T of the keys that the block may see, softmax row by row, scores V
//
// so that causal work is skipped, several query heads read the same keys and values without a copy, and memory is one
// block of scores per thread. A past is joined with the new keys and values first, as the `present` outputs want it.
#include <algorithm>
#include <limits>

#include "common/strings.h"
#include "worker/runtime/kernels/decoder.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/ops/attention.h"

namespace quant::onednn {
namespace {

using ops::AttentionShape;

// Blocks of so few queries take dot products instead of sgemm: decoding.
constexpr int64_t kFewQueries = 4;

// Where the rows of a head lie: element 0 of row i is at b * batch + h * head + i * row.
struct Strides {
  int64_t batch, head, row;
};
Strides StridesOf(bool flat, int64_t heads, int64_t length, int64_t size) {
  if (flat) return {length * heads * size, size, heads * size};
  return {heads * length * size, length * size, size};
}

// The mask of one query as floats to be added, in `row` unless it lies so already.
class Mask {
 public:
  Mask(const AttentionShape& s, DType dtype, const std::byte* data) : s_(s), dtype_(dtype), data_(data) {}
  const float* Row(int64_t b, int64_t h, int64_t i, int64_t keys, float* row) const {
    if (data_ == nullptr) return nullptr;
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    const int64_t from = b * s_.mask_strides[0] + h * s_.mask_strides[1] + i * s_.mask_strides[2];
    const int64_t step = s_.mask_strides[3], have = std::min(keys, s_.mask_keys);
    if (dtype_ == DType::kBool) {
      const uint8_t* p = reinterpret_cast<const uint8_t*>(data_) + from;
      for (int64_t j = 0; j < have; ++j) row[j] = p[j * step] != 0 ? 0.0f : kNever;
    } else {
      const float* p = reinterpret_cast<const float*>(data_) + from;
      if (step == 1 && have == keys) return p;
      for (int64_t j = 0; j < have; ++j) row[j] = p[j * step];
    }
    std::fill(row + have, row + keys, kNever);
    return row;
  }

 private:
  const AttentionShape& s_;
  DType dtype_;
  const std::byte* data_;
};

struct Job {
  AttentionShape s;
  Strides q, k, v, y;
  int64_t block = 0;  // queries

  int64_t blocks() const { return (s.q_len + block - 1) / block; }
  int64_t ScratchFloats() const { return ((block + 1) * s.total() + 15) / 16 * 16; }
};

// Queries [begin, end) of head h of batch b.
absl::Status Attend(const Job& job, int64_t b, int64_t h, int64_t begin, int64_t end, const float* q, const float* k,
                    const float* v, const Mask& mask, float* y, float* scratch) {
  const AttentionShape& s = job.s;
  const int64_t g = h / (s.q_heads / s.kv_heads), keys = s.Visible(end - 1), rows = end - begin;
  const float* queries = q + b * job.q.batch + h * job.q.head + begin * job.q.row;
  const float* all_keys = k + b * job.k.batch + g * job.k.head;
  const float* values = v + b * job.v.batch + g * job.v.head;
  float* out = y + b * job.y.batch + h * job.y.head + begin * job.y.row;
  float* scores = scratch;
  float* mask_row = scratch + job.block * s.total();
  const bool few = rows <= kFewQueries;
  dnnl_status_t status = dnnl_success;
  if (keys > 0 && few) {
    for (int64_t i = 0; i < rows; ++i) {
      kernels::DotRows(queries + i * job.q.row, all_keys, job.k.row, s.Visible(begin + i), s.head, scores + i * keys);
    }
  } else if (keys > 0) {
    status =
        dnnl_sgemm('N', 'T', rows, keys, s.head, 1.0f, queries, job.q.row, all_keys, job.k.row, 0.0f, scores, keys);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t visible = s.Visible(begin + i);
    float* row = scores + i * keys;
    kernels::SoftmaxScores(row, visible, static_cast<float>(s.scale), static_cast<float>(s.softcap),
                           mask.Row(b, h, begin + i, visible, mask_row));
    if (!few) std::fill(row + visible, row + keys, 0.0f);
    if (few) kernels::WeightedSum(row, values, job.v.row, visible, s.v_head, out + i * job.y.row);
  }
  if (!few && keys > 0 && status == dnnl_success) {
    status = dnnl_sgemm('N', 'N', rows, s.v_head, keys, 1.0f, scores, keys, values, job.v.row, 0.0f, out, job.y.row);
  } else if (!few && keys == 0) {
    for (int64_t i = 0; i < rows; ++i) std::fill_n(out + i * job.y.row, s.v_head, 0.0f);
  }
  if (status == dnnl_success) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("dnnl_sgemm failed (status ", status, ")"));
}

// present[b, h] = past[b, h] followed by the new rows. `past` is -1 when there is none.
void EmitJoin(PlanBuilder& b, const std::string& node, const AttentionShape& s, int64_t size, int past, int fresh,
              int dst) {
  const Strides from = StridesOf(s.flat, s.kv_heads, s.kv_len, size);
  Step step;
  step.node = node;
  step.what = "Attention present";
  step.threads = b.ThreadsFor(static_cast<double>(s.batch * s.kv_heads * s.total() * size) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const float* old_rows = past < 0 ? nullptr : reinterpret_cast<const float*>(p[static_cast<size_t>(past)]);
    const float* new_rows = reinterpret_cast<const float*>(p[static_cast<size_t>(fresh)]);
    float* to = reinterpret_cast<float*>(p[static_cast<size_t>(dst)]);
    kernels::ParallelRanges(threads, s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* row = to + i * s.total() * size;
        if (old_rows != nullptr) row = std::copy_n(old_rows + i * s.past * size, s.past * size, row);
        const float* head = new_rows + i / s.kv_heads * from.batch + i % s.kv_heads * from.head;
        for (int64_t j = 0; j < s.kv_len; ++j) row = std::copy_n(head + j * from.row, size, row);
      }
    });
    return absl::OkStatus();
  };
  std::vector<int> reads = {fresh};
  if (past >= 0) reads.push_back(past);
  b.AddStep(std::move(step), reads, {dst});
}

// Keys (i = 0) or values (1): their buffer, joined with the past where there is one or the result is wanted.
struct Source {
  int buffer;
  Strides strides;
};
absl::StatusOr<Source> KeysOrValues(PlanBuilder& b, int node_index, const AttentionShape& s, size_t i) {
  const int64_t size = i == 0 ? s.head : s.v_head;
  ASSIGN_OR_RETURN(const int fresh, b.Use(b.In(node_index, 1 + i), Layout::kPlain));
  const int present = b.Out(node_index, 1 + i);
  if (present < 0 && s.past == 0) return Source{fresh, StridesOf(s.flat, s.kv_heads, s.kv_len, size)};
  int past = -1;
  if (s.past > 0) {
    ASSIGN_OR_RETURN(past, b.Use(b.In(node_index, 4 + i), Layout::kPlain));
  }
  const int dst =
      present >= 0 ? b.Define(present, Layout::kPlain) : b.Temporary(s.batch * s.kv_heads * s.total() * size * 4);
  EmitJoin(b, b.node(node_index).name, s, size, past, fresh, dst);
  return Source{dst, StridesOf(false, s.kv_heads, s.total(), size)};
}

}  // namespace

absl::StatusOr<bool> EmitAttention(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  std::vector<TensorDesc> descs(n.inputs.size());
  std::vector<const TensorDesc*> in(n.inputs.size(), nullptr);
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const int id = b.In(node_index, i);
    if (id < 0) continue;
    descs[i] = {b.value(id).dtype, b.value(id).shape, nullptr};
    in[i] = &descs[i];
    if (b.value(id).dtype != DType::kFloat32 && !(i == 3 && b.value(id).dtype == DType::kBool)) return false;
  }
  ASSIGN_OR_RETURN(const AttentionShape s, ops::GetAttentionShape(n, in));
  if (b.value(b.Out(node_index)).elements == 0) return false;
  Job job{.s = s};
  ASSIGN_OR_RETURN(const int q, b.Use(b.In(node_index, 0), Layout::kPlain));
  ASSIGN_OR_RETURN(const Source k, KeysOrValues(b, node_index, s, 0));
  ASSIGN_OR_RETURN(const Source v, KeysOrValues(b, node_index, s, 1));
  job.q = StridesOf(s.flat, s.q_heads, s.q_len, s.head);
  job.y = StridesOf(s.flat, s.q_heads, s.q_len, s.v_head);
  job.k = k.strides;
  job.v = v.strides;
  // 64 queries, fewer where their scores would leave the second-level cache.
  job.block = std::min(s.q_len, std::clamp<int64_t>((int64_t{1} << 19) / std::max<int64_t>(s.total(), 1) / 4, 8, 64));
  std::vector<int> used = {q, k.buffer, v.buffer};
  int mask = -1;
  const DType mask_type = s.has_mask ? b.value(b.In(node_index, 3)).dtype : DType::kFloat32;
  if (s.has_mask) {
    ASSIGN_OR_RETURN(mask, b.Use(b.In(node_index, 3), Layout::kPlain));
    used.push_back(mask);
  }
  const int dst = b.Define(b.Out(node_index), Layout::kPlain);
  Step step;
  step.node = n.name;
  const double products = static_cast<double>(s.batch * s.q_heads * s.q_len) * static_cast<double>(s.total()) *
                          static_cast<double>(s.head + s.v_head);
  step.threads = b.ThreadsFor(products / (s.q_len <= kFewQueries ? 5e3 : 20e3));
  step.what = absl::StrCat("Attention blocks of ", job.block);
  const int scratch = b.Temporary(job.ScratchFloats() * 4 * step.threads);
  used.push_back(scratch);
  step.run = [=, threads = step.threads](Pointers p) -> absl::Status {
    const auto floats = [&](int buffer) { return reinterpret_cast<float*>(p[static_cast<size_t>(buffer)]); };
    const Mask masks(job.s, mask_type, mask < 0 ? nullptr : p[static_cast<size_t>(mask)]);
    std::vector<absl::Status> failed(static_cast<size_t>(threads));
    const int64_t heads = job.s.batch * job.s.q_heads;
    // The longest first: the last blocks see the most keys.
    kernels::ParallelTasks(threads, heads * job.blocks(), [&](int64_t task, int thread) {
      const int64_t block = job.blocks() - 1 - task / heads, head = task % heads;
      const int64_t begin = block * job.block, end = std::min(job.s.q_len, begin + job.block);
      absl::Status status =
          Attend(job, head / job.s.q_heads, head % job.s.q_heads, begin, end, floats(q), floats(k.buffer),
                 floats(v.buffer), masks, floats(dst), floats(scratch) + thread * job.ScratchFloats());
      if (!status.ok()) failed[static_cast<size_t>(thread)] = std::move(status);
    });
    for (absl::Status& status : failed) RETURN_IF_ERROR(status);
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), used, {dst});
  return true;
}

}  // namespace quant::onednn

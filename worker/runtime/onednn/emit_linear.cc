// SPDX-License-Identifier: Apache-2.0
// Linear layers whose weights stay as they are stored (worker/graph/linear.h): 16- and 32-bit floats [N, K] behind Cast
// and Transpose, MatMulNBits and MatMulCodebook. Nothing is repacked, so that a plan for another sequence length costs
// next to nothing and a mapped model stays mapped.
//
//   few rows of x   one pass over the weights (kernels::Gemv), N split over threads
//   many rows       panels of W are widened to float32 in cache and multiplied with dnnl_sgemm, a panel per thread
//
// The panels depend on the shape alone: the number of threads changes nothing.
#include <algorithm>
#include <optional>

#include "common/strings.h"
#include "worker/graph/linear.h"
#include "worker/runtime/kernels/linear.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/fusion.h"
#include "worker/runtime/ops/packed_linear.h"

namespace quant::onednn {
namespace {

using kernels::WeightType;
using kernels::WeightView;

// Up to so many rows of x are multiplied in one pass over the weights. Beyond, widening a panel pays.
constexpr int64_t kGemvRows = 8;

struct Panels {
  int64_t rows, cols;  // of W at a time: a panel of at most 512 KB, which stays in the second-level cache
};

Panels GetPanels(const WeightView& w) {
  Panels p{};
  // Eight panels where N is small, so that there is work for several threads; 256 rows make sgemm's own copy of x
  // cheap.
  p.rows = std::clamp<int64_t>((w.rows / 8 + 15) / 16 * 16, 32, 256);
  constexpr int64_t kCols = 512;
  p.cols = w.cols;
  if (w.cols > 2 * kCols) {
    p.cols = kCols;
    // Whole blocks, or pieces of them that start at a whole byte.
    if (w.type == WeightType::kNBits && w.block > 1) {
      if (w.block <= kCols) p.cols = (kCols + w.block - 1) / w.block * w.block;
      if (w.block > kCols && w.block % 4 != 0) p.cols = w.cols;
    }
  }
  return p;
}

bool CanReadInPlace(const WeightView& w) {
  return w.type == WeightType::kF32 && reinterpret_cast<uintptr_t>(w.data) % alignof(float) == 0;
}

struct Product {
  WeightView w;
  int64_t m = 0;
  std::vector<float> bias;  // [N] or empty
};

void AddBias(const Product& p, int64_t begin, int64_t end, float* y) {
  if (p.bias.empty()) return;
  for (int64_t i = 0; i < p.m; ++i) {
    float* row = y + i * p.w.rows;
    for (int64_t n = begin; n < end; ++n) row[n] += p.bias[static_cast<size_t>(n)];
  }
}

// One panel of many-row products: columns [begin, end) of y.
absl::Status MultiplyPanel(const Product& p, const Panels& panels, int64_t begin, int64_t end, const float* x, float* y,
                           float* panel) {
  const WeightView& w = p.w;
  for (int64_t k = 0; k < w.cols; k += panels.cols) {
    const int64_t width = std::min(panels.cols, w.cols - k);
    const float* weights = panel;
    int64_t ld = width;
    if (CanReadInPlace(w)) {
      weights = reinterpret_cast<const float*>(w.data) + begin * w.cols + k;
      ld = w.cols;
    } else {
      kernels::DequantizeBlock(w, begin, end, k, k + width, panel, width);
    }
    const dnnl_status_t status = dnnl_sgemm('N', 'T', p.m, end - begin, width, 1.0f, x + k, w.cols, weights, ld,
                                            k == 0 ? 0.0f : 1.0f, y + begin, w.rows);
    if (status != dnnl_success) return absl::InternalError(absl::StrCat("dnnl_sgemm failed (status ", status, ")"));
  }
  AddBias(p, begin, end, y);
  return absl::OkStatus();
}

int64_t WeightBytes(const WeightView& w) {
  const int64_t count = w.rows * w.cols;
  switch (w.type) {
    case WeightType::kF32:
      return 4 * count;
    case WeightType::kF16:
    case WeightType::kBF16:
      return 2 * count;
    case WeightType::kNBits:
      return w.rows * w.blocks * w.block_bytes;
    case WeightType::kCodebook:
      return count / 2;
  }
  return count;
}

const char* TypeName(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "float32";
    case WeightType::kF16:
      return "float16";
    case WeightType::kBF16:
      return "bfloat16";
    case WeightType::kNBits:
      return "nbits";
    case WeightType::kCodebook:
      return "codebook";
  }
  return "?";
}

// A bias in the next node joins the product. Returns the value that the step defines.
int TakeBias(PlanBuilder& b, int out, int64_t rows, std::vector<float>* bias) {
  const int n = b.OnlyConsumer(out);
  if (n < 0 || b.Claimed(n) || b.node(n).op_type != "Add" || !b.node(n).domain.empty()) return out;
  if (b.value(b.Out(n)).shape != b.value(out).shape) return out;
  const int other = b.In(n, b.In(n, 0) == out ? 1 : 0);
  const std::vector<float> v =
      ChannelVector(b, other, b.value(out).shape, static_cast<int>(b.value(out).shape.size()) - 1);
  if (v.empty()) return out;
  bias->resize(static_cast<size_t>(rows), 0.0f);
  for (size_t i = 0; i < bias->size(); ++i) (*bias)[i] += v[v.size() == 1 ? 0 : i];
  b.Claim(n);
  return b.Out(n);
}

absl::StatusOr<bool> EmitProduct(PlanBuilder& b, int node_index, Product product) {
  const int x = b.In(node_index, 0);
  const WeightView& w = product.w;
  product.m = b.value(x).elements / w.cols;
  const int out = TakeBias(b, b.Out(node_index), w.rows, &product.bias);
  ASSIGN_OR_RETURN(const int src, b.Use(x, Layout::kPlain));
  const int dst = b.Define(out, Layout::kPlain);
  const bool few = product.m <= kGemvRows;
  // 10 GB/s of weights, or 60 GFLOP/s, on one thread.
  const double microseconds = few ? static_cast<double>(WeightBytes(w)) / 10e3
                                  : static_cast<double>(product.m) * static_cast<double>(w.rows * w.cols) / 30e3;
  Step step;
  step.node = b.node(node_index).name;
  step.threads = b.ThreadsFor(microseconds);
  step.what =
      absl::StrCat(few ? "linear gemv " : "linear panels ", TypeName(w.type), product.bias.empty() ? "" : "+bias");
  const int threads = step.threads;
  std::vector<int> used = {src};
  const auto scratch = [&](int64_t floats) {
    used.push_back(b.Temporary(floats * 4));
    return used.back();
  };
  if (few) {
    const int64_t own_floats = (kernels::GemvThreadFloats(w) + 15) / 16 * 16;
    const int shared = scratch(kernels::GemvSharedFloats(w, product.m)), own = scratch(own_floats * threads);
    step.run = [=, p = std::move(product)](Pointers at) -> absl::Status {
      const float* from = reinterpret_cast<const float*>(at[static_cast<size_t>(src)]);
      float* to = reinterpret_cast<float*>(at[static_cast<size_t>(dst)]);
      float* ordered = reinterpret_cast<float*>(at[static_cast<size_t>(shared)]);
      float* rows = reinterpret_cast<float*>(at[static_cast<size_t>(own)]);
      kernels::GemvPrepare(p.w, from, p.m, ordered);
      kernels::ParallelRanges(threads, p.w.rows, 16, [&](int64_t begin, int64_t end) {
        kernels::Gemv(p.w, from, p.m, ordered, rows + omp_get_thread_num() * own_floats,
                      p.bias.empty() ? nullptr : p.bias.data(), begin, end, to, p.w.rows);
      });
      return absl::OkStatus();
    };
  } else {
    const Panels panels = GetPanels(w);
    const int64_t floats = CanReadInPlace(w) ? 0 : panels.rows * panels.cols;
    const int panel = scratch(floats * threads);
    const int64_t count = (w.rows + panels.rows - 1) / panels.rows;
    step.run = [=, p = std::move(product)](Pointers at) -> absl::Status {
      const float* from = reinterpret_cast<const float*>(at[static_cast<size_t>(src)]);
      float* to = reinterpret_cast<float*>(at[static_cast<size_t>(dst)]);
      float* memory = reinterpret_cast<float*>(at[static_cast<size_t>(panel)]);
      std::vector<absl::Status> failed(static_cast<size_t>(threads));
      kernels::ParallelTasks(threads, count, [&](int64_t task, int thread) {
        const int64_t begin = task * panels.rows, end = std::min(p.w.rows, begin + panels.rows);
        absl::Status s = MultiplyPanel(p, panels, begin, end, from, to, memory + thread * floats);
        if (!s.ok()) failed[static_cast<size_t>(thread)] = std::move(s);
      });
      for (absl::Status& s : failed) RETURN_IF_ERROR(s);
      return absl::OkStatus();
    };
  }
  b.AddStep(std::move(step), used, {dst});
  return true;
}

// The initializer [N, K] behind Transpose and Cast nodes before value `id`; null when it is anything else.
const Tensor* StoredWeights(PlanBuilder& b, int id) {
  bool transposed = false;
  while (id >= 0 && b.value(id).constant == nullptr) {
    const int producer = b.Producer(id);
    if (producer < 0) return nullptr;
    const Node& n = b.node(producer);
    if (!n.domain.empty()) return nullptr;
    if (n.op_type == "Transpose") {
      if (n.Ints("perm", {1, 0}) == std::vector<int64_t>{1, 0}) transposed = !transposed;
    } else if (n.op_type != "Cast" || b.value(id).dtype != DType::kFloat32) {
      return nullptr;
    }
    id = b.In(producer, 0);
  }
  if (id < 0 || !transposed || b.value(id).shape.size() != 2) return nullptr;
  return b.value(id).constant;
}

std::optional<WeightType> FloatType(DType dtype) {
  if (dtype == DType::kFloat32) return WeightType::kF32;
  if (dtype == DType::kFloat16) return WeightType::kF16;
  if (dtype == DType::kBFloat16) return WeightType::kBF16;
  return std::nullopt;
}

// Constant input i of a packed layer as floats that stay; empty when it is absent or not constant.
absl::StatusOr<std::span<const float>> StayingFloats(PlanBuilder& b, int node_index, size_t i) {
  const int id = b.In(node_index, i);
  if (id < 0 || !b.IsConstant(id)) return std::span<const float>();
  ASSIGN_OR_RETURN(const Tensor* t, b.Constant(id));
  if (t->dtype() == DType::kFloat32 && b.value(id).constant == t && b.Producer(id) < 0 &&
      reinterpret_cast<uintptr_t>(t->bytes().data()) % alignof(float) == 0) {
    return t->data<float>();  // an initializer: it lives as long as the graph
  }
  return b.weights().Floats(absl::StrCat(b.node(node_index).name, "|floats", i), [&] { return b.ConstantFloats(id); });
}

bool AllConstant(PlanBuilder& b, int node_index) {
  for (size_t i = 1; i < b.node(node_index).inputs.size(); ++i) {
    const int id = b.In(node_index, i);
    if (id >= 0 && b.value(id).constant == nullptr) return false;
  }
  return b.value(b.In(node_index, 0)).dtype == DType::kFloat32;
}

std::vector<const TensorDesc*> DescsOf(PlanBuilder& b, int node_index, std::vector<TensorDesc>* descs) {
  const size_t count = b.node(node_index).inputs.size();
  descs->resize(count);
  std::vector<const TensorDesc*> pointers(count, nullptr);
  for (size_t i = 0; i < count; ++i) {
    const int id = b.In(node_index, i);
    if (id < 0) continue;
    (*descs)[i] = {b.value(id).dtype, b.value(id).shape, b.value(id).constant};
    pointers[i] = &(*descs)[i];
  }
  return pointers;
}

}  // namespace

absl::StatusOr<bool> EmitStoredLinear(PlanBuilder& b, int node_index) {
  const int x = b.In(node_index, 0), w = b.In(node_index, 1);
  if (b.value(x).dtype != DType::kFloat32 || b.value(x).shape.empty()) return false;
  const Tensor* t = StoredWeights(b, w);
  if (t == nullptr) return false;
  const std::optional<WeightType> type = FloatType(t->dtype());
  if (!type.has_value() || t->elements() == 0 || b.value(x).elements == 0) return false;
  return EmitProduct(b, node_index,
                     {.w = {.type = *type, .rows = t->dim(0), .cols = t->dim(1), .data = t->bytes().data()}});
}

absl::StatusOr<bool> EmitMatMulNBits(PlanBuilder& b, int node_index) {
  if (!AllConstant(b, node_index)) return false;
  std::vector<TensorDesc> descs;
  const std::vector<const TensorDesc*> in = DescsOf(b, node_index, &descs);
  ASSIGN_OR_RETURN(const ops::NBitsShape s, ops::GetNBitsShape(b.node(node_index), in));
  Product p;
  p.w = {.type = WeightType::kNBits, .rows = s.rows, .cols = s.cols, .data = in[1]->constant->bytes().data()};
  p.w.bits = s.bits;
  p.w.block = s.block;
  p.w.blocks = s.blocks;
  p.w.block_bytes = s.block_bytes;
  p.w.default_zero = static_cast<float>(s.default_zero());
  ASSIGN_OR_RETURN(const std::span<const float> scales, StayingFloats(b, node_index, 2));
  p.w.scales = scales.data();
  if (s.packed_zeros) {
    const std::span<const float> zeros = b.weights().Floats(absl::StrCat(b.node(node_index).name, "|zeros"),
                                                            [&] { return ops::UnpackZeros(s, *in[3]->constant); });
    p.w.zeros = zeros.data();
  } else {
    ASSIGN_OR_RETURN(const std::span<const float> zeros, StayingFloats(b, node_index, 3));
    p.w.zeros = zeros.empty() ? nullptr : zeros.data();
  }
  p.bias = b.ConstantFloats(b.In(node_index, 5));
  return EmitProduct(b, node_index, std::move(p));
}

absl::StatusOr<bool> EmitMatMulCodebook(PlanBuilder& b, int node_index) {
  if (!AllConstant(b, node_index)) return false;
  std::vector<TensorDesc> descs;
  const std::vector<const TensorDesc*> in = DescsOf(b, node_index, &descs);
  ASSIGN_OR_RETURN(const ops::CodebookShape s, ops::GetCodebookShape(b.node(node_index), in));
  Product p;
  p.w = {.type = WeightType::kCodebook, .rows = s.rows, .cols = s.cols, .data = in[1]->constant->bytes().data()};
  p.w.block = s.block;
  ASSIGN_OR_RETURN(const std::span<const float> scales, StayingFloats(b, node_index, 2));
  ASSIGN_OR_RETURN(const std::span<const float> table, StayingFloats(b, node_index, 3));
  p.w.scales = scales.data();
  p.w.table = table.data();
  return EmitProduct(b, node_index, std::move(p));
}

}  // namespace quant::onednn

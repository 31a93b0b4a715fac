// SPDX-License-Identifier: Apache-2.0
// Operators that move elements without changing them, of any type of 8 bits or more: Transpose, Expand, Concat, Split,
// Slice, Pad, Tile, DepthToSpace, SpaceToDepth. Most are one strided copy.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

const std::byte* Bytes(const Tensor& t) { return t.bytes().data(); }

// out[0] = a strided view of in[0] that starts at element `offset`.
absl::Status CopyView(const Tensor& src, int64_t offset, std::span<const int64_t> src_strides, Tensor& dst,
                      std::span<const int64_t> dims) {
  if (dst.elements() == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(src.dtype(), "the input"));
  CopyStrided(size, dims, Bytes(src) + offset * static_cast<int64_t>(size), src_strides, dst.mutable_bytes().data(),
              Strides(dims));
  return absl::OkStatus();
}

// ---- Transpose

absl::StatusOr<std::vector<int>> Permutation(const Node& node, size_t rank) {
  std::vector<int64_t> perm = node.Ints("perm");
  if (perm.empty()) {
    perm.resize(rank);
    std::iota(perm.rbegin(), perm.rend(), 0);
  }
  if (perm.size() != rank) return Invalid("perm ", ShapeString(perm), " does not fit rank ", rank);
  for (const int64_t p : perm) {
    if (p < 0) return Invalid("perm ", ShapeString(perm), " has a negative entry");
  }
  return NormalizeAxes(perm, static_cast<int>(rank));
}

absl::Status InferTranspose(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  ASSIGN_OR_RETURN(const std::vector<int> perm, Permutation(node, in[0]->shape.size()));
  out[0].dtype = in[0]->dtype;
  out[0].shape.clear();
  for (const int p : perm) out[0].shape.push_back(in[0]->shape[static_cast<size_t>(p)]);
  return absl::OkStatus();
}

absl::Status ComputeTranspose(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const std::vector<int> perm, Permutation(node, in[0]->shape().size()));
  const std::vector<int64_t> own = Strides(in[0]->shape());
  std::vector<int64_t> strides;
  strides.reserve(perm.size());
  for (const int p : perm) strides.push_back(own[static_cast<size_t>(p)]);
  return CopyView(*in[0], 0, strides, out[0], out[0].shape());
}

// ---- Expand, Tile

absl::Status InferExpand(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  ASSIGN_OR_RETURN(const Shape shape, ConstantInts(*in[1], "shape"));
  RETURN_IF_ERROR(ElementCount(shape).status());
  out[0].dtype = in[0]->dtype;
  ASSIGN_OR_RETURN(out[0].shape, Broadcast(in[0]->shape, shape));
  return absl::OkStatus();
}

absl::Status ComputeExpand(const Node&, Inputs in, Outputs out) {
  return CopyView(*in[0], 0, BroadcastStrides(in[0]->shape(), out[0].shape()), out[0], out[0].shape());
}

absl::Status InferTile(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  ASSIGN_OR_RETURN(const std::vector<int64_t> repeats, ConstantInts(*in[1], "repeats"));
  const Shape& x = in[0]->shape;
  if (repeats.size() != x.size())
    return Invalid("repeats ", ShapeString(repeats), " does not fit the input ", ShapeString(x));
  out[0].dtype = in[0]->dtype;
  out[0].shape = x;
  for (size_t i = 0; i < x.size(); ++i) {
    if (repeats[i] < 0 || repeats[i] > kMaxElements / std::max<int64_t>(x[i], 1)) {
      return Invalid("repeats ", ShapeString(repeats), " of ", ShapeString(x), ": negative or too large");
    }
    out[0].shape[i] *= repeats[i];
  }
  return absl::OkStatus();
}

// Every axis as two: the repetition (stride 0) and the axis itself.
absl::Status ComputeTile(const Node&, Inputs in, Outputs out) {
  if (out[0].elements() == 0) return absl::OkStatus();
  const Shape& x = in[0]->shape();
  const std::vector<int64_t> own = Strides(x);
  std::vector<int64_t> dims, strides;
  for (size_t i = 0; i < x.size(); ++i) {
    dims.insert(dims.end(), {out[0].shape()[i] / x[i], x[i]});
    strides.insert(strides.end(), {0, own[i]});
  }
  return CopyView(*in[0], 0, strides, out[0], dims);
}

// ---- Concat, Split

absl::Status InferConcat(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 65536));
  const size_t rank = in[0]->shape.size();
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  ASSIGN_OR_RETURN(const int axis,
                   NormalizeAxis(node.Int("axis", std::numeric_limits<int64_t>::max()), static_cast<int>(rank)));
  const size_t a = static_cast<size_t>(axis);
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  for (size_t i = 1; i < in.size(); ++i) {
    if (in[i] == nullptr) return Invalid("input ", i, " is absent");
    RETURN_IF_ERROR(CheckSameType(*in[0], *in[i]));
    bool fits = in[i]->shape.size() == rank;
    for (size_t d = 0; fits && d < rank; ++d) fits = d == a || in[i]->shape[d] == out[0].shape[d];
    if (!fits)
      return Invalid("inputs ", ShapeString(in[0]->shape), " and ", ShapeString(in[i]->shape), " do not join on axis ",
                     axis);
    out[0].shape[a] += in[i]->shape[a];
  }
  return absl::OkStatus();
}

absl::Status ComputeConcat(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), out[0].rank()));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(out[0].dtype(), "the input"));
  const std::vector<int64_t> strides = Strides(out[0].shape());
  std::byte* dst = out[0].mutable_bytes().data();
  for (const Tensor* t : in) {
    CopyStrided(size, t->shape(), Bytes(*t), Strides(t->shape()), dst, strides);
    dst += t->dim(axis) * strides[static_cast<size_t>(axis)] * static_cast<int64_t>(size);
  }
  return absl::OkStatus();
}

absl::Status InferSplit(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 2, 65536));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), static_cast<int>(x.size())));
  const int64_t size = x[static_cast<size_t>(axis)], parts = static_cast<int64_t>(out.size());
  ASSIGN_OR_RETURN(auto split, IntsFromInputOrAttribute(node, in, 1, "split"));
  if (!split.has_value() || split->empty()) {
    if (node.Int("num_outputs", parts) != parts) {
      return Invalid("num_outputs is ", node.Int("num_outputs", parts), " but ", parts, " outputs are listed");
    }
    if (size % parts != 0 && !node.Has("num_outputs")) {
      return Invalid("axis ", axis, " of ", ShapeString(x), " does not divide into ", parts, " equal parts");
    }
    const int64_t chunk = (size + parts - 1) / parts;  // the last part is the smaller one
    split.emplace();
    for (int64_t i = 0; i < parts; ++i) split->push_back(std::clamp<int64_t>(size - i * chunk, 0, chunk));
  }
  int64_t sum = 0;
  for (const int64_t v : *split) {
    if (v < 0 || v > size)
      return Invalid("split ", ShapeString(*split), " does not fit axis ", axis, " of ", ShapeString(x));
    sum += v;
  }
  if (static_cast<int64_t>(split->size()) != parts || sum != size) {
    return Invalid("split ", ShapeString(*split), " into ", parts, " outputs does not fit axis ", axis, " of ",
                   ShapeString(x));
  }
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].dtype = in[0]->dtype;
    out[i].shape = x;
    out[i].shape[static_cast<size_t>(axis)] = (*split)[i];
  }
  return absl::OkStatus();
}

absl::Status ComputeSplit(const Node& node, Inputs in, Outputs out) {
  const Shape& x = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), in[0]->rank()));
  ASSIGN_OR_RETURN(const auto split, IntsFromInputOrAttribute(node, in, 1, "split"));
  const std::vector<int64_t> strides = Strides(x);
  const size_t a = static_cast<size_t>(axis);
  const int64_t parts = static_cast<int64_t>(out.size()), chunk = (x[a] + parts - 1) / parts;
  int64_t at = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    if (Wanted(out, i)) RETURN_IF_ERROR(CopyView(*in[0], at * strides[a], strides, out[i], out[i].shape()));
    at += split.has_value() && !split->empty() ? (*split)[i] : chunk;
  }
  return absl::OkStatus();
}

// ---- Slice

struct SliceRange {
  std::vector<int64_t> start, step;
  Shape out;
};

absl::StatusOr<SliceRange> GetSlice(std::span<const int64_t> x, const std::vector<int64_t>& starts,
                                    const std::vector<int64_t>& ends, std::vector<int64_t> axes,
                                    std::vector<int64_t> steps) {
  if (axes.empty()) {
    axes.resize(starts.size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  if (steps.empty()) steps.assign(starts.size(), 1);
  if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size()) {
    return Invalid("starts, ends, axes and steps have ", starts.size(), ", ", ends.size(), ", ", axes.size(), " and ",
                   steps.size(), " values; they must agree");
  }
  SliceRange r{std::vector<int64_t>(x.size(), 0), std::vector<int64_t>(x.size(), 1), Shape(x.begin(), x.end())};
  ASSIGN_OR_RETURN(const std::vector<int> normalized, NormalizeAxes(axes, static_cast<int>(x.size())));
  for (size_t i = 0; i < starts.size(); ++i) {
    const size_t a = static_cast<size_t>(normalized[i]);
    const int64_t n = x[a], step = steps[i];
    if (step == 0) return Invalid("step 0 on axis ", a);
    // Negative bounds count from the end (adding n to one cannot overflow). Then a start is clamped to an element that
    // exists, or to n when stepping forwards; an end to where the steps may stop.
    const auto bound = [n](int64_t v, int64_t low, int64_t high) { return std::clamp(v < 0 ? v + n : v, low, high); };
    const int64_t last = std::max<int64_t>(n - 1, 0);
    const int64_t start = step > 0 ? bound(starts[i], 0, n) : bound(starts[i], 0, last);
    const int64_t end = step > 0 ? bound(ends[i], 0, n) : n == 0 ? start : bound(ends[i], -1, last);
    const int64_t span = step > 0 ? end - start : start - end;
    // |step| as unsigned: the most negative int64 has no positive counterpart.
    const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : uint64_t{0} - static_cast<uint64_t>(step);
    r.out[a] = span <= 0 ? 0 : static_cast<int64_t>((static_cast<uint64_t>(span) - 1) / stride) + 1;
    r.start[a] = r.out[a] == 0 ? 0 : start;
    r.step[a] = r.out[a] <= 1 ? 1 : step;
  }
  return r;
}

template <typename In>
absl::StatusOr<SliceRange> GetSlice(const Node& node, In in, std::span<const int64_t> x) {
  std::vector<int64_t> values[4];
  const char* const names[] = {"starts", "ends", "axes", "steps"};
  for (size_t i = 0; i < 4; ++i) {
    ASSIGN_OR_RETURN(auto v, IntsFromInputOrAttribute(node, in, i + 1, names[i]));
    if (v.has_value()) values[i] = *std::move(v);
  }
  return GetSlice(x, values[0], values[1], values[2], values[3]);
}

absl::Status InferSlice(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 5));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  ASSIGN_OR_RETURN(SliceRange r, GetSlice(node, in, in[0]->shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape = std::move(r.out);
  return absl::OkStatus();
}

absl::Status ComputeSlice(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const SliceRange r, GetSlice(node, in, in[0]->shape()));
  if (r.out != out[0].shape()) return Invalid("the slice changed between planning and running");
  std::vector<int64_t> strides = Strides(in[0]->shape());
  int64_t offset = 0;
  for (size_t i = 0; i < strides.size(); ++i) {
    offset += r.start[i] * strides[i];
    strides[i] *= r.step[i];
  }
  return CopyView(*in[0], offset, strides, out[0], out[0].shape());
}

// ---- Pad

// pads per axis of x: (before, after), zero where axes does not name one.
template <typename In>
absl::StatusOr<std::vector<std::pair<int64_t, int64_t>>> GetPads(const Node& node, In in, size_t rank) {
  ASSIGN_OR_RETURN(const auto pads, IntsFromInputOrAttribute(node, in, 1, "pads"));
  ASSIGN_OR_RETURN(auto axes, IntsFromInputOrAttribute(node, in, 3, "axes"));
  if (!axes.has_value()) {
    axes.emplace(rank);
    std::iota(axes->begin(), axes->end(), 0);
  }
  ASSIGN_OR_RETURN(const std::vector<int> normalized, NormalizeAxes(*axes, static_cast<int>(rank)));
  if (!pads.has_value() || pads->size() != 2 * normalized.size()) {
    return Invalid("pads has ", pads.has_value() ? pads->size() : 0, " values; ", 2 * normalized.size(), " are needed");
  }
  std::vector<std::pair<int64_t, int64_t>> result(rank, {0, 0});
  for (size_t i = 0; i < normalized.size(); ++i) {
    const std::pair<int64_t, int64_t> p = {(*pads)[i], (*pads)[i + normalized.size()]};
    if (std::max(p.first, p.second) > kMaxAttribute || std::min(p.first, p.second) < -kMaxAttribute) {
      return Invalid("pads ", ShapeString(*pads), ": more than ", kMaxAttribute);
    }
    result[static_cast<size_t>(normalized[i])] = p;
  }
  return result;
}

absl::Status InferPad(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 4));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(const auto pads, GetPads(node, in, x.size()));
  const std::string mode = node.String("mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap")
    return Invalid("mode is '", mode, "'");
  if (const TensorDesc* value = At(in, 2)) {
    RETURN_IF_ERROR(CheckSameType(*in[0], *value));
    if (Product(value->shape) != 1)
      return Invalid("constant_value has shape ", ShapeString(value->shape), "; a scalar is needed");
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape = x;
  for (size_t i = 0; i < x.size(); ++i) {
    out[0].shape[i] += pads[i].first + pads[i].second;
    if (out[0].shape[i] < 0) return Invalid("pads cut dimension ", i, " of ", ShapeString(x), " to ", out[0].shape[i]);
    if (x[i] == 0 && out[0].shape[i] > 0 && mode != "constant") {
      return Invalid("mode '", mode, "' has nothing to take from: dimension ", i, " of ", ShapeString(x), " is empty");
    }
  }
  return absl::OkStatus();
}

// The input index that output index `i` of an axis of size n shows, or -1 for the constant.
int64_t PadSource(const std::string& mode, int64_t i, int64_t n) {
  if (i >= 0 && i < n) return i;
  if (mode == "edge") return std::clamp<int64_t>(i, 0, n - 1);
  if (mode == "wrap") return (i % n + n) % n;
  if (mode == "reflect") {
    if (n == 1) return 0;
    const int64_t period = 2 * (n - 1), m = (i % period + period) % period;
    return m < n ? m : period - m;
  }
  return -1;
}

absl::Status ComputePad(const Node& node, Inputs in, Outputs out) {
  if (out[0].elements() == 0) return absl::OkStatus();
  const Shape &x = in[0]->shape(), &y = out[0].shape();
  ASSIGN_OR_RETURN(const auto pads, GetPads(node, in, x.size()));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(in[0]->dtype(), "the input"));
  const std::string mode = node.String("mode", "constant");
  std::byte fill[8] = {};
  if (At(in, 2)) {
    std::memcpy(fill, Bytes(*in[2]), size);
  } else if (in[0]->dtype() == DType::kFloat32) {
    const float value = node.Float("value", 0);
    std::memcpy(fill, &value, size);
  }
  const std::vector<int64_t> strides = Strides(x);
  // Walks the output; `offset` sums the source offsets of the axes, `outside` counts axes that show the constant.
  std::vector<int64_t> at(y.size(), 0), from(y.size());
  for (size_t d = 0; d < y.size(); ++d) from[d] = PadSource(mode, -pads[d].first, x[d]);
  std::byte* dst = out[0].mutable_bytes().data();
  for (int64_t i = 0; i < out[0].elements(); ++i, dst += size) {
    int64_t offset = 0;
    bool outside = false;
    for (size_t d = 0; d < y.size(); ++d) {
      outside = outside || from[d] < 0;
      offset += from[d] * strides[d];
    }
    std::memcpy(dst, outside ? fill : Bytes(*in[0]) + offset * static_cast<int64_t>(size), size);
    for (size_t d = y.size(); d-- > 0;) {
      at[d] = at[d] + 1 < y[d] ? at[d] + 1 : 0;
      from[d] = PadSource(mode, at[d] - pads[d].first, x[d]);
      if (at[d] != 0) break;
    }
  }
  return absl::OkStatus();
}

// ---- DepthToSpace, SpaceToDepth

absl::Status InferBlocks(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  const Shape& x = in[0]->shape;
  const int64_t b = node.Int("blocksize", 0);
  const bool to_space = node.op_type == "DepthToSpace";
  if (x.size() != 4) return Invalid("the input has shape ", ShapeString(x), "; [N, C, H, W] is needed");
  if (b < 1 || b > (1 << 15) || (to_space ? x[1] % (b * b) != 0 : x[2] % b != 0 || x[3] % b != 0)) {
    return Invalid("blocksize ", b, " does not divide the input ", ShapeString(x));
  }
  const std::string mode = node.String("mode", "DCR");
  if (mode != "DCR" && mode != "CRD") return Invalid("mode is '", mode, "'; it must be DCR or CRD");
  out[0].dtype = in[0]->dtype;
  if (to_space) {
    if (std::max(x[2], x[3]) > kMaxAttribute) return Invalid("the input ", ShapeString(x), " is too large");
    out[0].shape = {x[0], x[1] / (b * b), x[2] * b, x[3] * b};
  } else {
    if (x[1] > kMaxAttribute) return Invalid("the input ", ShapeString(x), " is too large");
    out[0].shape = {x[0], x[1] * b * b, x[2] / b, x[3] / b};
  }
  return absl::OkStatus();
}

absl::Status ComputeBlocks(const Node& node, Inputs in, Outputs out) {
  const Shape& x = in[0]->shape();
  const int64_t b = node.Int("blocksize", 1), plane = x[2] * x[3], all = x[1] * plane;
  if (node.op_type == "SpaceToDepth") {
    const int64_t dims[] = {x[0], b, b, x[1], x[2] / b, x[3] / b};
    const int64_t strides[] = {all, x[3], 1, plane, x[3] * b, b};
    return CopyView(*in[0], 0, strides, out[0], dims);
  }
  const int64_t depth = x[1] / (b * b);
  const bool crd = node.String("mode", "DCR") == "CRD";
  // Strides of the block's row and column and of the output channel in the input's channels.
  const int64_t row = (crd ? b : b * depth) * plane, column = (crd ? 1 : depth) * plane,
                channel = (crd ? b * b : 1) * plane;
  const int64_t dims[] = {x[0], depth, x[2], b, x[3], b};
  const int64_t strides[] = {all, channel, x[3], row, 1, column};
  return CopyView(*in[0], 0, strides, out[0], dims);
}

constexpr OpEntry kOps[] = {
    {"Concat", {InferConcat, ComputeConcat}},
    {"DepthToSpace", {InferBlocks, ComputeBlocks}},
    {"Expand", {InferExpand, ComputeExpand}},
    {"Pad", {InferPad, ComputePad}},
    {"Slice", {InferSlice, ComputeSlice}},
    {"SpaceToDepth", {InferBlocks, ComputeBlocks}},
    {"Split", {InferSplit, ComputeSplit}},
    {"Tile", {InferTile, ComputeTile}},
    {"Transpose", {InferTranspose, ComputeTranspose}},
};

}  // namespace

std::span<const OpEntry> MoveOps() { return kOps; }

}  // namespace quant::ops

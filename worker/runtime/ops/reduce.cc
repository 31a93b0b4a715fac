// SPDX-License-Identifier: Apache-2.0
// Reduce* over axes, ArgMax and ArgMin, CumSum. Floats accumulate in double, integers in int64 (sums and products
// wrap).
//
// An empty set of elements gives the neutral element of the operator (0 for sums, 1 for products, the lowest value for
// the maximum); a mean of nothing is NaN.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <type_traits>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

// Which axes are reduced; empty: the operator is the identity.
template <typename In>
absl::StatusOr<std::vector<bool>> ReducedAxes(const Node& node, In in, int rank) {
  ASSIGN_OR_RETURN(const auto axes, IntsFromInputOrAttribute(node, in, 1, "axes"));
  std::vector<bool> reduced(static_cast<size_t>(rank), false);
  if (!axes.has_value() || axes->empty()) {
    // Without axes everything is reduced, or nothing with noop_with_empty_axes.
    std::fill(reduced.begin(), reduced.end(), node.Int("noop_with_empty_axes", 0) == 0);
    return reduced;
  }
  ASSIGN_OR_RETURN(const std::vector<int> normalized, NormalizeAxes(*axes, rank));
  for (const int a : normalized) reduced[static_cast<size_t>(a)] = true;
  return reduced;
}

absl::Status InferReduce(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 2));
  const Shape& x = in[0]->shape;
  const bool selects = node.op_type == "ReduceMax" || node.op_type == "ReduceMin";
  switch (in[0]->dtype) {
    case DType::kBool:
    case DType::kInt4:
    case DType::kUInt4:
      return Invalid("the input is ", DTypeName(in[0]->dtype), "; a numeric type of 8 bits or more is needed");
    case DType::kInt8:
    case DType::kUInt8:
      if (!selects) return Invalid("the input is ", DTypeName(in[0]->dtype), "; 32 bits or more are needed to add up");
      break;
    default:
      break;
  }
  ASSIGN_OR_RETURN(const std::vector<bool> reduced, ReducedAxes(node, in, static_cast<int>(x.size())));
  const bool keep = node.Int("keepdims", 1) != 0;
  out[0].dtype = in[0]->dtype;
  out[0].shape.clear();
  for (size_t i = 0; i < x.size(); ++i) {
    if (!reduced[i]) {
      out[0].shape.push_back(x[i]);
    } else if (keep) {
      out[0].shape.push_back(1);
    }
  }
  return absl::OkStatus();
}

// The steps of one reduction. V is double for floats, int64_t for integers.
struct Sum {
  template <typename V>
  static V Init() {
    return V{0};
  }
  template <typename V>
  static V Step(V acc, V v) {
    if constexpr (std::is_floating_point_v<V>)
      return acc + v;
    else
      return static_cast<V>(static_cast<uint64_t>(acc) + static_cast<uint64_t>(v));
  }
};
struct Prod {
  template <typename V>
  static V Init() {
    return V{1};
  }
  template <typename V>
  static V Step(V acc, V v) {
    if constexpr (std::is_floating_point_v<V>)
      return acc * v;
    else
      return static_cast<V>(static_cast<uint64_t>(acc) * static_cast<uint64_t>(v));
  }
};
struct L1 : Sum {
  template <typename V>
  static V Step(V acc, V v) {
    if constexpr (std::is_floating_point_v<V>)
      return acc + std::fabs(v);
    else
      return Sum::Step(acc, v < 0 ? static_cast<V>(uint64_t{0} - static_cast<uint64_t>(v)) : v);
  }
};
struct SumSquare : Sum {
  template <typename V>
  static V Step(V acc, V v) {
    if constexpr (std::is_floating_point_v<V>)
      return acc + v * v;
    else
      return Sum::Step(acc, Prod::Step(v, v));
  }
};
struct Max {
  template <typename V>
  static V Init() {
    return std::numeric_limits<V>::has_infinity ? -std::numeric_limits<V>::infinity()
                                                : std::numeric_limits<V>::lowest();
  }
  template <typename V>
  static V Step(V acc, V v) {
    if constexpr (std::is_floating_point_v<V>)
      return std::isnan(acc) || acc > v ? acc : v;
    else
      return std::max(acc, v);
  }
};
struct Min {
  template <typename V>
  static V Init() {
    return std::numeric_limits<V>::has_infinity ? std::numeric_limits<V>::infinity() : std::numeric_limits<V>::max();
  }
  template <typename V>
  static V Step(V acc, V v) {
    if constexpr (std::is_floating_point_v<V>)
      return std::isnan(acc) || acc < v ? acc : v;
    else
      return std::min(acc, v);
  }
};

// Rounds and saturates a double, or saturates an int64 (of a uint64, reinterprets it).
template <typename T, typename V>
T Narrow(V v) {
  if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, uint64_t>) {
    return static_cast<T>(v);
  } else if constexpr (std::is_floating_point_v<V>) {
    if (std::isnan(v)) return T{0};
    if (v <= static_cast<V>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (v >= static_cast<V>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return static_cast<T>(v);
  } else {
    return static_cast<T>(std::clamp<int64_t>(v, static_cast<int64_t>(std::numeric_limits<T>::min()),
                                              static_cast<int64_t>(std::numeric_limits<T>::max())));
  }
}

struct Plan {
  std::vector<int64_t> outer_dims, outer_strides, inner_dims, inner_strides;
  int64_t count;  // elements reduced into one
};

Plan MakePlan(const Shape& shape, const std::vector<bool>& reduced) {
  Plan p;
  const std::vector<int64_t> strides = Strides(shape);
  for (size_t i = 0; i < shape.size(); ++i) {
    (reduced[i] ? p.inner_dims : p.outer_dims).push_back(shape[i]);
    (reduced[i] ? p.inner_strides : p.outer_strides).push_back(strides[i]);
  }
  p.count = Product(p.inner_dims);
  return p;
}

// `visit(element)` for every element of the set that starts at x.
template <typename T, typename F>
void ForEachReduced(const Plan& p, const T* x, F visit) {
  if (p.count == 0) return;
  if (p.inner_dims.empty()) return visit(*x);
  const int64_t n = p.inner_dims.back(), step = p.inner_strides.back();
  Odometer at(std::span(p.inner_dims).first(p.inner_dims.size() - 1),
              {std::vector<int64_t>(p.inner_strides.begin(), p.inner_strides.end() - 1)});
  do {
    const T* row = x + at.offset(0);
    for (int64_t i = 0; i < n; ++i) visit(row[i * step]);
  } while (at.Next());
}

template <typename T>
absl::Status ReduceLoops(const Node& node, const Plan& p, const Tensor& src, Tensor& dst) {
  using V = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;
  if (dst.elements() == 0) return absl::OkStatus();
  T* y = MutablePtr<T>(dst);
  const std::string_view op = node.op_type;
  const auto for_each_output = [&](auto f) {
    Odometer at(p.outer_dims, {p.outer_strides});
    do {
      *y++ = f(Ptr<T>(src) + at.offset(0));
    } while (at.Next());
  };
  const auto run = [&](auto reducer, auto finish) {
    for_each_output([&](const T* x) {
      V acc = reducer.template Init<V>();
      ForEachReduced(p, x, [&](T v) { acc = reducer.Step(acc, static_cast<V>(v)); });
      return Narrow<T>(finish(acc));
    });
  };
  const auto same = [](V v) { return v; };
  if (op == "ReduceSum") run(Sum(), same);
  if (op == "ReduceProd") run(Prod(), same);
  if (op == "ReduceMax") run(Max(), same);
  if (op == "ReduceMin") run(Min(), same);
  if (op == "ReduceL1") run(L1(), same);
  if (op == "ReduceSumSquare") run(SumSquare(), same);
  if (op == "ReduceL2") run(SumSquare(), [](V v) { return std::sqrt(static_cast<double>(v)); });
  if (op == "ReduceLogSum") run(Sum(), [](V v) { return std::log(static_cast<double>(v)); });
  if (op == "ReduceMean") {
    if constexpr (std::is_floating_point_v<T>) {
      run(Sum(), [&](V v) { return v / static_cast<V>(p.count); });
    } else {
      if (p.count == 0) return Invalid("the mean of no integers");
      run(Sum(), [&](V v) { return v / p.count; });
    }
  }
  if (op == "ReduceLogSumExp") {
    for_each_output([&](const T* x) {
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      ForEachReduced(p, x, [&](T v) { max = std::max(max, static_cast<double>(v)); });
      if (!std::isfinite(max)) return Narrow<T>(max);  // nothing, all -infinity, or an infinity
      ForEachReduced(p, x, [&](T v) { sum += std::exp(static_cast<double>(v) - max); });
      return Narrow<T>(max + std::log(sum));
    });
  }
  return absl::OkStatus();
}

absl::Status ComputeReduce(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const std::vector<bool> reduced, ReducedAxes(node, in, in[0]->rank()));
  if (std::find(reduced.begin(), reduced.end(), true) == reduced.end() && in[0]->rank() > 0) {
    return CopyAll(*in[0], out[0]);  // noop_with_empty_axes
  }
  const Plan plan = MakePlan(in[0]->shape(), reduced);
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) { return ReduceLoops<T>(node, plan, *in[0], out[0]); });
}

absl::Status InferArg(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), static_cast<int>(in[0]->shape.size())));
  if (DTypeBits(in[0]->dtype) < 8 || in[0]->dtype == DType::kBool)
    return Invalid("the input is ", DTypeName(in[0]->dtype));
  out[0].dtype = DType::kInt64;
  out[0].shape = in[0]->shape;
  const auto at = out[0].shape.begin() + axis;
  if (*at == 0) return Invalid("axis ", axis, " of ", ShapeString(in[0]->shape), " is empty");
  if (node.Int("keepdims", 1) != 0) {
    *at = 1;
  } else {
    out[0].shape.erase(at);
  }
  return absl::OkStatus();
}

absl::Status ComputeArg(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), in[0]->rank()));
  const size_t a = static_cast<size_t>(axis);
  const int64_t outer = Product(shape, 0, a), n = shape[a], inner = Product(shape, a + 1, shape.size());
  const bool max = node.op_type == "ArgMax", last = node.Int("select_last_index", 0) != 0;
  int64_t* y = MutablePtr<int64_t>(out[0]);
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = 0; i < inner; ++i) {
        const T* x = Ptr<T>(*in[0]) + o * n * inner + i;
        int64_t best = 0;
        for (int64_t j = 1; j < n; ++j) {
          const T v = x[j * inner], b = x[best * inner];
          if ((max ? v > b : v < b) || (last && v == b)) best = j;
        }
        *y++ = best;
      }
    }
    return absl::OkStatus();
  });
}

absl::Status InferCumSum(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  if (DTypeBits(in[0]->dtype) < 32) return CheckFloat(*in[0], "x");
  if (IsFloat(in[1]->dtype) || Product(in[1]->shape) != 1) return Invalid("axis must be one integer");
  if (in[1]->constant != nullptr) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> axis, ToInt64(*in[1]->constant));
    RETURN_IF_ERROR(NormalizeAxis(axis.at(0), static_cast<int>(in[0]->shape.size())).status());
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeCumSum(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  ASSIGN_OR_RETURN(const std::vector<int64_t> axes, ToInt64(*in[1]));
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(axes.at(0), in[0]->rank()));
  const size_t a = static_cast<size_t>(axis);
  const int64_t outer = Product(shape, 0, a), n = shape[a], inner = Product(shape, a + 1, shape.size());
  const bool exclusive = node.Int("exclusive", 0) != 0, reverse = node.Int("reverse", 0) != 0;
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
    using V = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t i = 0; i < inner; ++i) {
        const T* x = Ptr<T>(*in[0]) + o * n * inner + i;
        T* y = MutablePtr<T>(out[0]) + o * n * inner + i;
        V sum{0};
        for (int64_t k = 0; k < n; ++k) {
          const int64_t j = (reverse ? n - 1 - k : k) * inner;
          if (exclusive) y[j] = static_cast<T>(sum);
          sum += static_cast<V>(x[j]);
          if (!exclusive) y[j] = static_cast<T>(sum);
        }
      }
    }
    return absl::OkStatus();
  });
}

constexpr OpEntry kOps[] = {
    {"ArgMax", {InferArg, ViaFloatOrDouble<ComputeArg>}},
    {"ArgMin", {InferArg, ViaFloatOrDouble<ComputeArg>}},
    {"CumSum", {InferCumSum, ViaFloatOrDouble<ComputeCumSum>}},
    {"ReduceL1", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceL2", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceLogSum", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceLogSumExp", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceMax", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceMean", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceMin", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceProd", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceSum", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
    {"ReduceSumSquare", {InferReduce, ViaFloatOrDouble<ComputeReduce>}},
};

}  // namespace

std::span<const OpEntry> ReduceOps() { return kOps; }

}  // namespace quant::ops

// SPDX-License-Identifier: Apache-2.0
// Elementwise operators of several tensors with numpy broadcasting: arithmetic, comparison, logic, bitwise, Where,
// PRelu. Floats are computed in their own type (one correctly rounded operation each, Pow and Mod through double),
// integers wrap on overflow; integer division truncates and dividing by zero is INVALID_ARGUMENT.
#include <cmath>
#include <limits>
#include <string_view>
#include <type_traits>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

// dst[i] = f(a[i], b[i]), a and b broadcast to dst's shape.
template <typename A, typename B, typename R, typename F>
void Zip(const A* a, std::span<const int64_t> a_shape, const B* b, std::span<const int64_t> b_shape, R* dst,
         std::span<const int64_t> shape, F f) {
  if (Product(shape) == 0) return;
  std::vector<int64_t> sa = BroadcastStrides(a_shape, shape), sb = BroadcastStrides(b_shape, shape);
  if (shape.empty()) {
    *dst = f(*a, *b);
    return;
  }
  const int64_t n = shape.back(), step_a = sa.back(), step_b = sb.back();
  sa.pop_back(), sb.pop_back();
  Odometer at(shape.first(shape.size() - 1), {sa, sb});
  do {
    const A* x = a + at.offset(0);
    const B* y = b + at.offset(1);
    for (int64_t i = 0; i < n; ++i) dst[i] = f(x[i * step_a], y[i * step_b]);
    dst += n;
  } while (at.Next());
}

template <typename A, typename B, typename R, typename F>
void Zip(const Tensor& a, const Tensor& b, Tensor& dst, F f) {
  Zip(Ptr<A>(a), a.shape(), Ptr<B>(b), b.shape(), MutablePtr<R>(dst), dst.shape(), f);
}

template <typename T>
inline constexpr bool kIsFloat = std::is_floating_point_v<T>;

// Wrapping integer arithmetic by way of uint64_t.
template <typename T, typename F>
T Wrapped(T a, T b, F f) {
  return static_cast<T>(f(static_cast<uint64_t>(a), static_cast<uint64_t>(b)));
}

struct AddOp {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>)
      return a + b;
    else
      return Wrapped(a, b, [](uint64_t x, uint64_t y) { return x + y; });
  }
};
struct SubOp {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>)
      return a - b;
    else
      return Wrapped(a, b, [](uint64_t x, uint64_t y) { return x - y; });
  }
};
struct MulOp {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>)
      return a * b;
    else
      return Wrapped(a, b, [](uint64_t x, uint64_t y) { return x * y; });
  }
};
struct DivOp {
  bool* by_zero;
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>) {
      return a / b;
    } else {
      if (b == T{0}) return *by_zero = true, T{0};
      if constexpr (std::is_signed_v<T>) {
        if (b == T{-1}) return SubOp()(T{0}, a);  // the most negative value would trap
      }
      return static_cast<T>(a / b);
    }
  }
};
// fmod = 0: sign of the divisor (integers only); fmod = 1: sign of the dividend, as C's fmod.
struct ModOp {
  bool fmod;
  bool* by_zero;
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>) {
      return std::fmod(a, b);
    } else {
      if (b == T{0}) return *by_zero = true, T{0};
      if constexpr (std::is_signed_v<T>) {
        if (b == T{-1}) return T{0};
        const T r = static_cast<T>(a % b);
        return !fmod && r != T{0} && (r < T{0}) != (b < T{0}) ? static_cast<T>(r + b) : r;
      } else {
        return static_cast<T>(a % b);
      }
    }
  }
};
// NaN in either operand gives NaN.
struct MinOp {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>)
      return std::isnan(a) ? a : std::isnan(b) ? b : a < b ? a : b;
    else
      return a < b ? a : b;
  }
};
struct MaxOp {
  template <typename T>
  T operator()(T a, T b) const {
    if constexpr (kIsFloat<T>)
      return std::isnan(a) ? a : std::isnan(b) ? b : a > b ? a : b;
    else
      return a > b ? a : b;
  }
};

absl::Status InferBroadcastAll(const Node& node, Descs in, OutDescs out, size_t min_in, size_t max_in) {
  RETURN_IF_ERROR(CheckArity(node, in, min_in, max_in));
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  for (size_t i = 1; i < in.size(); ++i) {
    if (in[i] == nullptr) return Invalid("input ", i, " is absent");
    RETURN_IF_ERROR(CheckSameType(*in[0], *in[i]));
    ASSIGN_OR_RETURN(out[0].shape, Broadcast(out[0].shape, in[i]->shape));
  }
  return absl::OkStatus();
}

absl::Status InferArithmetic(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferBroadcastAll(node, in, out, 2, 2));
  if (in[0]->dtype == DType::kBool || DTypeBits(in[0]->dtype) < 8) {
    return Invalid("the inputs are ", DTypeName(in[0]->dtype), "; a numeric type of 8 bits or more is needed");
  }
  if (node.op_type == "Mod" && IsFloat(in[0]->dtype) && node.Int("fmod", 0) == 0) {
    return Invalid("fmod must be 1 for floating-point inputs");
  }
  return absl::OkStatus();
}

absl::Status ComputeArithmetic(const Node& node, Inputs in, Outputs out) {
  bool by_zero = false;
  const auto run = [&](auto f) {
    return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
      Zip<T, T, T>(*in[0], *in[1], out[0], f);
      return absl::OkStatus();
    });
  };
  const std::string_view op = node.op_type;
  absl::Status status = op == "Add"   ? run(AddOp())
                        : op == "Sub" ? run(SubOp())
                        : op == "Mul" ? run(MulOp())
                        : op == "Div" ? run(DivOp{&by_zero})
                                      : run(ModOp{node.Int("fmod", 0) != 0, &by_zero});
  if (status.ok() && by_zero) return Invalid("integer division by zero");
  return status;
}

// Pow: the exponent may have another type; the result has the base's type.
absl::Status InferPow(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  for (const TensorDesc* d : in) {
    if (d->dtype == DType::kBool || DTypeBits(d->dtype) < 8) return Invalid("Pow of ", DTypeName(d->dtype));
  }
  out[0].dtype = in[0]->dtype;
  ASSIGN_OR_RETURN(out[0].shape, Broadcast(in[0]->shape, in[1]->shape));
  return absl::OkStatus();
}

template <typename T>
T PowOf(T base, double exponent) {
  const double r = std::pow(static_cast<double>(base), exponent);
  if constexpr (kIsFloat<T>) {
    return static_cast<T>(r);
  } else {
    if (std::isnan(r)) return T{0};
    if (r <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (r >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return static_cast<T>(r);
  }
}

absl::Status ComputePow(const Node&, Inputs in, Outputs out) {
  Tensor exponents = *in[1];
  if (in[0]->dtype() != in[1]->dtype()) {
    ASSIGN_OR_RETURN(exponents, quant::Cast(*in[1], DType::kFloat64));
  }
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
    const auto run = [&]<typename E>(E) {
      Zip<T, E, T>(*in[0], exponents, out[0], [](T a, E b) { return PowOf(a, static_cast<double>(b)); });
    };
    exponents.dtype() == in[0]->dtype() ? run(T{}) : run(double{});
    return absl::OkStatus();
  });
}

// Min, Max, Sum, Mean of one or more tensors. Sum and Mean are of floats; partial results are kept in the output.
absl::Status InferVariadic(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferBroadcastAll(node, in, out, 1, 4096));
  if (in[0]->dtype == DType::kBool) return Invalid("the inputs are bool; a numeric type is needed");
  return node.op_type == "Sum" || node.op_type == "Mean" ? CheckFloat(*in[0], "the first input") : absl::OkStatus();
}

absl::Status ComputeVariadic(const Node& node, Inputs in, Outputs out) {
  const std::string_view op = node.op_type;
  return DispatchNumeric(out[0].dtype(), [&]<typename T>(T) {
    T* y = MutablePtr<T>(out[0]);
    const Shape& shape = out[0].shape();
    // The output starts as the first input; each further one is combined with it in place, element by element.
    Zip(Ptr<T>(*in[0]), in[0]->shape(), Ptr<T>(*in[0]), in[0]->shape(), y, shape, [](T a, T) { return a; });
    for (size_t k = 1; k < in.size(); ++k) {
      const auto fold = [&](auto f) { Zip(y, shape, Ptr<T>(*in[k]), in[k]->shape(), y, shape, f); };
      op == "Min" ? fold(MinOp()) : op == "Max" ? fold(MaxOp()) : fold(AddOp());
    }
    if (op == "Mean") {
      for (int64_t i = 0; i < out[0].elements(); ++i) y[i] = static_cast<T>(y[i] / static_cast<T>(in.size()));
    }
    return absl::OkStatus();
  });
}

absl::Status InferComparison(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferBroadcastAll(node, in, out, 2, 2));
  if (DTypeBits(in[0]->dtype) < 8 || (in[0]->dtype == DType::kBool && node.op_type != "Equal")) {
    return Invalid("the inputs are ", DTypeName(in[0]->dtype), "; they cannot be compared so");
  }
  out[0].dtype = DType::kBool;
  return absl::OkStatus();
}

absl::Status ComputeComparison(const Node& node, Inputs in, Outputs out) {
  const std::string_view op = node.op_type;
  if (in[0]->dtype() == DType::kBool) {
    Zip<uint8_t, uint8_t, uint8_t>(*in[0], *in[1], out[0], [](uint8_t a, uint8_t b) { return (a != 0) == (b != 0); });
    return absl::OkStatus();
  }
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
    const auto run = [&](auto f) { Zip<T, T, uint8_t>(*in[0], *in[1], out[0], f); };
    if (op == "Equal") run([](T a, T b) { return a == b; });
    if (op == "Less") run([](T a, T b) { return a < b; });
    if (op == "LessOrEqual") run([](T a, T b) { return a <= b; });
    if (op == "Greater") run([](T a, T b) { return a > b; });
    if (op == "GreaterOrEqual") run([](T a, T b) { return a >= b; });
    return absl::OkStatus();
  });
}

absl::Status InferLogical(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferBroadcastAll(node, in, out, 2, 2));
  if (in[0]->dtype != DType::kBool) return Invalid("the inputs are ", DTypeName(in[0]->dtype), "; bool is needed");
  return absl::OkStatus();
}

absl::Status ComputeLogical(const Node& node, Inputs in, Outputs out) {
  const std::string_view op = node.op_type;
  const auto run = [&](auto f) { Zip<uint8_t, uint8_t, uint8_t>(*in[0], *in[1], out[0], f); };
  if (op == "And") run([](uint8_t a, uint8_t b) { return a != 0 && b != 0; });
  if (op == "Or") run([](uint8_t a, uint8_t b) { return a != 0 || b != 0; });
  if (op == "Xor") run([](uint8_t a, uint8_t b) { return (a != 0) != (b != 0); });
  return absl::OkStatus();
}

// Where(condition, X, Y) for any element type of 8 bits or more.
absl::Status InferWhere(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  if (in[0]->dtype != DType::kBool) return Invalid("the condition is ", DTypeName(in[0]->dtype), "; bool is needed");
  RETURN_IF_ERROR(CheckSameType(*in[1], *in[2]));
  RETURN_IF_ERROR(ElementBytes(in[1]->dtype, "Where").status());
  out[0].dtype = in[1]->dtype;
  ASSIGN_OR_RETURN(const Shape values, Broadcast(in[1]->shape, in[2]->shape));
  ASSIGN_OR_RETURN(out[0].shape, Broadcast(in[0]->shape, values));
  return absl::OkStatus();
}

absl::Status ComputeWhere(const Node&, Inputs in, Outputs out) {
  const Shape& shape = out[0].shape();
  if (out[0].elements() == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(out[0].dtype(), "Where"));
  const auto run = [&]<typename T>(T) {
    const uint8_t* condition = BoolData(*in[0]);
    const T *x = Ptr<T>(*in[1]), *y = Ptr<T>(*in[2]);
    T* dst = MutablePtr<T>(out[0]);
    Odometer at(shape, {BroadcastStrides(in[0]->shape(), shape), BroadcastStrides(in[1]->shape(), shape),
                        BroadcastStrides(in[2]->shape(), shape)});
    do {
      *dst++ = condition[at.offset(0)] != 0 ? x[at.offset(1)] : y[at.offset(2)];
    } while (at.Next());
  };
  if (size == 1) run(uint8_t{});
  if (size == 2) run(uint16_t{});
  if (size == 4) run(uint32_t{});
  if (size == 8) run(uint64_t{});
  return absl::OkStatus();
}

// PRelu: slope broadcasts to x (unidirectionally).
absl::Status InferPRelu(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferBroadcastAll(node, in, out, 2, 2));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  if (out[0].shape == in[0]->shape) return absl::OkStatus();
  return Invalid("slope ", ShapeString(in[1]->shape), " does not broadcast to X ", ShapeString(in[0]->shape));
}

absl::Status ComputePRelu(const Node&, Inputs in, Outputs out) {
  Zip<float, float, float>(*in[0], *in[1], out[0], [](float x, float slope) { return x < 0 ? x * slope : x; });
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Add", {InferArithmetic, ViaFloatOrDouble<ComputeArithmetic>}},
    {"And", {InferLogical, ComputeLogical}},
    {"Div", {InferArithmetic, ViaFloatOrDouble<ComputeArithmetic>}},
    {"Equal", {InferComparison, ViaFloatOrDouble<ComputeComparison>}},
    {"Greater", {InferComparison, ViaFloatOrDouble<ComputeComparison>}},
    {"GreaterOrEqual", {InferComparison, ViaFloatOrDouble<ComputeComparison>}},
    {"Less", {InferComparison, ViaFloatOrDouble<ComputeComparison>}},
    {"LessOrEqual", {InferComparison, ViaFloatOrDouble<ComputeComparison>}},
    {"Max", {InferVariadic, ViaFloatOrDouble<ComputeVariadic>}},
    {"Mean", {InferVariadic, ViaFloatOrDouble<ComputeVariadic>}},
    {"Min", {InferVariadic, ViaFloatOrDouble<ComputeVariadic>}},
    {"Mod", {InferArithmetic, ViaFloatOrDouble<ComputeArithmetic>}},
    {"Mul", {InferArithmetic, ViaFloatOrDouble<ComputeArithmetic>}},
    {"Or", {InferLogical, ComputeLogical}},
    {"PRelu", {InferPRelu, ViaFloat<ComputePRelu>}},
    {"Pow", {InferPow, ViaFloatOrDouble<ComputePow>}},
    {"Sub", {InferArithmetic, ViaFloatOrDouble<ComputeArithmetic>}},
    {"Sum", {InferVariadic, ViaFloatOrDouble<ComputeVariadic>}},
    {"Where", {InferWhere, ComputeWhere}},
    {"Xor", {InferLogical, ComputeLogical}},
};

}  // namespace

std::span<const OpEntry> BinaryOps() { return kOps; }

}  // namespace quant::ops

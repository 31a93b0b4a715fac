// SPDX-License-Identifier: Apache-2.0
// Elementwise operators of one tensor: activations, mathematical functions, Clip, Not, Identity, Dropout (inference),
// IsNaN, IsInf. Floats are computed in double and rounded once; integers exactly, wrapping where the result does not
// fit.
#include <cmath>
#include <limits>
#include <numbers>
#include <string_view>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

struct Parameters {
  double alpha = 0, beta = 0;
};

struct FloatFunction {
  const char* op_type;
  double (*apply)(double x, const Parameters& p);
  float alpha = 0;  // defaults of the attributes alpha and beta (gamma for Selu)
  float beta = 0;
};

double Sigmoid(double x) { return x >= 0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x)); }
double Softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
// max(lo, min(hi, x)); NaN stays NaN.
double Bounded(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

constexpr FloatFunction kFunctions[] = {
    {"Acos", [](double x, const Parameters&) { return std::acos(x); }},
    {"Acosh", [](double x, const Parameters&) { return std::acosh(x); }},
    {"Asin", [](double x, const Parameters&) { return std::asin(x); }},
    {"Asinh", [](double x, const Parameters&) { return std::asinh(x); }},
    {"Atan", [](double x, const Parameters&) { return std::atan(x); }},
    {"Atanh", [](double x, const Parameters&) { return std::atanh(x); }},
    {"Ceil", [](double x, const Parameters&) { return std::ceil(x); }},
    {"Celu", [](double x, const Parameters& p) { return x < 0 ? p.alpha * std::expm1(x / p.alpha) : x; }, 1.0f},
    {"Cos", [](double x, const Parameters&) { return std::cos(x); }},
    {"Cosh", [](double x, const Parameters&) { return std::cosh(x); }},
    {"Elu", [](double x, const Parameters& p) { return x < 0 ? p.alpha * std::expm1(x) : x; }, 1.0f},
    {"Erf", [](double x, const Parameters&) { return std::erf(x); }},
    {"Exp", [](double x, const Parameters&) { return std::exp(x); }},
    {"Floor", [](double x, const Parameters&) { return std::floor(x); }},
    // alpha is set to 1 for approximate = "tanh".
    {"Gelu",
     [](double x, const Parameters& p) {
       if (p.alpha == 0) return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
       return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
     }},
    {"HardSigmoid", [](double x, const Parameters& p) { return Bounded(p.alpha * x + p.beta, 0, 1); }, 0.2f, 0.5f},
    {"HardSwish", [](double x, const Parameters&) { return x * Bounded(x / 6.0 + 0.5, 0, 1); }},
    {"LeakyRelu", [](double x, const Parameters& p) { return x < 0 ? p.alpha * x : x; }, 0.01f},
    {"Log", [](double x, const Parameters&) { return std::log(x); }},
    {"Mish", [](double x, const Parameters&) { return x * std::tanh(Softplus(x)); }},
    {"Reciprocal", [](double x, const Parameters&) { return 1.0 / x; }},
    {"Round", [](double x, const Parameters&) { return std::nearbyint(x); }},  // half to even
    {"Selu", [](double x, const Parameters& p) { return p.beta * (x < 0 ? p.alpha * std::expm1(x) : x); },
     1.67326319217681884765625f, 1.05070102214813232421875f},
    {"Sigmoid", [](double x, const Parameters&) { return Sigmoid(x); }},
    {"Sin", [](double x, const Parameters&) { return std::sin(x); }},
    {"Sinh", [](double x, const Parameters&) { return std::sinh(x); }},
    {"Softplus", [](double x, const Parameters&) { return Softplus(x); }},
    {"Softsign", [](double x, const Parameters&) { return x / (1.0 + std::fabs(x)); }},
    {"Sqrt", [](double x, const Parameters&) { return std::sqrt(x); }},
    {"Swish", [](double x, const Parameters& p) { return x * Sigmoid(p.alpha * x); }, 1.0f},
    {"Tan", [](double x, const Parameters&) { return std::tan(x); }},
    {"Tanh", [](double x, const Parameters&) { return std::tanh(x); }},
    {"ThresholdedRelu", [](double x, const Parameters& p) { return x > p.alpha ? x : 0.0; }, 1.0f},
};

Parameters GetParameters(const Node& node, const FloatFunction& f) {
  Parameters p;
  p.alpha = static_cast<double>(node.Float("alpha", f.alpha));
  p.beta = static_cast<double>(node.Float(std::string_view(f.op_type) == "Selu" ? "gamma" : "beta", f.beta));
  if (std::string_view(f.op_type) == "Gelu") p.alpha = node.String("approximate", "none") == "tanh" ? 1 : 0;
  return p;
}

absl::Status ComputeFloatFunction(const Node& node, Inputs in, Outputs out) {
  for (const FloatFunction& f : kFunctions) {
    if (node.op_type != f.op_type) continue;
    const Parameters p = GetParameters(node, f);
    const auto apply = [&]<typename T>(T) {
      const T* x = Ptr<T>(*in[0]);
      T* y = MutablePtr<T>(out[0]);
      const int64_t n = in[0]->elements();
      for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(f.apply(static_cast<double>(x[i]), p));
    };
    in[0]->dtype() == DType::kFloat64 ? apply(double{}) : apply(float{});
    return absl::OkStatus();
  }
  return absl::InternalError("not in the table of functions");
}

// Operators that exist for integers too. f(x) -> x's type.
template <typename F>
absl::Status ApplyNumeric(const Tensor& src, Tensor& dst, F f) {
  return DispatchNumeric(src.dtype(), [&]<typename T>(T) {
    const T* x = Ptr<T>(src);
    T* y = MutablePtr<T>(dst);
    const int64_t n = src.elements();
    for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
    return absl::OkStatus();
  });
}

absl::Status InferNumeric(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferSameAsFirst(node, in, out));
  if (in[0]->dtype == DType::kBool || DTypeBits(in[0]->dtype) < 8) {
    return Invalid("the input is ", DTypeName(in[0]->dtype), "; a numeric type of 8 bits or more is needed");
  }
  return absl::OkStatus();
}

absl::Status ComputeRelu(const Node&, Inputs in, Outputs out) {
  return ApplyNumeric(*in[0], out[0], []<typename T>(T x) { return x < T{0} ? T{0} : x; });
}

// Negation of the most negative integer wraps to itself.
template <typename T>
T Negated(T x) {
  if constexpr (std::is_floating_point_v<T>) {
    return -x;
  } else {
    return static_cast<T>(uint64_t{0} - static_cast<uint64_t>(x));
  }
}

absl::Status ComputeNeg(const Node&, Inputs in, Outputs out) {
  return ApplyNumeric(*in[0], out[0], []<typename T>(T x) { return Negated(x); });
}

absl::Status ComputeAbs(const Node&, Inputs in, Outputs out) {
  return ApplyNumeric(*in[0], out[0], []<typename T>(T x) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::fabs(x);
    } else {
      return x < T{0} ? Negated(x) : x;
    }
  });
}

absl::Status ComputeSign(const Node&, Inputs in, Outputs out) {
  return ApplyNumeric(*in[0], out[0], []<typename T>(T x) {
    if (x > T{0}) return T{1};
    if (x < T{0}) return static_cast<T>(-1);
    return x;  // zero, or NaN
  });
}

// Clip(x, min, max): bounds are optional scalars of x's type; min > max gives max, as the specification has it.
absl::Status InferClip(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 3));
  for (size_t i = 1; i < in.size(); ++i) {
    if (in[i] == nullptr) continue;
    RETURN_IF_ERROR(CheckSameType(*in[0], *in[i]));
    ASSIGN_OR_RETURN(const int64_t n, ElementCount(in[i]->shape));
    if (n != 1)
      return Invalid(i == 1 ? "min" : "max", " has shape ", ShapeString(in[i]->shape), "; a scalar is needed");
  }
  return InferNumeric(node, in.first(1), out);
}

absl::Status ComputeClip(const Node& node, Inputs in, Outputs out) {
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
    T lo = std::numeric_limits<T>::lowest(), hi = std::numeric_limits<T>::max();
    if constexpr (std::is_floating_point_v<T>) {
      lo = static_cast<T>(node.Float("min", -std::numeric_limits<float>::infinity()));
      hi = static_cast<T>(node.Float("max", std::numeric_limits<float>::infinity()));
    }
    if (At(in, 1)) lo = *Ptr<T>(*in[1]);
    if (At(in, 2)) hi = *Ptr<T>(*in[2]);
    return ApplyNumeric(*in[0], out[0], [=]<typename V>(V x) {
      const T v = static_cast<T>(x) < lo ? lo : static_cast<T>(x);
      return static_cast<V>(v > hi ? hi : v);
    });
  });
}

absl::Status ComputeNot(const Node&, Inputs in, Outputs out) {
  const uint8_t* x = BoolData(*in[0]);
  uint8_t* y = MutablePtr<uint8_t>(out[0]);
  for (int64_t i = 0; i < in[0]->elements(); ++i) y[i] = x[i] == 0;
  return absl::OkStatus();
}

absl::Status InferNot(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferSameAsFirst(node, in, out));
  if (in[0]->dtype != DType::kBool) return Invalid("the input is ", DTypeName(in[0]->dtype), "; bool is needed");
  return absl::OkStatus();
}

absl::Status ComputeIdentity(const Node&, Inputs in, Outputs out) { return CopyAll(*in[0], out[0]); }

// Dropout(data, ratio, training_mode) -> (data, mask of true): inference only.
absl::Status InferDropout(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 3, 2));
  if (const TensorDesc* training = At(in, 2)) {
    if (training->constant == nullptr || training->dtype != DType::kBool || training->constant->elements() != 1 ||
        *BoolData(*training->constant) != 0) {
      return Unsupported("training_mode is not supported");
    }
  }
  for (TensorDesc& o : out) o.shape = in[0]->shape;
  out[0].dtype = in[0]->dtype;
  if (out.size() > 1) out[1].dtype = DType::kBool;
  return absl::OkStatus();
}

absl::Status ComputeDropout(const Node&, Inputs in, Outputs out) {
  if (Wanted(out, 1)) std::fill_n(MutablePtr<uint8_t>(out[1]), out[1].elements(), uint8_t{1});
  return CopyAll(*in[0], out[0]);
}

absl::Status InferIsNan(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferSameFloat(node, in, out));
  out[0].dtype = DType::kBool;
  return absl::OkStatus();
}

absl::Status ComputeIsNan(const Node& node, Inputs in, Outputs out) {
  const bool inf = node.op_type == "IsInf";
  const bool negative = node.Int("detect_negative", 1) != 0, positive = node.Int("detect_positive", 1) != 0;
  uint8_t* y = MutablePtr<uint8_t>(out[0]);
  const auto apply = [&]<typename T>(T) {
    const T* x = Ptr<T>(*in[0]);
    for (int64_t i = 0; i < in[0]->elements(); ++i) {
      y[i] = inf ? std::isinf(x[i]) && (x[i] > T{0} ? positive : negative) : std::isnan(x[i]);
    }
  };
  in[0]->dtype() == DType::kFloat64 ? apply(double{}) : apply(float{});
  return absl::OkStatus();
}

std::vector<OpEntry> MakeOps() {
  std::vector<OpEntry> ops = {
      {"Abs", {InferNumeric, ViaFloatOrDouble<ComputeAbs>}},
      {"Clip", {InferClip, ViaFloatOrDouble<ComputeClip>}},
      {"Dropout", {InferDropout, ComputeDropout}},
      {"Identity", {InferSameAsFirst, ComputeIdentity}},
      {"IsInf", {InferIsNan, ViaFloatOrDouble<ComputeIsNan>}},
      {"IsNaN", {InferIsNan, ViaFloatOrDouble<ComputeIsNan>}},
      {"Neg", {InferNumeric, ViaFloatOrDouble<ComputeNeg>}},
      {"Not", {InferNot, ComputeNot}},
      {"Relu", {InferNumeric, ViaFloatOrDouble<ComputeRelu>}},
      {"Sign", {InferNumeric, ViaFloatOrDouble<ComputeSign>}},
  };
  for (const FloatFunction& f : kFunctions) {
    ops.push_back({f.op_type, {InferSameFloat, ViaFloatOrDouble<ComputeFloatFunction>}});
  }
  return ops;
}

}  // namespace

std::span<const OpEntry> UnaryOps() {
  static const std::vector<OpEntry>& ops = *new std::vector<OpEntry>(MakeOps());
  return ops;
}

}  // namespace quant::ops

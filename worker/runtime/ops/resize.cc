// SPDX-License-Identifier: Apache-2.0
// Resize: nearest, linear and cubic interpolation of any axes.
//
// Interpolation is separable: along each axis an output coordinate o is mapped back to a position p in the input
// (coordinate_transformation_mode), and read from 1 (nearest), 2 (linear) or 4 (cubic) neighbours with weights that
// depend on p alone. The mapping is done in float32, as ONNX Runtime does it: which neighbour a half-way position
// rounds to depends on it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

enum class Mode { kNearest, kLinear, kCubic };

// What is resized, per axis of X. Axes left alone have scale 1.
struct Scaling {
  std::vector<float> scale;
  Shape out;
};

absl::StatusOr<std::vector<int>> ResizedAxes(const Node& node, size_t rank) {
  std::vector<int64_t> axes = node.Ints("axes");
  if (axes.empty()) {
    for (size_t i = 0; i < rank; ++i) axes.push_back(static_cast<int64_t>(i));
  }
  return NormalizeAxes(axes, static_cast<int>(rank));
}

absl::StatusOr<Scaling> FromScales(std::span<const int64_t> x, const std::vector<int>& axes,
                                   std::span<const float> scales) {
  Scaling s{std::vector<float>(x.size(), 1.0f), Shape(x.begin(), x.end())};
  if (scales.size() != axes.size())
    return Invalid("scales has ", scales.size(), " values; ", axes.size(), " are needed");
  for (size_t i = 0; i < axes.size(); ++i) {
    const size_t a = static_cast<size_t>(axes[i]);
    const float size = std::floor(static_cast<float>(x[a]) * scales[i]);
    if (!(scales[i] > 0) || !(size <= static_cast<float>(kMaxAttribute))) {
      return Invalid("scale ", scales[i], " of axis ", a, " of ", ShapeString(x), " is not positive or too large");
    }
    s.scale[a] = scales[i];
    s.out[a] = static_cast<int64_t>(size);
  }
  return s;
}

absl::StatusOr<Scaling> FromSizes(const Node& node, std::span<const int64_t> x, const std::vector<int>& axes,
                                  const std::vector<int64_t>& sizes) {
  Scaling s{std::vector<float>(x.size(), 1.0f), Shape(x.begin(), x.end())};
  if (sizes.size() != axes.size()) return Invalid("sizes has ", sizes.size(), " values; ", axes.size(), " are needed");
  const std::string policy = node.String("keep_aspect_ratio_policy", "stretch");
  if (policy != "stretch" && policy != "not_larger" && policy != "not_smaller") {
    return Invalid("keep_aspect_ratio_policy is '", policy, "'");
  }
  float common = policy == "not_larger" ? std::numeric_limits<float>::infinity() : 0.0f;
  for (size_t i = 0; i < axes.size(); ++i) {
    const size_t a = static_cast<size_t>(axes[i]);
    if (sizes[i] < 0 || sizes[i] > kMaxAttribute || (x[a] == 0 && sizes[i] != 0)) {
      return Invalid("size ", sizes[i], " for axis ", a, " of ", ShapeString(x));
    }
    s.out[a] = sizes[i];
    s.scale[a] = x[a] == 0 ? 1.0f : static_cast<float>(sizes[i]) / static_cast<float>(x[a]);
    common = policy == "not_larger" ? std::min(common, s.scale[a]) : std::max(common, s.scale[a]);
  }
  if (policy == "stretch") return s;
  for (const int axis : axes) {
    const size_t a = static_cast<size_t>(axis);
    const float size = std::floor(common * static_cast<float>(x[a]) + 0.5f);
    if (!(size <= static_cast<float>(kMaxAttribute)))
      return Invalid("axis ", axis, " of ", ShapeString(x), " would become too large");
    s.scale[a] = common;
    s.out[a] = static_cast<int64_t>(size);
  }
  return s;
}

// Inputs are (X, roi, scales, sizes); exactly one of scales and sizes is given (an empty tensor counts as absent).
absl::StatusOr<Scaling> GetScaling(const Node& node, std::span<const int64_t> x, const Tensor* scales,
                                   const Tensor* sizes) {
  ASSIGN_OR_RETURN(const std::vector<int> axes, ResizedAxes(node, x.size()));
  if (sizes != nullptr && sizes->elements() > 0) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> values, ToInt64(*sizes));
    return FromSizes(node, x, axes, values);
  }
  if (scales == nullptr || scales->elements() == 0) return Invalid("neither scales nor sizes are given");
  ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(*scales));
  return FromScales(x, axes, values);
}

absl::StatusOr<Mode> GetMode(const Node& node) {
  const std::string mode = node.String("mode", "nearest");
  if (mode == "nearest") return Mode::kNearest;
  if (mode == "linear") return Mode::kLinear;
  if (mode == "cubic") return Mode::kCubic;
  return Invalid("mode is '", mode, "'; it must be nearest, linear or cubic");
}

constexpr const char* kCoordinateModes[] = {"half_pixel",          "half_pixel_symmetric", "pytorch_half_pixel",
                                            "align_corners",       "asymmetric",           "tf_crop_and_resize",
                                            "tf_half_pixel_for_nn"};
constexpr const char* kNearestModes[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"};

template <size_t kCount>
absl::Status CheckOneOf(const Node& node, const char* key, const char* const (&allowed)[kCount]) {
  const std::string value = node.String(key, allowed[0]);
  for (const char* a : allowed) {
    if (value == a) return absl::OkStatus();
  }
  return Unsupported(key, " '", value, "' is not supported");
}

absl::Status InferResize(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 4));
  RETURN_IF_ERROR(CheckMinRank(*in[0], 1, "X"));
  ASSIGN_OR_RETURN(const Mode mode, GetMode(node));
  RETURN_IF_ERROR(CheckOneOf(node, "coordinate_transformation_mode", kCoordinateModes));
  RETURN_IF_ERROR(CheckOneOf(node, "nearest_mode", kNearestModes));
  if (mode == Mode::kNearest) {
    RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "X").status());
  } else if (!IsFloat(in[0]->dtype)) {
    return Unsupported("interpolation of ", DTypeName(in[0]->dtype), " is not supported");
  }
  const auto constant = [&](size_t i, const char* what) -> absl::StatusOr<const Tensor*> {
    const TensorDesc* d = At(in, i);
    if (d == nullptr || Product(d->shape) == 0) return nullptr;
    if (d->constant == nullptr)
      return Unsupported(what, " is computed from data while running; shapes must follow from the input shapes");
    return d->constant;
  };
  ASSIGN_OR_RETURN(const Tensor* scales, constant(2, "scales"));
  ASSIGN_OR_RETURN(const Tensor* sizes, constant(3, "sizes"));
  ASSIGN_OR_RETURN(Scaling s, GetScaling(node, in[0]->shape, scales, sizes));
  if (node.Int("antialias", 0) != 0 && mode != Mode::kNearest) {
    for (const float scale : s.scale) {
      if (scale < 1.0f) return Unsupported("antialias when downsampling is not supported");
    }
  }
  if (node.String("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize" &&
      (At(in, 1) == nullptr || Product(in[1]->shape) == 0)) {
    return Invalid("roi is needed for tf_crop_and_resize");
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape = std::move(s.out);
  return absl::OkStatus();
}

// The position in the input of output coordinate o.
float Position(const std::string& mode, float o, float scale, float out_size, float in_size, float roi_start,
               float roi_end) {
  if (mode == "asymmetric") return o / scale;
  if (mode == "align_corners") return out_size == 1 ? 0.0f : o * (in_size - 1) / (out_size - 1);
  if (mode == "pytorch_half_pixel") return out_size > 1 ? (o + 0.5f) / scale - 0.5f : 0.0f;
  if (mode == "tf_half_pixel_for_nn") return (o + 0.5f) / scale;
  if (mode == "tf_crop_and_resize") {
    if (out_size > 1) return roi_start * (in_size - 1) + o * (roi_end - roi_start) * (in_size - 1) / (out_size - 1);
    return 0.5f * (roi_start + roi_end) * (in_size - 1);
  }
  if (mode == "half_pixel_symmetric") {
    const float adjustment = out_size / (scale * in_size), offset = in_size / 2 * (1 - adjustment);
    const double p = static_cast<double>(offset) + (static_cast<double>(o) + 0.5) / static_cast<double>(scale) - 0.5;
    return static_cast<float>(p);
  }
  return (o + 0.5f) / scale - 0.5f;  // half_pixel
}

// The neighbours one output coordinate reads.
struct Taps {
  std::array<int64_t, 4> offset = {};  // in elements of X
  std::array<double, 4> weight = {1, 0, 0, 0};
  bool outside = false;  // tf_crop_and_resize beyond the input: extrapolation_value
};

double NearestIndex(const std::string& mode, double p) {
  if (mode == "floor") return std::floor(p);
  if (mode == "ceil") return std::ceil(p);
  if (mode == "round_prefer_ceil") return std::floor(p + 0.5);
  return std::ceil(p - 0.5);  // round_prefer_floor
}

// The cubic convolution kernel (Keys 1981) for the neighbours at distances 1 + r, r, 1 - r, 2 - r.
std::array<double, 4> CubicWeights(double r, double a) {
  const auto far = [a](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
  const auto near = [a](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
  return {far(1 + r), near(r), near(1 - r), far(2 - r)};
}

struct AxisOptions {
  Mode mode;
  std::string coordinates, nearest;
  double cubic_a;
  bool exclude_outside;
};

Taps GetTaps(const AxisOptions& options, float position, int64_t n, int64_t stride) {
  Taps t;
  const auto clamp = [n](double i) { return static_cast<int64_t>(std::clamp(i, 0.0, static_cast<double>(n - 1))); };
  const double p = std::isfinite(position) ? static_cast<double>(position) : 0.0;
  t.outside = options.coordinates == "tf_crop_and_resize" && (p < 0 || p > static_cast<double>(n - 1));
  if (options.mode == Mode::kNearest) {
    t.offset[0] = clamp(NearestIndex(options.nearest, p)) * stride;
  } else if (options.mode == Mode::kLinear) {
    const double inside = std::clamp(p, 0.0, static_cast<double>(n - 1)), low = std::floor(inside);
    t.offset = {clamp(low) * stride, clamp(low + 1) * stride, 0, 0};
    t.weight = {1 - (inside - low), inside - low, 0, 0};
  } else {
    const double low = std::floor(p);
    t.weight = CubicWeights(p - low, options.cubic_a);
    double sum = 0;
    for (size_t k = 0; k < 4; ++k) {
      const double i = low - 1 + static_cast<double>(k);
      t.offset[k] = clamp(i) * stride;
      if (options.exclude_outside && (i < 0 || i > static_cast<double>(n - 1))) t.weight[k] = 0;
      sum += t.weight[k];
    }
    if (options.exclude_outside) {
      for (double& w : t.weight) w /= sum;
    }
  }
  return t;
}

// Sums over the taps of axes [axis, rank), given those before it.
double Interpolate(const float* x, std::span<const Taps* const> taps, std::span<const int> counts, int64_t offset) {
  if (taps.empty()) return static_cast<double>(x[offset]);
  double sum = 0;
  for (int k = 0; k < counts[0]; ++k) {
    const size_t i = static_cast<size_t>(k);
    if (taps[0]->weight[i] == 0) continue;
    sum += taps[0]->weight[i] * Interpolate(x, taps.subspan(1), counts.subspan(1), offset + taps[0]->offset[i]);
  }
  return sum;
}

absl::Status ComputeResize(const Node& node, Inputs in, Outputs out) {
  if (out[0].elements() == 0) return absl::OkStatus();
  const Shape &x = in[0]->shape(), &y = out[0].shape();
  ASSIGN_OR_RETURN(const Scaling s, GetScaling(node, x, At(in, 2), At(in, 3)));
  if (s.out != y) return Invalid("the output shape changed between planning and running");
  ASSIGN_OR_RETURN(const Mode mode, GetMode(node));
  const AxisOptions options{mode, node.String("coordinate_transformation_mode", "half_pixel"),
                            node.String("nearest_mode", "round_prefer_floor"),
                            static_cast<double>(node.Float("cubic_coeff_a", -0.75f)),
                            node.Int("exclude_outside", 0) != 0};
  std::vector<float> roi_start(x.size(), 0.0f), roi_end(x.size(), 1.0f);
  const bool crop = options.coordinates == "tf_crop_and_resize";
  if (crop) {
    ASSIGN_OR_RETURN(const std::vector<int> axes, ResizedAxes(node, x.size()));
    ASSIGN_OR_RETURN(const std::vector<float> roi, ToFloat(*in[1]));
    if (roi.size() != 2 * axes.size())
      return Invalid("roi has ", roi.size(), " values; ", 2 * axes.size(), " are needed");
    for (size_t i = 0; i < axes.size(); ++i) {
      roi_start[static_cast<size_t>(axes[i])] = roi[i];
      roi_end[static_cast<size_t>(axes[i])] = roi[i + axes.size()];
    }
  }
  const std::vector<int64_t> strides = Strides(x);
  std::vector<std::vector<Taps>> table(x.size());
  std::vector<int> counts(x.size(), 1);
  for (size_t a = 0; a < x.size(); ++a) {
    const bool alone = y[a] == x[a] && s.scale[a] == 1.0f && !(crop && (roi_start[a] != 0.0f || roi_end[a] != 1.0f));
    if (!alone) counts[a] = mode == Mode::kNearest ? 1 : mode == Mode::kLinear ? 2 : 4;
    for (int64_t o = 0; o < y[a]; ++o) {
      if (alone) {
        table[a].emplace_back().offset[0] = o * strides[a];
        continue;
      }
      const float p = Position(options.coordinates, static_cast<float>(o), s.scale[a], static_cast<float>(y[a]),
                               static_cast<float>(x[a]), roi_start[a], roi_end[a]);
      table[a].push_back(GetTaps(options, p, x[a], strides[a]));
    }
  }
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(out[0].dtype(), "X"));
  const float extrapolation = node.Float("extrapolation_value", 0);
  std::byte* dst = out[0].mutable_bytes().data();
  std::vector<int64_t> at(y.size(), 0);
  std::vector<const Taps*> taps(y.size());
  for (int64_t i = 0; i < out[0].elements(); ++i, dst += size) {
    bool outside = false;
    int64_t offset = 0;
    for (size_t a = 0; a < y.size(); ++a) {
      taps[a] = &table[a][static_cast<size_t>(at[a])];
      outside = outside || taps[a]->outside;
      offset += taps[a]->offset[0];
    }
    if (outside && out[0].dtype() == DType::kFloat32) {
      std::memcpy(dst, &extrapolation, sizeof(extrapolation));
    } else if (mode == Mode::kNearest) {
      std::memcpy(dst, in[0]->bytes().data() + offset * static_cast<int64_t>(size), size);
    } else {
      const float v = static_cast<float>(Interpolate(Ptr<float>(*in[0]), taps, counts, 0));
      std::memcpy(dst, &v, sizeof(v));
    }
    for (size_t a = y.size(); a-- > 0;) {
      if (++at[a] < y[a]) break;
      at[a] = 0;
    }
  }
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Resize", {InferResize, ViaFloat<ComputeResize>}},
};

}  // namespace

std::span<const OpEntry> ResizeOps() { return kOps; }

}  // namespace quant::ops

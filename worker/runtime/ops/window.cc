// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/ops/window.h"

#include <algorithm>
#include <string>
#include <vector>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b != 0 && a < 0 ? 1 : 0); }
int64_t CeilDiv(int64_t a, int64_t b) { return -FloorDiv(-a, b); }

enum class AutoPad { kNotSet, kSameUpper, kSameLower, kValid };

absl::StatusOr<AutoPad> GetAutoPad(const Node& node) {
  const std::string value = node.String("auto_pad", "NOTSET");
  if (value == "NOTSET" || value.empty()) return AutoPad::kNotSet;
  if (value == "SAME_UPPER") return AutoPad::kSameUpper;
  if (value == "SAME_LOWER") return AutoPad::kSameLower;
  if (value == "VALID") return AutoPad::kValid;
  return Invalid("auto_pad is '", value, "'; it must be NOTSET, SAME_UPPER, SAME_LOWER or VALID");
}

// Copies the last w.dims values of attribute `key` (when present) into `dst`.
absl::Status ReadAttribute(const Node& node, const char* key, int dims, int64_t min, std::array<int64_t, 3>& dst) {
  const std::vector<int64_t> v = node.Ints(key);
  if (v.empty()) return absl::OkStatus();
  if (v.size() != static_cast<size_t>(dims)) {
    return Invalid(key, " has ", v.size(), " values; the input has ", dims, " spatial dimensions");
  }
  for (size_t i = 0; i < v.size(); ++i) {
    const int64_t value = v[i];
    if (value < min || value > kMaxAttribute) {
      return Invalid(key, " has the value ", value, "; it must be in [", min, ", ", kMaxAttribute, "]");
    }
    dst[3 - v.size() + i] = value;
  }
  return absl::OkStatus();
}

// Everything but the output sizes and resolved pads.
absl::StatusOr<Window> ReadWindow(const Node& node, std::span<const int64_t> x, std::span<const int64_t> kernel) {
  if (x.size() < 3) return Invalid("the input has shape ", ShapeString(x), "; [N, C, spatial...] is needed");
  if (x.size() > 5) {
    return Unsupported("the input has ", x.size() - 2, " spatial dimensions; at most 3 are supported");
  }
  Window w;
  w.dims = static_cast<int>(x.size()) - 2;
  if (kernel.size() != static_cast<size_t>(w.dims)) {
    return Invalid("the kernel has ", kernel.size(), " dimensions; the input has ", w.dims, " spatial dimensions");
  }
  for (size_t i = 0; i < kernel.size(); ++i) {
    const size_t to = 3 - kernel.size() + i;
    w.in[to] = x[i + 2];
    w.kernel[to] = kernel[i];
    if (w.kernel[to] < 1 || w.kernel[to] > kMaxAttribute || w.in[to] > kMaxAttribute) {
      return Invalid("kernel size ", w.kernel[to], " over input size ", w.in[to],
                     "; a kernel is at least 1, both are at most ", kMaxAttribute);
    }
  }
  RETURN_IF_ERROR(ReadAttribute(node, "strides", w.dims, 1, w.stride));
  RETURN_IF_ERROR(ReadAttribute(node, "dilations", w.dims, 1, w.dilation));
  const std::vector<int64_t> pads = node.Ints("pads");
  if (!pads.empty()) {
    if (pads.size() != 2 * static_cast<size_t>(w.dims)) {
      return Invalid("pads has ", pads.size(), " values; ", 2 * w.dims, " are needed");
    }
    for (size_t i = 0; i < pads.size(); ++i) {
      if (pads[i] < 0 || pads[i] > kMaxAttribute) {
        return Invalid("pads has the value ", pads[i], "; it must be in [0, ", kMaxAttribute, "]");
      }
      const size_t d = i % static_cast<size_t>(w.dims);
      (i < static_cast<size_t>(w.dims) ? w.pad_begin : w.pad_end)[static_cast<size_t>(3 - w.dims) + d] = pads[i];
    }
  }
  return w;
}

// Shares `total` padding between the ends of dimension i.
void SplitPadding(Window& w, size_t i, int64_t total, bool extra_at_end) {
  const int64_t small = total / 2;
  w.pad_begin[i] = extra_at_end ? small : total - small;
  w.pad_end[i] = total - w.pad_begin[i];
}

absl::StatusOr<Window> ForwardWindow(const Node& node, std::span<const int64_t> x, std::span<const int64_t> kernel,
                                     bool ceil_mode) {
  ASSIGN_OR_RETURN(Window w, ReadWindow(node, x, kernel));
  ASSIGN_OR_RETURN(const AutoPad auto_pad, GetAutoPad(node));
  for (size_t i = static_cast<size_t>(3 - w.dims); i < 3; ++i) {
    const int64_t reach = (w.kernel[i] - 1) * w.dilation[i] + 1;
    if (auto_pad == AutoPad::kSameUpper || auto_pad == AutoPad::kSameLower) {
      w.out[i] = CeilDiv(w.in[i], w.stride[i]);
      const int64_t total = w.out[i] == 0 ? 0 : (w.out[i] - 1) * w.stride[i] + reach - w.in[i];
      SplitPadding(w, i, std::max<int64_t>(total, 0), auto_pad == AutoPad::kSameUpper);
      continue;
    }
    if (auto_pad == AutoPad::kValid) w.pad_begin[i] = w.pad_end[i] = 0;
    const int64_t slack = w.in[i] + w.pad_begin[i] + w.pad_end[i] - reach;
    if (slack < 0) {
      return Invalid("the kernel reaches over ", reach, " elements but the padded input has ", slack + reach,
                     " (spatial dimension ", i - static_cast<size_t>(3 - w.dims), ")");
    }
    w.out[i] = slack / w.stride[i] + 1;
    if (ceil_mode && slack % w.stride[i] != 0) {
      // One more window, unless it would start in the padding at the end (as PyTorch and ONNX have it).
      if (w.out[i] * w.stride[i] < w.in[i] + w.pad_begin[i]) ++w.out[i];
    }
  }
  return w;
}

}  // namespace

absl::StatusOr<Window> ConvWindow(const Node& node, std::span<const int64_t> x, std::span<const int64_t> kernel) {
  const std::vector<int64_t> declared = node.Ints("kernel_shape");
  if (!declared.empty() && !std::equal(declared.begin(), declared.end(), kernel.begin(), kernel.end())) {
    return Invalid("kernel_shape is ", ShapeString(declared), " but the weights have ", ShapeString(kernel));
  }
  return ForwardWindow(node, x, kernel, /*ceil_mode=*/false);
}

absl::StatusOr<Window> PoolWindow(const Node& node, std::span<const int64_t> x) {
  return ForwardWindow(node, x, node.Ints("kernel_shape"), node.Int("ceil_mode", 0) != 0);
}

absl::StatusOr<Window> ConvTransposeWindow(const Node& node, std::span<const int64_t> x,
                                           std::span<const int64_t> kernel) {
  const std::vector<int64_t> declared = node.Ints("kernel_shape");
  if (!declared.empty() && !std::equal(declared.begin(), declared.end(), kernel.begin(), kernel.end())) {
    return Invalid("kernel_shape is ", ShapeString(declared), " but the weights have ", ShapeString(kernel));
  }
  ASSIGN_OR_RETURN(Window w, ReadWindow(node, x, kernel));
  ASSIGN_OR_RETURN(const AutoPad auto_pad, GetAutoPad(node));
  std::array<int64_t, 3> extra = {0, 0, 0};
  RETURN_IF_ERROR(ReadAttribute(node, "output_padding", w.dims, 0, extra));
  std::vector<int64_t> wanted = node.Ints("output_shape");
  if (wanted.size() == x.size()) wanted.erase(wanted.begin(), wanted.begin() + 2);  // some exporters give N and C too
  if (!wanted.empty() && wanted.size() != static_cast<size_t>(w.dims)) {
    return Invalid("output_shape has ", wanted.size(), " values; the input has ", w.dims, " spatial dimensions");
  }
  for (const int64_t size : wanted) {
    if (size < 1) return Invalid("output_shape has ", size, "; sizes are positive");
  }
  for (size_t i = static_cast<size_t>(3 - w.dims); i < 3; ++i) {
    const int64_t reach = (w.kernel[i] - 1) * w.dilation[i] + 1;
    if (w.in[i] < 1) return Invalid("the input has an empty spatial dimension");
    const int64_t full = (w.in[i] - 1) * w.stride[i] + extra[i] + reach;
    if (!wanted.empty() || auto_pad == AutoPad::kSameUpper || auto_pad == AutoPad::kSameLower) {
      // Where even no padding makes less than in * stride (stride over kernel size), that is what ONNX Runtime gives.
      w.out[i] = wanted.empty() ? std::min(w.in[i] * w.stride[i], full) : wanted[i - static_cast<size_t>(3 - w.dims)];
      SplitPadding(w, i, std::max<int64_t>(full - w.out[i], 0), auto_pad == AutoPad::kSameUpper);
    } else {
      if (auto_pad == AutoPad::kValid) w.pad_begin[i] = w.pad_end[i] = 0;
      w.out[i] = full - w.pad_begin[i] - w.pad_end[i];
    }
    if (w.out[i] < 1) return Invalid("the output size comes out as ", w.out[i], "; pads exceed what the kernel makes");
  }
  return w;
}

Shape WindowOutputShape(const Window& w, int64_t batch, int64_t channels) {
  Shape shape = {batch, channels};
  shape.insert(shape.end(), w.out.begin() + (3 - w.dims), w.out.end());
  return shape;
}

TapRange ValidTaps(int64_t base, int64_t dilation, int64_t taps, int64_t size) {
  const int64_t begin = std::max<int64_t>(0, CeilDiv(-base, dilation));
  const int64_t end = std::min(taps, CeilDiv(size - base, dilation));
  return {begin, std::max(begin, end)};
}

}  // namespace quant::ops

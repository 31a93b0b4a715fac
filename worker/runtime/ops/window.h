// SPDX-License-Identifier: Apache-2.0
// The geometry of sliding windows: what Conv, ConvTranspose and the pooling operators derive from their attributes and
// shapes, with auto_pad and ceil_mode resolved. Both backends use it.
#ifndef QUANT_WORKER_RUNTIME_OPS_WINDOW_H_
#define QUANT_WORKER_RUNTIME_OPS_WINDOW_H_

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant::ops {

// Spatial sizes always have three entries (depth, height, width); an operator over fewer dimensions has leading entries
// of in = kernel = stride = dilation = out = 1 and pads 0. `dims` says how many are real: entries [3 - dims, 3).
//
// Convolution and pooling:  in index = out * stride - pad_begin + tap * dilation.
// ConvTranspose:            out index = in * stride - pad_begin + tap * dilation.
struct Window {
  int dims = 0;
  std::array<int64_t, 3> in = {1, 1, 1};
  std::array<int64_t, 3> kernel = {1, 1, 1};
  std::array<int64_t, 3> stride = {1, 1, 1};
  std::array<int64_t, 3> dilation = {1, 1, 1};
  std::array<int64_t, 3> pad_begin = {0, 0, 0};
  std::array<int64_t, 3> pad_end = {0, 0, 0};  // ceil_mode may reach past it
  std::array<int64_t, 3> out = {1, 1, 1};

  int64_t InSize() const { return in[0] * in[1] * in[2]; }
  int64_t OutSize() const { return out[0] * out[1] * out[2]; }
  int64_t KernelSize() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// Windows of Conv (and its integer forms) and of pooling for input shape `x` = [N, C, spatial...], 1 to 3 spatial
// dimensions. `kernel` are the spatial kernel sizes; for pooling they are the attribute kernel_shape.
// INVALID_ARGUMENT: an attribute of the wrong length, a stride, dilation or kernel below 1, a negative pad, any of them
// over 2^30, a kernel that is larger than the padded input. UNIMPLEMENTED: more than 3 spatial dimensions.
absl::StatusOr<Window> ConvWindow(const Node& node, std::span<const int64_t> x, std::span<const int64_t> kernel);
absl::StatusOr<Window> PoolWindow(const Node& node, std::span<const int64_t> x);

// Window of ConvTranspose: output_padding and output_shape resolved into pads and out. Pads come out negative
// never; output positions no input reaches hold the bias alone.
absl::StatusOr<Window> ConvTransposeWindow(const Node& node, std::span<const int64_t> x,
                                           std::span<const int64_t> kernel);

// Shape [batch, channels, spatial...] of a window's output.
Shape WindowOutputShape(const Window& w, int64_t batch, int64_t channels);

// The taps t in [begin, end) for which base + t * dilation lies in [0, size).
struct TapRange {
  int64_t begin, end;
};
TapRange ValidTaps(int64_t base, int64_t dilation, int64_t taps, int64_t size);

}  // namespace quant::ops

#endif  // QUANT_WORKER_RUNTIME_OPS_WINDOW_H_

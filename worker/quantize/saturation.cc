// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/saturation.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <utility>

#include "worker/runtime/isa.h"

namespace quant {
namespace {

constexpr int64_t kSamples = 8;
constexpr int kPositions = 64;  // output positions per sample

uint8_t Code(float x, const Grid& g) {
  const float q = std::nearbyint(x / g.scale) + static_cast<float>(g.zero_point);
  return static_cast<uint8_t>(std::clamp(q, static_cast<float>(g.qmin), static_cast<float>(g.qmax)));
}

// Counts saturating pairs between `a` (the input codes one output element sums over) and one channel's weights `w` in
// the same order; `run` is the distance between neighbouring channels in it.
void CountPairs(const std::vector<uint8_t>& a, const std::vector<int8_t>& w, int64_t run, int64_t* bad, int64_t* all) {
  const int64_t n = static_cast<int64_t>(a.size());
  const auto pair = [&](int64_t i, int64_t j) {
    const int sum = int{a[static_cast<size_t>(i)]} * w[static_cast<size_t>(i)] +
                    int{a[static_cast<size_t>(j)]} * w[static_cast<size_t>(j)];
    *bad += std::abs(sum) > 32767;
    ++*all;
  };
  for (int64_t i = 0; i + 1 < n; i += 2) pair(i, i + 1);
  if (run <= 1) return;
  for (int64_t c = 0; (c + 1) * run < n; c += 2) {
    for (int64_t k = 0; k < run && (c + 1) * run + k < n; ++k) pair(c * run + k, (c + 1) * run + k);
  }
}

}  // namespace

bool SaturationCensus::Needed() { return !HasExactInt8(); }

absl::Status SaturationCensus::Collect(const Graph& graph, const std::vector<std::string>& inputs, Dataset& data,
                                       int threads, const ProgressFn& progress) {
  if (!Needed()) return absl::OkStatus();
  CompileOptions options{.threads = threads, .taps = inputs};
  std::sort(options.taps.begin(), options.taps.end());
  options.taps.erase(std::unique(options.taps.begin(), options.taps.end()), options.taps.end());
  options.tap = [&](std::string_view name, const Tensor& tensor) -> absl::Status {
    absl::StatusOr<Tensor> copy = Cast(tensor, DType::kFloat32);
    if (!copy.ok()) return copy.status();
    samples_[std::string(name)].push_back(*std::move(copy));
    return absl::OkStatus();
  };
  absl::StatusOr<std::unique_ptr<Executable>> exe = Compile(std::make_shared<const Graph>(graph), options);
  if (!exe.ok()) return exe.status();
  const int64_t batch = RunnableBatch(graph, 1);
  for (int64_t begin = 0; begin + batch <= std::min(data.size(), std::max(kSamples, batch)); begin += batch) {
    const Counted counted{begin, std::min(data.size(), std::max(kSamples, batch)), "samples"};
    if (absl::Status s = Tell(progress, 0, "counting saturating pair sums", counted); !s.ok()) return s;
    absl::StatusOr<std::vector<Tensor>> sample = data.Read(begin, batch);
    if (!sample.ok()) return sample.status();
    if (absl::StatusOr<std::span<const Tensor>> r = (*exe)->Run(*sample); !r.ok()) return r.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<double> SaturationCensus::Share(const Node& layer, const QuantizedWeights& weights,
                                               const Grid& grid) const {
  const auto it = samples_.find(layer.input(0));
  if (it == samples_.end()) return 0.0;
  const std::span<const int8_t> q = weights.codes.data<int8_t>();
  int largest = 0, second = 0;
  for (const int8_t v : q) {
    const int m = std::abs(int{v});
    if (m > largest) {
      second = std::exchange(largest, m);
    } else {
      second = std::max(second, m);
    }
  }
  if (255 * (largest + second) <= 32767) return 0.0;

  // The weights of output channel c in the order [input channel, kernel...] (Conv), or along the input (Gemm, MatMul).
  const Shape& ws = weights.codes.shape();
  const int64_t channels = ws[static_cast<size_t>(weights.axis)];
  const bool conv = layer.op_type == "Conv";
  const int64_t inputs = conv ? ws[1] : ws[static_cast<size_t>(1 - std::min(weights.axis, 1))];
  int64_t run = 1;
  if (layer.op_type == "Conv" || layer.op_type == "ConvTranspose") {
    for (size_t i = 2; i < ws.size(); ++i) run *= ws[i];
  }
  const int64_t length = layer.op_type == "ConvTranspose" ? ws[0] * run : inputs * run;
  std::vector<std::vector<int8_t>> rows(static_cast<size_t>(channels),
                                        std::vector<int8_t>(static_cast<size_t>(length)));
  const int64_t outer_stride = weights.axis == 0 ? length : 1;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < length; ++i) {
      const int64_t flat = weights.axis == 0 ? c * outer_stride + i : ((i / run) * channels + c) * run + i % run;
      rows[static_cast<size_t>(c)][static_cast<size_t>(i)] = q[static_cast<size_t>(flat)];
    }
  }

  std::mt19937 rng(1);
  int64_t bad = 0, all = 0;
  std::vector<uint8_t> a(static_cast<size_t>(length));
  for (const Tensor& x : it->second) {
    const std::span<const float> v = x.data<float>();
    for (int p = 0; p < kPositions; ++p) {
      int64_t group = 0;
      if (run > 1 || x.rank() >= 3) {
        // A window of the kernel's size somewhere inside the input (its border wraps: values, not geometry, matter).
        const int64_t c_in = x.dim(1);
        const int64_t pixels = x.elements() / std::max<int64_t>(1, x.dim(0) * c_in);
        if (pixels == 0) return 0.0;
        const int64_t image = static_cast<int64_t>(rng()) % x.dim(0);
        const int64_t at = static_cast<int64_t>(rng()) % pixels;
        const int64_t groups = std::max<int64_t>(1, c_in / std::max<int64_t>(1, length / run));
        group = static_cast<int64_t>(rng()) % groups;
        const int64_t width = x.rank() >= 4 ? x.dim(x.rank() - 1) : pixels;
        const int64_t side =
            std::max<int64_t>(1, static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(run)))));
        for (int64_t i = 0; i < length; ++i) {
          const int64_t channel = group * (length / run) + i / run;
          const int64_t k = i % run;
          const int64_t pixel = (at + (k / side) * width + k % side) % pixels;
          a[static_cast<size_t>(i)] =
              Code(v[static_cast<size_t>((image * c_in + channel % c_in) * pixels + pixel)], grid);
        }
        const int64_t per_group = conv ? std::max<int64_t>(1, channels / groups) : channels;
        for (int64_t c = group * per_group; c < std::min(channels, (group + 1) * per_group); ++c) {
          CountPairs(a, rows[static_cast<size_t>(c)], run, &bad, &all);
        }
      } else {
        const int64_t count = x.elements() / length;
        if (count == 0) return 0.0;
        const int64_t row = static_cast<int64_t>(rng()) % count;
        for (int64_t i = 0; i < length; ++i)
          a[static_cast<size_t>(i)] = Code(v[static_cast<size_t>(row * length + i)], grid);
        for (const std::vector<int8_t>& w : rows) CountPairs(a, w, 1, &bad, &all);
      }
    }
  }
  return all > 0 ? static_cast<double>(bad) / static_cast<double>(all) : 0.0;
}

}  // namespace quant

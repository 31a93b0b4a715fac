// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/bias_correction.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr int64_t kSamples = 64;

using Means = std::map<std::string, std::vector<double>, std::less<>>;

// Means per channel (axis 1; the last axis of rank 2 and below) of the tapped values over the first samples.
absl::StatusOr<Means> ChannelMeans(std::shared_ptr<const Graph> graph, const std::vector<std::string>& values,
                                   Dataset& data, int threads, const std::function<absl::Status()>& tick) {
  Means sums;
  std::map<std::string, double, std::less<>> counts;
  CompileOptions options{.threads = threads, .taps = values};
  options.tap = [&](std::string_view name, const Tensor& t) -> absl::Status {
    absl::StatusOr<std::vector<float>> v = ToFloat(t);
    if (!v.ok()) return v.status();
    if (t.rank() < 2) return absl::OkStatus();
    const int64_t channels = t.dim(1);
    const int64_t inner = t.elements() / std::max<int64_t>(1, t.dim(0) * channels);
    std::vector<double>& sum = sums[std::string(name)];
    sum.resize(static_cast<size_t>(channels));
    for (size_t i = 0; i < v->size(); ++i) {
      sum[i / static_cast<size_t>(inner) % static_cast<size_t>(channels)] += (*v)[i];
    }
    counts[std::string(name)] += static_cast<double>(t.dim(0) * inner);
    return absl::OkStatus();
  };
  const int64_t batch = RunnableBatch(*graph, 16);
  absl::StatusOr<std::unique_ptr<Executable>> exe = Compile(std::move(graph), options);
  if (!exe.ok()) return exe.status();
  for (int64_t begin = 0; begin + batch <= std::max(batch, std::min(data.size(), kSamples)); begin += batch) {
    if (absl::Status s = tick(); !s.ok()) return s;
    absl::StatusOr<std::vector<Tensor>> inputs = data.Read(begin, std::min(batch, data.size() - begin));
    if (!inputs.ok()) return inputs.status();
    if (absl::StatusOr<std::span<const Tensor>> r = (*exe)->Run(*inputs); !r.ok()) return r.status();
  }
  for (auto& [name, sum] : sums) {
    for (double& x : sum) x /= counts[name];
  }
  return sums;
}

}  // namespace

absl::Status CorrectBiases(const Graph& original, const std::vector<BiasTarget>& targets,
                           const std::function<absl::StatusOr<Graph>()>& build, Dataset& data, int threads,
                           const ProgressFn& progress) {
  std::vector<std::string> values;
  values.reserve(targets.size());
  for (const BiasTarget& t : targets) values.push_back(t.value);
  size_t done = 0;
  int64_t batches = 0;
  const auto tick = [&] {
    const std::string_view layer = done < targets.size() ? targets[done].value : std::string_view();
    return Tell(progress, absl::StrCat("bias of ", AbslView(layer), ", batch ", ++batches),
                {static_cast<int64_t>(done), static_cast<int64_t>(targets.size()), "layers"});
  };
  absl::StatusOr<Means> want = ChannelMeans(std::make_shared<const Graph>(original), values, data, threads, tick);
  if (!want.ok()) return want.status();
  for (; done < targets.size(); ++done) {
    const BiasTarget& t = targets[done];
    absl::StatusOr<Graph> quantized = build();
    if (!quantized.ok()) return quantized.status();
    absl::StatusOr<Means> have =
        ChannelMeans(std::make_shared<const Graph>(*std::move(quantized)), {t.value}, data, threads, tick);
    if (!have.ok()) return have.status();
    const std::vector<double>& a = (*want)[t.value];
    const std::vector<double>& b = (*have)[t.value];
    if (a.size() != static_cast<size_t>(t.channels) || b.size() != a.size()) continue;  // not one mean per bias
    t.bias->resize(a.size(), 0.0f);
    for (size_t c = 0; c < a.size(); ++c) (*t.bias)[c] += static_cast<float>(a[c] - b[c]);
  }
  return absl::OkStatus();
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// Latency, throughput and memory: both models in turn in one process, so that a change of the machine's speed reaches
// both.
#include "worker/evaluate/latency.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/evaluate/evaluate.h"

namespace quant {
namespace {

struct Pair {
  std::unique_ptr<Executable> original;
  std::unique_ptr<Executable> quantized;
  std::vector<Tensor> inputs;
};

absl::StatusOr<Pair> CompilePair(std::shared_ptr<const Graph> original, std::shared_ptr<const Graph> quantized,
                                 Dataset* data, int64_t batch, int threads) {
  Pair p;
  absl::StatusOr<std::vector<Tensor>> inputs = SampleInputs(*original, data, batch, /*seed=*/0);
  if (!inputs.ok()) return inputs.status();
  p.inputs = *std::move(inputs);
  const CompileOptions options{.threads = threads, .max_plans = 1};
  absl::StatusOr<std::unique_ptr<Executable>> a = Compile(std::move(original), options);
  if (!a.ok()) return a.status();
  absl::StatusOr<std::unique_ptr<Executable>> b = Compile(std::move(quantized), options);
  if (!b.ok()) return b.status();
  p.original = *std::move(a);
  p.quantized = *std::move(b);
  return p;
}

absl::StatusOr<double> RunMs(Executable& exe, std::span<const Tensor> inputs) {
  const int64_t begin = absl::GetCurrentTimeNanos();
  if (absl::StatusOr<std::span<const Tensor>> out = exe.Run(inputs); !out.ok()) return out.status();
  return static_cast<double>(absl::GetCurrentTimeNanos() - begin) * 1e-6;
}

double Median(std::vector<double> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

}  // namespace

LatencyResult SummarizeLatency(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  const double n = static_cast<double>(ms.size());
  LatencyResult r;
  r.mean_ms = std::accumulate(ms.begin(), ms.end(), 0.0) / n;
  double squares = 0;
  for (const double x : ms) squares += (x - r.mean_ms) * (x - r.mean_ms);
  r.std_ms = ms.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  const auto rank = [&](double p) { return ms[static_cast<size_t>(std::max(0.0, std::ceil(p * n) - 1))]; };
  r.p50_ms = rank(0.50);
  r.p95_ms = rank(0.95);
  r.p99_ms = rank(0.99);
  return r;
}

absl::StatusOr<LatencyPairResult> MeasureLatency(std::shared_ptr<const Graph> original,
                                                 std::shared_ptr<const Graph> quantized, Dataset* data, int runs,
                                                 int threads, const ProgressFn& progress) {
  const int64_t batch = RunnableBatch(*original, 1);
  absl::StatusOr<Pair> pair = CompilePair(std::move(original), std::move(quantized), data, batch, threads);
  if (!pair.ok()) return pair.status();
  constexpr size_t kWindow = 10;
  constexpr size_t kMaxWarmUp = 100;
  std::vector<double> a, b;
  const auto once = [&]() -> absl::Status {
    absl::StatusOr<double> x = RunMs(*pair->original, pair->inputs);
    if (!x.ok()) return x.status();
    absl::StatusOr<double> y = RunMs(*pair->quantized, pair->inputs);
    if (!y.ok()) return y.status();
    a.push_back(*x);
    b.push_back(*y);
    return absl::OkStatus();
  };
  double last_a = 0, last_b = 0;
  for (bool steady = false; !steady && a.size() < kMaxWarmUp;) {
    const size_t from = a.size();
    for (size_t i = 0; i < kWindow; ++i) {
      if (absl::Status s = once(); !s.ok()) return s;
      if (absl::Status s = Tell(progress, 0, absl::StrCat("warm-up run ", a.size())); !s.ok()) return s;
    }
    const auto tail = static_cast<std::ptrdiff_t>(from);
    const double now_a = Median({a.begin() + tail, a.end()});
    const double now_b = Median({b.begin() + tail, b.end()});
    steady = from > 0 && std::fabs(now_a - last_a) <= 0.02 * last_a && std::fabs(now_b - last_b) <= 0.02 * last_b;
    last_a = now_a;
    last_b = now_b;
  }
  a.clear();
  b.clear();
  for (int i = 0; i < std::max(runs, 1); ++i) {
    if (absl::Status s = once(); !s.ok()) return s;
    if (i % 20 == 0) {
      if (absl::Status s = Tell(progress, "latency", {i, runs, "runs"}); !s.ok()) return s;
    }
  }
  LatencyPairResult r;
  r.runs = static_cast<int>(a.size());
  r.batch = batch;
  r.original = SummarizeLatency(std::move(a));
  r.quantized = SummarizeLatency(std::move(b));
  return r;
}

absl::StatusOr<ThroughputResult> MeasureThroughput(std::shared_ptr<const Graph> original,
                                                   std::shared_ptr<const Graph> quantized, Dataset* data, int64_t batch,
                                                   double seconds, int threads, const ProgressFn& progress) {
  batch = RunnableBatch(*original, batch);
  absl::StatusOr<Pair> pair = CompilePair(std::move(original), std::move(quantized), data, batch, threads);
  if (!pair.ok()) return pair.status();
  double total_a = 0, total_b = 0;
  int64_t runs = 0;
  for (int64_t i = -1; i < 3 || total_a + total_b < 2000 * seconds; ++i) {
    const absl::StatusOr<double> x = RunMs(*pair->original, pair->inputs);
    if (!x.ok()) return x.status();
    const absl::StatusOr<double> y = RunMs(*pair->quantized, pair->inputs);
    if (!y.ok()) return y.status();
    if (i < 0) continue;  // warm-up
    total_a += *x;
    total_b += *y;
    ++runs;
    const double done = std::min(1.0, (total_a + total_b) / (2000 * seconds));
    if (absl::Status s = Tell(progress, done, absl::StrCat("throughput at batch ", batch)); !s.ok()) return s;
  }
  const double samples = static_cast<double>(runs * batch);
  return ThroughputResult{.original = 1000 * samples / total_a, .quantized = 1000 * samples / total_b, .batch = batch};
}

absl::StatusOr<std::vector<Tensor>> SampleInputs(const Graph& graph, Dataset* data, int64_t batch, uint64_t seed) {
  if (data != nullptr && data->size() >= batch) return data->Read(0, batch);
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<Tensor> inputs;
  for (const ValueInfo& info : graph.inputs) {
    if (!info.has_shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input '", info.name, "' declares no shape, so no random data can be made for it: give a dataset"));
    }
    Shape shape;
    for (size_t i = 0; i < info.shape.size(); ++i) {
      const bool spatial = info.shape.size() == 4 && i >= 2;
      shape.push_back(info.shape[i].known() ? info.shape[i].value : i == 0 ? batch : spatial ? 224 : 1);
    }
    absl::StatusOr<Tensor> t = Tensor::Allocate(DType::kFloat32, std::move(shape));
    if (!t.ok()) return t.status();
    if (IsFloat(info.dtype)) {
      for (float& x : t->mutable_data<float>()) x = normal(rng);
    }
    if (info.dtype != DType::kFloat32) {
      t = Cast(*t, info.dtype);
      if (!t.ok()) return t.status();
    }
    inputs.push_back(*std::move(t));
  }
  return inputs;
}

int64_t PeakMemoryBytes() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("VmHWM:")) {
      std::istringstream fields(line.substr(6));
      int64_t kib = 0;
      fields >> kib;
      return kib * 1024;
    }
  }
  return 0;
}

}  // namespace quant

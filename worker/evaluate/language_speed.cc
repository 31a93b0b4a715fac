// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/language_speed.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "worker/evaluate/fidelity.h"
#include "worker/evaluate/latency.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

double NowMs() { return static_cast<double>(absl::GetCurrentTimeNanos()) * 1e-6; }

absl::StatusOr<Tensor> Ids(std::span<const int32_t> tokens) {
  ASSIGN_OR_RETURN(Tensor ids, Tensor::Allocate(DType::kInt64, {1, static_cast<int64_t>(tokens.size())}));
  std::copy(tokens.begin(), tokens.end(), ids.mutable_data<int64_t>().begin());
  return ids;
}

// A model that writes: its cache, and the token it would write next.
class Writer {
 public:
  static absl::StatusOr<Writer> Create(std::shared_ptr<const Graph> graph, int threads) {
    Writer w;
    if (graph->inputs.size() < 3 || graph->outputs.size() != graph->inputs.size()) {
      return absl::InvalidArgumentError("the model has no inputs and outputs for a key/value cache");
    }
    for (size_t i = 1; i < graph->inputs.size(); ++i) {
      Shape shape;
      for (const Dim& d : graph->inputs[i].shape) shape.push_back(d.known() ? d.value : 0);
      if (shape.size() != 4)
        return absl::InvalidArgumentError(absl::StrCat("cache ", graph->inputs[i].name, " is not 4-D"));
      shape[0] = 1;
      ASSIGN_OR_RETURN(Tensor empty, Tensor::Allocate(DType::kFloat32, shape));
      w.cache_.push_back(std::move(empty));
    }
    ASSIGN_OR_RETURN(w.executable_, Compile(std::move(graph), {.threads = threads, .max_plans = 2}));
    return w;
  }

  // Reads `tokens`; returns the milliseconds of the run.
  absl::StatusOr<double> Read(std::span<const int32_t> tokens) {
    std::vector<Tensor> inputs;
    ASSIGN_OR_RETURN(Tensor ids, Ids(tokens));
    inputs.push_back(std::move(ids));
    inputs.insert(inputs.end(), cache_.begin(), cache_.end());
    const double begin = NowMs();
    ASSIGN_OR_RETURN(const std::span<const Tensor> out, executable_->Run(inputs));
    const double ms = NowMs() - begin;
    const int64_t vocabulary = out[0].dim(2);
    next_ =
        static_cast<int32_t>(std::max<int64_t>(0, ArgMax(out[0].data<float>().last(static_cast<size_t>(vocabulary)))));
    for (size_t i = 0; i < cache_.size(); ++i) {
      ASSIGN_OR_RETURN(cache_[i], out[i + 1].Clone());
    }
    return ms;
  }
  absl::StatusOr<double> Write() { return Read({&next_, 1}); }

 private:
  std::unique_ptr<Executable> executable_;
  std::vector<Tensor> cache_;
  int32_t next_ = 0;
};

}  // namespace

absl::StatusOr<ThroughputResult> MeasurePrefill(std::shared_ptr<const Graph> original,
                                                std::shared_ptr<const Graph> quantized, std::span<const int32_t> prompt,
                                                double seconds, int threads, const ProgressFn& progress) {
  ASSIGN_OR_RETURN(const Tensor ids, Ids(prompt));
  const std::span<const Tensor> inputs(&ids, 1);
  std::unique_ptr<Executable> models[2];
  ASSIGN_OR_RETURN(models[0], Compile(std::move(original), {.threads = threads, .max_plans = 1}));
  ASSIGN_OR_RETURN(models[1], Compile(std::move(quantized), {.threads = threads, .max_plans = 1}));
  std::vector<double> times[2];
  const double begin = NowMs();
  for (int round = 0; round <= 3 || (NowMs() - begin < seconds * 1e3 && round < 1000); ++round) {
    RETURN_IF_ERROR(Tell(progress, std::min(1.0, (NowMs() - begin) / (seconds * 1e3)), "prefill"));
    for (int m = 0; m < 2; ++m) {
      const double start = NowMs();
      RETURN_IF_ERROR(models[m]->Run(inputs).status());
      if (round > 0) times[m].push_back(NowMs() - start);
    }
  }
  const double tokens = static_cast<double>(prompt.size()) * 1e3;
  return ThroughputResult{.original = tokens / SummarizeLatency(times[0]).p50_ms,
                          .quantized = tokens / SummarizeLatency(times[1]).p50_ms,
                          .batch = static_cast<int64_t>(prompt.size())};
}

absl::StatusOr<LatencyPairResult> MeasureDecode(std::shared_ptr<const Graph> original,
                                                std::shared_ptr<const Graph> quantized, std::span<const int32_t> prompt,
                                                int tokens, int threads, const ProgressFn& progress) {
  ASSIGN_OR_RETURN(Writer a, Writer::Create(std::move(original), threads));
  ASSIGN_OR_RETURN(Writer b, Writer::Create(std::move(quantized), threads));
  Writer* const writers[] = {&a, &b};
  std::vector<double> times[2];
  for (Writer* w : writers) RETURN_IF_ERROR(w->Read(prompt).status());
  for (int t = 0; t < std::max(tokens, 2); ++t) {
    RETURN_IF_ERROR(Tell(progress, "decode", {t, std::max(tokens, 2), "tokens"}));
    for (int m = 0; m < 2; ++m) {
      ASSIGN_OR_RETURN(const double ms, writers[m]->Write());
      if (t > 0) times[m].push_back(ms);
    }
  }
  LatencyPairResult result;
  result.original = SummarizeLatency(times[0]);
  result.quantized = SummarizeLatency(times[1]);
  result.runs = static_cast<int>(times[0].size());
  return result;
}

}  // namespace quant

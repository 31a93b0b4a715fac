// SPDX-License-Identifier: Apache-2.0
#include "worker/job/language_measure.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/evaluate/language.h"
#include "worker/evaluate/language_speed.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/job/job_error.h"
#include "worker/job/report_builder.h"

namespace quant {
namespace {

constexpr double kPrefillSeconds = 2.0;
constexpr int64_t kDecodePrompt = 32;
constexpr int kMaxDecodeTokens = 64;
// Of the error profile, which keeps the outputs of all layers for its tokens.
constexpr int64_t kProfileSamples = 4;
constexpr int64_t kProfileTokens = 128;

// The first tokens of the first windows, equally many of each, as a dataset.
class WindowHeads : public Dataset {
 public:
  explicit WindowHeads(std::span<const std::vector<int32_t>> windows)
      : windows_(windows.first(std::min<size_t>(windows.size(), kProfileSamples))), length_(kProfileTokens) {
    for (const std::vector<int32_t>& w : windows_) length_ = std::min(length_, static_cast<int64_t>(w.size()));
  }
  int64_t size() const override { return static_cast<int64_t>(windows_.size()); }
  absl::StatusOr<std::vector<Tensor>> Read(int64_t begin, int64_t count) override {
    ASSIGN_OR_RETURN(Tensor ids, Tensor::Allocate(DType::kInt64, {count, length_}));
    int64_t* to = ids.mutable_data<int64_t>().data();
    for (int64_t s = begin; s < begin + count; ++s) {
      to = std::copy_n(windows_[static_cast<size_t>(s)].begin(), length_, to);
    }
    return std::vector<Tensor>{ids};
  }
  std::span<const int64_t> labels() const override { return {}; }

 private:
  std::span<const std::vector<int32_t>> windows_;
  int64_t length_;
};

}  // namespace

ModelSource SourceOf(std::shared_ptr<const Checkpoint> checkpoint) {
  return [checkpoint = std::move(checkpoint)](bool kv_cache) -> absl::StatusOr<std::shared_ptr<const Graph>> {
    ASSIGN_OR_RETURN(LanguageModel model, BuildLanguageModel(*checkpoint, {.kv_cache = kv_cache}));
    return std::make_shared<const Graph>(std::move(model.graph));
  };
}

absl::Status MeasureLanguage(const LanguageMeasureRequest& r, Reporter& reporter, quant::v1::Report* report) {
  const int threads = r.evaluation.threads() > 0 ? r.evaluation.threads() : r.threads;
  if (r.windows.empty()) {
    AddLayers(r.layers, r.errors, report);
    report->add_notes("perplexity and speed were not measured: no text was given to evaluate on (--evaluation)");
    return absl::OkStatus();
  }
  reporter.BeginPhase("evaluate");
  {
    ASSIGN_OR_RETURN(const std::shared_ptr<const Graph> original, r.original(/*kv_cache=*/false));
    ASSIGN_OR_RETURN(const std::shared_ptr<const Graph> quantized, r.quantized(/*kv_cache=*/false));
    absl::StatusOr<Evaluation> evaluation =
        EvaluateLanguage(original, quantized, r.windows, threads, r.resume, reporter.Progress(0, 0.9));
    if (!evaluation.ok()) {
      return absl::IsInvalidArgument(evaluation.status()) ? WithJobReason(evaluation.status(), "DATA_MISMATCH")
                                                          : evaluation.status();
    }
    AddMetrics(*evaluation, report);
    std::vector<LayerError> errors(r.errors.begin(), r.errors.end());
    if (!r.evaluation.skip_error_profile() && !r.layers.empty()) {
      std::vector<std::string> values;
      for (const LayerOutcome& layer : r.layers) values.push_back(layer.output);
      WindowHeads heads(r.windows);
      ASSIGN_OR_RETURN(
          std::vector<LayerError> profile,
          ErrorProfile(original, quantized, values, heads, kProfileSamples, threads, reporter.Progress(0.9, 1)));
      if (!profile.empty()) errors = std::move(profile);
    }
    AddLayers(r.layers, errors, report);
    if (r.evaluation.latency_runs() < 0) return absl::OkStatus();
    reporter.BeginPhase("benchmark");
    const std::vector<int32_t>& prompt = *std::max_element(
        r.windows.begin(), r.windows.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
    ASSIGN_OR_RETURN(const ThroughputResult prefill,
                     MeasurePrefill(original, quantized, prompt, kPrefillSeconds, threads, reporter.Progress(0, 0.5)));
    SetThroughput(prefill, report);
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const Graph> original, r.original(/*kv_cache=*/true));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Graph> quantized, r.quantized(/*kv_cache=*/true));
  if (original == nullptr || quantized == nullptr) {
    report->add_notes("time per token was not measured: the exported file has no key/value cache");
    return absl::OkStatus();
  }
  const std::vector<int32_t>& first = r.windows[0];
  const std::span<const int32_t> prompt(first.data(), std::min<size_t>(first.size(), kDecodePrompt));
  const int tokens = std::min(kMaxDecodeTokens, r.evaluation.latency_runs());
  ASSIGN_OR_RETURN(const LatencyPairResult decode,
                   MeasureDecode(original, quantized, prompt, tokens, threads, reporter.Progress(0.5, 1)));
  SetLatency(decode, threads, report);
  return absl::OkStatus();
}

}  // namespace quant

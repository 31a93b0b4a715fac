// SPDX-License-Identifier: Apache-2.0
#include "worker/job/measure.h"

#include <string>

#include "absl/status/statusor.h"
#include "common/status_macros.h"
#include "worker/evaluate/evaluate.h"
#include "worker/job/job_error.h"
#include "worker/job/recipe.h"
#include "worker/job/report_builder.h"

namespace quant {
namespace {

constexpr double kThroughputSeconds = 1.0;
constexpr int64_t kProfileSamples = 16;

}  // namespace

absl::Status Measure(const MeasureRequest& r, Reporter& reporter, quant::v1::Report* report) {
  const int threads = r.evaluation.threads() > 0 ? r.evaluation.threads() : r.threads;
  reporter.BeginPhase("evaluate");
  EvaluateOptions options = EvaluationOptions(r.evaluation, threads);
  options.resume = r.resume;
  absl::StatusOr<Evaluation> evaluation =
      Evaluate(r.original, r.quantized, *r.data, options, reporter.Progress(0, 0.9));
  if (!evaluation.ok()) {
    return absl::IsInvalidArgument(evaluation.status()) ? WithJobReason(evaluation.status(), "DATA_MISMATCH")
                                                        : evaluation.status();
  }
  AddMetrics(*evaluation, report);

  std::vector<LayerError> errors;
  if (!r.evaluation.skip_error_profile() && !r.layers.empty()) {
    std::vector<std::string> values;
    values.reserve(r.layers.size());
    for (const LayerOutcome& layer : r.layers) values.push_back(layer.output);
    ASSIGN_OR_RETURN(errors, ErrorProfile(r.original, r.quantized, values, *r.data, kProfileSamples, threads,
                                          reporter.Progress(0.9, 1)));
  }
  AddLayers(r.layers, errors, report);

  if (r.evaluation.latency_runs() < 0) return absl::OkStatus();
  reporter.BeginPhase("benchmark");
  ASSIGN_OR_RETURN(
      const LatencyPairResult latency,
      MeasureLatency(r.original, r.quantized, r.data, r.evaluation.latency_runs(), threads, reporter.Progress(0, 0.7)));
  SetLatency(latency, threads, report);
  ASSIGN_OR_RETURN(const ThroughputResult throughput,
                   MeasureThroughput(r.original, r.quantized, r.data, r.evaluation.throughput_batch(),
                                     kThroughputSeconds, threads, reporter.Progress(0.7, 1)));
  SetThroughput(throughput, report);
  return absl::OkStatus();
}

}  // namespace quant

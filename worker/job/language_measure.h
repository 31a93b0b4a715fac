// SPDX-License-Identifier: Apache-2.0
// The evaluate and benchmark phases of jobs on language models.
#ifndef QUANT_WORKER_JOB_LANGUAGE_MEASURE_H_
#define QUANT_WORKER_JOB_LANGUAGE_MEASURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/recipe.pb.h"
#include "quant/v1/report.pb.h"
#include "worker/evaluate/evaluate.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/graph/graph.h"
#include "worker/job/reporter.h"
#include "worker/quantize/quantize.h"

namespace quant {

// A model that is built when it is needed, with or without a key/value cache; null where there is no form with one.
using ModelSource = std::function<absl::StatusOr<std::shared_ptr<const Graph>>(bool kv_cache)>;
ModelSource SourceOf(std::shared_ptr<const Checkpoint> checkpoint);

struct LanguageMeasureRequest {
  ModelSource original;
  ModelSource quantized;
  std::span<const std::vector<int32_t>> windows;  // empty: neither perplexity nor speed is measured
  std::span<const LayerOutcome> layers;
  std::span<const LayerError> errors;  // of each layer, as its quantizer knows it; used where no profile is made
  quant::v1::Evaluation evaluation;    // resolved
  int threads = 0;                     // the worker's, where the evaluation names none
  EvaluationResume resume;
};

// Fills metrics, layers, latency (of a token, with a cache), throughput (of a prompt) and notes of `report`.
absl::Status MeasureLanguage(const LanguageMeasureRequest& request, Reporter& reporter, quant::v1::Report* report);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_LANGUAGE_MEASURE_H_

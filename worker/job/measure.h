// SPDX-License-Identifier: Apache-2.0
// The evaluate and benchmark phases that every kind of job shares.
#ifndef QUANT_WORKER_JOB_MEASURE_H_
#define QUANT_WORKER_JOB_MEASURE_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "quant/v1/recipe.pb.h"
#include "quant/v1/report.pb.h"
#include "worker/evaluate/evaluate.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/graph/graph.h"
#include "worker/job/reporter.h"
#include "worker/quantize/quantize.h"

namespace quant {

struct MeasureRequest {
  std::shared_ptr<const Graph> original;
  std::shared_ptr<const Graph> quantized;
  std::vector<LayerOutcome> layers;
  Dataset* data = nullptr;
  quant::v1::Evaluation evaluation;  // resolved
  int threads = 0;                   // the worker's, where the evaluation names none
  EvaluationResume resume;
};

// Fills metrics, layers, latency, throughput and notes of `report`.
absl::Status Measure(const MeasureRequest& request, Reporter& reporter, quant::v1::Report* report);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_MEASURE_H_

// SPDX-License-Identifier: Apache-2.0
// Calibration: runs data through a graph and gathers statistics of chosen values, one batch in memory at a time.
#ifndef QUANT_WORKER_CALIBRATE_CALIBRATE_H_
#define QUANT_WORKER_CALIBRATE_CALIBRATE_H_

#include <map>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "worker/calibrate/observer.h"
#include "worker/calibrate/progress.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/graph/graph.h"
#include "worker/runtime/executable.h"

namespace quant {

struct CalibrateOptions {
  Backend backend = Backend::kOneDnn;
  int threads = 0;
  int64_t samples = 0;  // from the dataset's start; 0: all
  int64_t batch_size = 32;
  int bins = 2048;  // least number of bins over the range of |x| on one side; the histogram has four times as many
  double averaging_constant = 0.01;
};

struct Statistics {
  std::map<std::string, TensorStatistics> tensors;  // by value name
  int64_t samples = 0;                              // samples used
};

// Statistics of `values` (graph inputs or node outputs; float tensors). The batch is the model's own where its first
// input dimension is fixed; then a remainder that does not fill a batch is left out.
//   INVALID_ARGUMENT: no samples, or a value is NaN or infinite: named with the sample range it occurred in.
//   Also what Compile, Dataset::Read and `progress` return.
absl::StatusOr<Statistics> Calibrate(std::shared_ptr<const Graph> graph, std::span<const std::string> values,
                                     Dataset& data, const CalibrateOptions& options, const ProgressFn& progress);

// The batch to run: the fixed first dimension of the graph's inputs, or `wanted` (at least 1) where it is free.
int64_t RunnableBatch(const Graph& graph, int64_t wanted);

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_CALIBRATE_H_

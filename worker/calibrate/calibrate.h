// SPDX-License-Identifier: Apache-2.0
// Calibration: runs data through a graph and gathers statistics of chosen values, one batch in memory at a time.
#ifndef QUANT_WORKER_CALIBRATE_CALIBRATE_H_
#define QUANT_WORKER_CALIBRATE_CALIBRATE_H_

#include <functional>
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

struct Statistics {
  std::map<std::string, TensorStatistics> tensors;  // by value name
  int64_t samples = 0;                              // samples used
};

struct CalibrateOptions {
  Backend backend = Backend::kOneDnn;
  int threads = 0;
  int64_t samples = 0;  // from the dataset's start; 0: all
  int64_t batch_size = 32;
  int bins = 2048;  // least number of bins over the range of |x| on one side; the histogram has four times as many
  double averaging_constant = 0.01;
  // What `checkpoint` was given in a run before, with the same values and options: the samples in it are not run again,
  // and the result is the same, bit by bit. What does not fit the values or batches is not used.
  const Statistics* resume = nullptr;
  // Called after each batch with the statistics so far, whose `samples` are those from the start.
  std::function<void(const Statistics& so_far)> checkpoint;
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

// SPDX-License-Identifier: Apache-2.0
// Data for jobs that were given none: seeded normal noise. Good for comparing two models, not for calibrating one.
#ifndef QUANT_WORKER_JOB_RANDOM_DATASET_H_
#define QUANT_WORKER_JOB_RANDOM_DATASET_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/graph/graph.h"

namespace quant {

// `size` samples for the graph's inputs (shapes as SampleInputs of worker/evaluate makes them), without labels. Sample
// i is the same whatever batch it is read in only when the model's batch is fixed; reads of the same range repeat.
// INVALID_ARGUMENT where an input declares no shape.
absl::StatusOr<std::unique_ptr<Dataset>> MakeRandomDataset(const Graph& graph, int64_t size, uint64_t seed);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_RANDOM_DATASET_H_

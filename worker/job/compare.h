// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_JOB_COMPARE_H_
#define QUANT_WORKER_JOB_COMPARE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/graph/graph.h"

namespace quant {

// Runs both graphs on the first samples of `data` (at most 4) and returns the largest difference of any output element
// over the largest magnitude in that output of `a`; infinity when one is NaN where the other is not.
// Integer outputs count as floats. INVALID_ARGUMENT when the outputs' shapes differ.
absl::StatusOr<double> LargestRelativeDifference(std::shared_ptr<const Graph> a, std::shared_ptr<const Graph> b,
                                                 Dataset& data, int threads);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_COMPARE_H_

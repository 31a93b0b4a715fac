// SPDX-License-Identifier: Apache-2.0
// Empirical bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2, on data instead of BatchNorm
// statistics): layer by layer in topological order, bias += E[original output - quantized output] per channel, with all
// layers before it quantized and corrected.
#ifndef QUANT_WORKER_QUANTIZE_BIAS_CORRECTION_H_
#define QUANT_WORKER_QUANTIZE_BIAS_CORRECTION_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/calibrate.h"
#include "worker/graph/graph.h"

namespace quant {

// A layer's output value and the bias that shifts it; an empty bias stands for zeros.
struct BiasTarget {
  std::string value;
  int64_t channels = 0;
  std::vector<float>* bias = nullptr;
};

// Corrects the biases of `targets`, which are in topological order; `build` makes the quantized graph from their
// present values. Uses the first 64 samples; one run of the quantized graph per layer and batch.
absl::Status CorrectBiases(const Graph& original, const std::vector<BiasTarget>& targets,
                           const std::function<absl::StatusOr<Graph>()>& build, Dataset& data, int threads,
                           const ProgressFn& progress);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_BIAS_CORRECTION_H_

// SPDX-License-Identifier: Apache-2.0
// Saturation census: CPUs without VNNI multiply uint8 by int8 with VPMADDUBSW, which adds neighbouring products in 16
// bits with saturation (style.md section 1, algorithms.md 1.3; oneDNN doc/advanced/int8_computations.md). Whether that
// happens depends on the data, so it is counted: on codes of calibration inputs, for pairs of inputs that neighbour in
// memory order along the reduction, |a0 w0 + a1 w1| > 32767.
//
// Kernels differ in which inputs they pair; pairs along the channels and pairs along the flattened weights are both
// counted. A layer whose largest pair of weights cannot saturate at all (255 (|w0| + |w1|) <= 32767) is skipped.
#ifndef QUANT_WORKER_QUANTIZE_SATURATION_H_
#define QUANT_WORKER_QUANTIZE_SATURATION_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/calibrate.h"
#include "worker/graph/graph.h"
#include "worker/quantize/weights.h"

namespace quant {

class SaturationCensus {
 public:
  // Whether this CPU needs a census at all.
  static bool Needed();

  // Keeps the values `inputs` (of layers) on the first few samples. Does nothing where Needed() is false.
  absl::Status Collect(const Graph& graph, const std::vector<std::string>& inputs, Dataset& data, int threads,
                       const ProgressFn& progress);

  // The same with values given: for tests.
  void AddForTest(const std::string& value, Tensor tensor) { samples_[value] = {std::move(tensor)}; }

  // The share of pair sums of `layer` (with these codes, on an input on `grid`) that exceed 16 bits, 0 to 1; 0 where
  // nothing was collected.
  absl::StatusOr<double> Share(const Node& layer, const QuantizedWeights& weights, const Grid& grid) const;

 private:
  std::map<std::string, std::vector<Tensor>, std::less<>> samples_;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_SATURATION_H_

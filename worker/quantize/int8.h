// SPDX-License-Identifier: Apache-2.0
// INT8 quantization of activations and weights: static (ranges from calibration) and dynamic (ranges per call).
// Placement of QuantizeLinear/DequantizeLinear: docs and rules in int8_static.cc; shared/algorithms.md section 2 is
// summarised there.
#ifndef QUANT_WORKER_QUANTIZE_INT8_H_
#define QUANT_WORKER_QUANTIZE_INT8_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/calibrate.h"
#include "worker/quantize/quantize.h"

namespace quant {

enum class WeightGranularity { kPerChannel, kPerTensor };

struct StaticInt8Options {
  LayerSelection layers;
  WeightGranularity weight_granularity = WeightGranularity::kPerChannel;
  bool symmetric_weights = true;
  bool symmetric_activations = false;
  bool int8_activations = false;  // int8 instead of uint8
  ReduceRange reduce_range = ReduceRange::kAuto;
  ObserverOptions observer;  // `symmetric` and `steps` are set by the method
  bool bias_correction = false;
  bool cross_layer_equalization = false;
  int threads = 0;  // of the runs for the saturation census and bias correction
};

struct DynamicInt8Options {
  LayerSelection layers;
  WeightGranularity weight_granularity = WeightGranularity::kPerChannel;
  bool symmetric_weights = true;
  ReduceRange reduce_range = ReduceRange::kAuto;  // auto: never, since there is no data to count on
};

// Steps of static quantization, in order; the job runs them with progress in between:
//   1. PrepareStatic     graph rewrites that must precede calibration (cross-layer equalization); else the same graph
//   2. ValuesToCalibrate the float values whose ranges QuantizeStatic needs
//   3. Calibrate(...)    (worker/calibrate/calibrate.h)
//   4. QuantizeStatic    makes the QDQ graph; uses `data` for the saturation census and bias correction
// INVALID_ARGUMENT: a malformed rule, an unknown operator type, or statistics lacking a value.
absl::StatusOr<Graph> PrepareStatic(const Graph& graph, const StaticInt8Options& options);
absl::StatusOr<std::vector<std::string>> ValuesToCalibrate(const Graph& graph, const StaticInt8Options& options);
absl::StatusOr<QuantizedModel> QuantizeStatic(const Graph& graph, const Statistics& statistics, Dataset& data,
                                              const StaticInt8Options& options, const ProgressFn& progress);

// Weights to int8 now; activations through DynamicQuantizeLinear at run time. Needs no data.
absl::StatusOr<QuantizedModel> QuantizeDynamic(const Graph& graph, const DynamicInt8Options& options,
                                               const ProgressFn& progress);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_INT8_H_

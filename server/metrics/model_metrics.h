// SPDX-License-Identifier: Apache-2.0
// ModelMetrics: what jobs measured of models. A part of ServerMetrics.
#ifndef QUANT_SERVER_METRICS_MODEL_METRICS_H_
#define QUANT_SERVER_METRICS_MODEL_METRICS_H_

#include <utility>
#include <vector>

#include "server/metrics/metric_families.h"
#include "server/metrics/server_metrics.h"

namespace quant {

// Thread-compatible.
class ModelMetrics {
 public:
  explicit ModelMetrics(prometheus::Registry& registry);
  // As ServerMetrics::SetModels.
  void Set(const std::vector<ServerMetrics::ModelSample>& models);

 private:
  using GaugeFamilyRef = prometheus::Family<prometheus::Gauge>&;
  void Add(GaugeFamilyRef family, const prometheus::Labels& labels, double value);

  GaugeFamilyRef accuracy_;
  GaugeFamilyRef drop_;
  GaugeFamilyRef latency_;
  GaugeFamilyRef size_;
  GaugeFamilyRef speedup_;
  GaugeFamilyRef info_;
  // All there are, with the family to remove each from.
  std::vector<std::pair<prometheus::Family<prometheus::Gauge>*, prometheus::Gauge*>> series_;
};

}  // namespace quant

#endif  // QUANT_SERVER_METRICS_MODEL_METRICS_H_

// SPDX-License-Identifier: Apache-2.0
// What the files that define quantd's metrics share. Not for other folders: these headers bring prometheus-cpp along.
#ifndef QUANT_SERVER_METRICS_METRIC_FAMILIES_H_
#define QUANT_SERVER_METRICS_METRIC_FAMILIES_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace quant {

using Buckets = prometheus::Histogram::BucketBoundaries;

inline constexpr std::array kMethods = {"none", "dynamic",  "static", "smoothquant", "rtn", "gptq", "awq",
                                        "nf4",  "llm_int8", "fp16",   "bf16",        "hqq", "mixed"};

// The value as a label: itself when it is in the closed set, "none" when empty, else "other".
template <size_t N>
std::string In(const std::array<const char*, N>& set, std::string_view value) {
  if (value.empty()) return "none";
  const bool known = std::any_of(set.begin(), set.end(), [&](const char* v) { return value == v; });
  return known ? std::string(value) : "other";
}

inline double Seconds(absl::Duration d) { return absl::ToDoubleSeconds(std::max(d, absl::ZeroDuration())); }

inline prometheus::Family<prometheus::Counter>& CounterFamily(prometheus::Registry& registry, const char* name,
                                                              const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
inline prometheus::Family<prometheus::Gauge>& GaugeFamily(prometheus::Registry& registry, const char* name,
                                                          const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
inline prometheus::Family<prometheus::Histogram>& HistogramFamily(prometheus::Registry& registry, const char* name,
                                                                  const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

}  // namespace quant

#endif  // QUANT_SERVER_METRICS_METRIC_FAMILIES_H_

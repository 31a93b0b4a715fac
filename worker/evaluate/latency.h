// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_EVALUATE_LATENCY_H_
#define QUANT_WORKER_EVALUATE_LATENCY_H_

#include <vector>

#include "worker/evaluate/evaluate.h"

namespace quant {

// Mean, standard deviation (n - 1) and percentiles by nearest rank of at least one time in milliseconds.
LatencyResult SummarizeLatency(std::vector<double> ms);

}  // namespace quant

#endif  // QUANT_WORKER_EVALUATE_LATENCY_H_

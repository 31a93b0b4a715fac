// SPDX-License-Identifier: Apache-2.0
// From the measurements' structs to quant.v1.Report.
#ifndef QUANT_WORKER_JOB_REPORT_BUILDER_H_
#define QUANT_WORKER_JOB_REPORT_BUILDER_H_

#include <span>
#include <string>
#include <vector>

#include "quant/v1/report.pb.h"
#include "quant/v1/workers.pb.h"
#include "worker/evaluate/evaluate.h"
#include "worker/job/reporter.h"
#include "worker/quantize/quantize.h"

namespace quant {

void AddMetrics(const Evaluation& evaluation, quant::v1::Report* report);
void SetLatency(const LatencyPairResult& latency, int threads, quant::v1::Report* report);
void SetThroughput(const ThroughputResult& throughput, quant::v1::Report* report);
// Layers in order, with the error of the value each produces where the profile has it.
void AddLayers(std::span<const LayerOutcome> layers, std::span<const LayerError> errors, quant::v1::Report* report);
// Phases, peak memory, and where the numbers come from.
void FinishReport(const quant::v1::Lease& lease, const Reporter& reporter, quant::v1::Report* report);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_REPORT_BUILDER_H_

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/report_builder.h"

#include <fstream>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/build_info.h"

namespace quant {
namespace {

void Fill(const LatencyResult& from, quant::v1::Latency* to) {
  to->set_mean_ms(from.mean_ms);
  to->set_std_ms(from.std_ms);
  to->set_p50_ms(from.p50_ms);
  to->set_p95_ms(from.p95_ms);
  to->set_p99_ms(from.p99_ms);
}

std::string MachineName() {
  std::ifstream in("/proc/cpuinfo");
  std::string name = "unknown CPU";
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos && colon + 2 <= line.size()) {
      name = line.substr(colon + 2);
      break;
    }
  }
  return absl::StrCat(name, ", ", std::thread::hardware_concurrency(), " cores");
}

}  // namespace

void AddMetrics(const Evaluation& evaluation, quant::v1::Report* report) {
  for (const MetricResult& m : evaluation.metrics) {
    quant::v1::Metric* to = report->add_metrics();
    to->set_name(m.name);
    to->set_original(m.original);
    to->set_quantized(m.quantized);
    to->set_delta(m.delta);
    to->set_low(m.low);
    to->set_high(m.high);
    to->set_samples(m.samples);
  }
  for (const std::string& note : evaluation.notes) report->add_notes(note);
}

void SetLatency(const LatencyPairResult& latency, int threads, quant::v1::Report* report) {
  quant::v1::LatencyPair* to = report->mutable_latency();
  Fill(latency.original, to->mutable_original());
  Fill(latency.quantized, to->mutable_quantized());
  to->set_runs(latency.runs);
  to->set_threads(threads);
  to->set_batch(static_cast<int32_t>(latency.batch));
}

void SetThroughput(const ThroughputResult& throughput, quant::v1::Report* report) {
  quant::v1::Throughput* to = report->mutable_throughput();
  to->set_original(throughput.original);
  to->set_quantized(throughput.quantized);
  to->set_batch(static_cast<int32_t>(throughput.batch));
}

void AddLayers(std::span<const LayerOutcome> layers, std::span<const LayerError> errors, quant::v1::Report* report) {
  std::map<std::string, const LayerError*> by_value;
  for (const LayerError& e : errors) by_value[e.value] = &e;
  for (const LayerOutcome& layer : layers) {
    quant::v1::Layer* to = report->add_layers();
    to->set_name(layer.name);
    to->set_op(layer.op);
    to->set_method(layer.method);
    to->set_bits(layer.bits);
    to->set_group_size(layer.group_size);
    to->set_fallback(layer.fallback);
    if (layer.routed_tokens >= 0) to->set_routed_tokens(layer.routed_tokens);
    to->set_parameters(layer.parameters);
    const auto it = by_value.find(layer.output);
    if (it == by_value.end()) continue;
    to->set_mse(it->second->mse);
    to->set_mae(it->second->mae);
    to->set_relative_error(it->second->relative_error);
    to->set_sqnr_db(it->second->sqnr_db);
  }
}

void FinishReport(const quant::v1::Lease& lease, const Reporter& reporter, quant::v1::Report* report) {
  for (const auto& [name, seconds] : reporter.Phases()) {
    quant::v1::Phase* phase = report->add_phases();
    phase->set_name(name);
    phase->set_seconds(seconds);
  }
  report->set_peak_memory_bytes(PeakMemoryBytes());
  quant::v1::Provenance* p = report->mutable_provenance();
  p->set_model_digest(lease.model().digest());
  if (lease.has_calibration_dataset()) p->add_data_digests(lease.calibration_dataset().digest());
  if (lease.has_evaluation_dataset() && lease.evaluation_dataset().digest() != lease.calibration_dataset().digest()) {
    p->add_data_digests(lease.evaluation_dataset().digest());
  }
  p->set_build(BuildVersion());
  p->set_isa(DetectIsa());
  p->set_seed(p->recipe().seed());
  p->set_machine(MachineName());
}

}  // namespace quant

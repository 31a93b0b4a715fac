// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/model_metrics.h"

#include <set>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

constexpr std::array kVariants = {"fp32", "int8", "w2", "w3", "w4", "w8", "nf4", "fp4", "fp16", "bf16", "mixed"};
constexpr std::array kMetricNames = {"top1", "top5", "same_top", "perplexity", "kl_divergence", "sqnr_db", "cosine"};
constexpr std::array kFormats = {"onnx", "gptq", "awq", "bitsandbytes", "compressed-tensors", "gguf", "huggingface"};

}  // namespace

ModelMetrics::ModelMetrics(prometheus::Registry& registry)
    : accuracy_(GaugeFamily(registry, "quant_model_accuracy", "What a job measured of a variant of a model.")),
      drop_(GaugeFamily(registry, "quant_model_accuracy_drop_ratio",
                        "Share of the original's accuracy (or perplexity) that a variant loses.")),
      latency_(GaugeFamily(registry, "quant_model_latency_seconds", "Time of one run at batch 1.")),
      size_(GaugeFamily(registry, "quant_model_size_bytes", "Bytes of the checkpoint's files.")),
      speedup_(
          GaugeFamily(registry, "quant_model_speedup_ratio", "How many times as fast as the original the variant is.")),
      info_(GaugeFamily(registry, "quant_model_info", "1; the labels tell where the numbers come from.")) {}

void ModelMetrics::Add(GaugeFamilyRef family, const prometheus::Labels& labels, double value) {
  prometheus::Gauge& gauge = family.Add(labels);
  gauge.Set(value);
  series_.emplace_back(&family, &gauge);
}

void ModelMetrics::Set(const std::vector<ServerMetrics::ModelSample>& models) {
  for (const auto& [family, gauge] : series_) family->Remove(gauge);
  series_.clear();
  std::set<std::tuple<std::string, std::string, std::string, std::string>> seen;
  for (const ServerMetrics::ModelSample& m : models) {
    const prometheus::Labels labels = {{"model", m.model},
                                       {"variant", In(kVariants, m.variant)},
                                       {"dataset", m.dataset},
                                       {"method", In(kMethods, m.method)}};
    // A gauge added twice would be removed twice.
    if (!seen.emplace(m.model, labels.at("variant"), m.dataset, labels.at("method")).second) continue;
    const auto with = [&](const char* name, std::string value) {
      prometheus::Labels more = labels;
      more[name] = std::move(value);
      return more;
    };
    std::set<std::string> told;  // several unknown names are one "other"
    for (const auto& [metric, value] : m.accuracy) {
      const std::string name = In(kMetricNames, metric);
      if (told.insert(name).second) Add(accuracy_, with("metric", name), value);
    }
    told.clear();
    for (const auto& [metric, value] : m.drop) {
      const std::string name = In(kMetricNames, metric);
      if (told.insert(name).second) Add(drop_, with("metric", name), value);
    }
    for (const auto& [quantile, time] : m.latency)
      Add(latency_, with("quantile", absl::StrCat(quantile)), Seconds(time));
    Add(size_, labels, static_cast<double>(m.size_bytes));
    if (m.speedup > 0) Add(speedup_, labels, m.speedup);
    if (m.format.empty()) continue;  // the original
    prometheus::Labels info = with("format", In(kFormats, m.format));
    info["isa"] = m.isa;
    Add(info_, info, 1);
  }
}

}  // namespace quant

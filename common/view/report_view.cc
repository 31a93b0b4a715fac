// SPDX-License-Identifier: Apache-2.0
#include "common/view/report_view.h"

#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"
#include "common/view/human.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

std::string Ratio(double original, double quantized, std::string_view better, std::string_view worse) {
  if (!(original > 0) || !(quantized > 0)) return "";
  const double ratio = original / quantized;
  if (ratio >= 0.995 && ratio <= 1.005) return "the same";
  return ratio > 1 ? absl::StrCat(Significant(ratio), "x ", AbslView(better))
                   : absl::StrCat(Significant(1 / ratio), "x ", AbslView(worse));
}

bool IsPercent(const v1::Metric& metric) {
  return absl::StartsWith(metric.name(), "top") || absl::StartsWith(metric.name(), "same_top");
}

std::string Change(const v1::Metric& metric, double value) {
  if (IsPercent(metric)) return absl::StrFormat("%+.2f", value);
  return absl::StrCat(value > 0 ? "+" : "", Significant(value));
}

HeadlineRow MetricRow(const v1::Metric& metric) {
  // Metrics that compare the two models have nothing of the original alone.
  const bool comparing = absl::StartsWith(metric.name(), "sqnr_db") || absl::StartsWith(metric.name(), "cosine") ||
                         absl::StartsWith(metric.name(), "kl_divergence") ||
                         absl::StartsWith(metric.name(), "same_top");
  HeadlineRow row{MetricName(metric.name()), comparing ? "-" : MetricValue(metric, metric.original()),
                  MetricValue(metric, metric.quantized()), ""};
  if (!comparing) {
    row.change = Change(metric, metric.delta());
    if (metric.low() != 0 || metric.high() != 0) {
      absl::StrAppend(&row.change, " (95 %: ", Change(metric, metric.low()), " to ", Change(metric, metric.high()),
                      ")");
    }
  }
  if (metric.samples() > 0) absl::StrAppend(&row.change, row.change.empty() ? "" : ", ", metric.samples(), " samples");
  return row;
}

}  // namespace

std::string MetricValue(const v1::Metric& metric, double value) {
  return IsPercent(metric) ? absl::StrFormat("%.2f", value) : Significant(value, 4);
}

std::string MetricName(const std::string& name) {
  // "top1" of several outputs is "top1/output".
  const std::vector<std::string> parts = absl::StrSplit(name, absl::MaxSplits('/', 1));
  const char* known[][2] = {{"top1", "top-1 accuracy, %"},      {"top5", "top-5 accuracy, %"},
                            {"perplexity", "perplexity"},       {"kl_divergence", "KL divergence"},
                            {"same_top", "same top answer, %"}, {"sqnr_db", "output SQNR, dB"},
                            {"cosine", "output cosine"}};
  for (const auto& [key, text] : known) {
    if (parts[0] == key) return absl::StrCat(text, parts.size() > 1 ? absl::StrCat(" (", parts[1], ")") : "");
  }
  return name;
}

double SqnrKey(const v1::Layer& layer) {
  return std::isnan(layer.sqnr_db()) ? -std::numeric_limits<double>::infinity() : layer.sqnr_db();
}

std::vector<HeadlineRow> Headline(const v1::Report& report) {
  std::vector<HeadlineRow> rows;
  if (report.has_size()) {
    const auto original = static_cast<double>(report.size().original_bytes());
    const auto quantized = static_cast<double>(report.size().quantized_bytes());
    std::string change = Ratio(original, quantized, "smaller", "larger");
    if (original > 0 && quantized > 0) {
      change = absl::StrFormat("%s, %.1f %% of the original", change, 100 * quantized / original);
    }
    rows.push_back({"size on disk", HumanBytes(report.size().original_bytes()),
                    report.size().quantized_bytes() > 0 ? HumanBytes(report.size().quantized_bytes()) : "-", change});
    if (report.size().bits_per_weight() > 0) {
      rows.push_back({"bits per weight", "-", Significant(report.size().bits_per_weight()), ""});
    }
  }
  for (const v1::Metric& metric : report.metrics()) rows.push_back(MetricRow(metric));
  if (report.has_latency()) {
    const v1::LatencyPair& pair = report.latency();
    const auto row = [&](const char* name, double original, double quantized) {
      rows.push_back({name, original > 0 ? Significant(original) : "-", quantized > 0 ? Significant(quantized) : "-",
                      Ratio(original, quantized, "faster", "slower")});
    };
    row("latency mean, ms", pair.original().mean_ms(), pair.quantized().mean_ms());
    row("latency p50, ms", pair.original().p50_ms(), pair.quantized().p50_ms());
    row("latency p95, ms", pair.original().p95_ms(), pair.quantized().p95_ms());
    row("latency p99, ms", pair.original().p99_ms(), pair.quantized().p99_ms());
    rows.push_back(
        {"latency std. dev., ms", Significant(pair.original().std_ms()), Significant(pair.quantized().std_ms()),
         pair.runs() > 0 ? absl::StrCat(pair.runs(), " runs, ", pair.threads(), " threads, batch ", pair.batch())
                         : ""});
  }
  if (report.has_throughput()) {
    const v1::Throughput& t = report.throughput();
    std::string change = Ratio(t.quantized(), t.original(), "more", "less");
    if (t.batch() > 0) absl::StrAppend(&change, change.empty() ? "" : ", ", "batch ", t.batch());
    rows.push_back({"throughput, 1/s", t.original() > 0 ? Significant(t.original()) : "-",
                    t.quantized() > 0 ? Significant(t.quantized()) : "-", change});
  }
  return rows;
}

}  // namespace quant

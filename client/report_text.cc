// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/json.h"
#include "client/recipe_flags.h"
#include "client/report_view.h"
#include "client/terminal.h"
#include "common/strings.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

constexpr int kWidth = 100;
constexpr size_t kWorstLayers = 10;
constexpr size_t kFallbacks = 20;

// Words in lines that fit after `indent` blanks; the first line has them already.
std::string WrapWords(std::vector<std::string> words, int indent) {
  const int room = kWidth - indent;
  const std::string pad(static_cast<size_t>(indent), ' ');
  std::string out, line;
  const auto end_line = [&] {
    absl::StrAppend(&out, out.empty() ? "" : pad, line, "\n");
    line.clear();
  };
  for (std::string& word : words) {
    if (!line.empty() && DisplayWidth(line) + 1 + DisplayWidth(word) > room) end_line();
    while (DisplayWidth(word) > room) {  // a word longer than a line
      const size_t fits = BytesOfColumns(word, room);
      line = word.substr(0, fits);
      word.erase(0, fits);
      end_line();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  if (!line.empty() || out.empty()) end_line();
  return out;
}

// `text` broken at blanks.
std::string Wrap(std::string_view text, int indent) {
  return WrapWords(absl::StrSplit(Printable(text), ' ', absl::SkipEmpty()), indent);
}

std::string Ratio(double original, double quantized, std::string_view better, std::string_view worse) {
  if (!(original > 0) || !(quantized > 0)) return "";
  const double ratio = original / quantized;
  if (ratio >= 0.995 && ratio <= 1.005) return "the same";
  return ratio > 1 ? absl::StrCat(Significant(ratio), "x ", AbslView(better))
                   : absl::StrCat(Significant(1 / ratio), "x ", AbslView(worse));
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

bool IsPercent(const v1::Metric& metric) {
  return absl::StartsWith(metric.name(), "top") || absl::StartsWith(metric.name(), "same_top");
}

// Percents have two decimals: accuracies are compared by hundredths of a point.
std::string Value(const v1::Metric& metric, double value) {
  return IsPercent(metric) ? absl::StrFormat("%.2f", value) : Significant(value, 4);
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
  HeadlineRow row{MetricName(metric.name()), comparing ? "-" : Value(metric, metric.original()),
                  Value(metric, metric.quantized()), ""};
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

void Layers(const v1::Report& report, std::string& out) {
  std::vector<const v1::Layer*> quantized, fallbacks;
  int64_t left_alone = 0;
  for (const v1::Layer& layer : report.layers()) {
    if (layer.method() == "fp32") {
      ++left_alone;
    } else {
      quantized.push_back(&layer);
    }
    if (!layer.fallback().empty()) fallbacks.push_back(&layer);
  }
  if (report.layers().empty()) return;
  absl::StrAppend(&out, "\nLayers: ", quantized.size(), " quantized, ", left_alone, " left in floating point, ",
                  fallbacks.size(), " with a fall-back\n");
  const bool measured = std::any_of(quantized.begin(), quantized.end(),
                                    [](const v1::Layer* layer) { return layer->sqnr_db() != 0 || layer->mse() != 0; });
  if (measured) {
    const size_t shown = std::min(kWorstLayers, quantized.size());
    std::partial_sort(quantized.begin(), quantized.begin() + static_cast<std::ptrdiff_t>(shown), quantized.end(),
                      [](const v1::Layer* a, const v1::Layer* b) { return SqnrKey(*a) < SqnrKey(*b); });
    using enum Table::Align;
    Table table({{"  worst by SQNR", kLeft, true},
                 {"op", kLeft, true},
                 {"method", kLeft, true},
                 {"bits", kRight},
                 {"SQNR dB", kRight},
                 {"rel. error", kRight},
                 {"MAE", kRight}});
    for (size_t i = 0; i < shown; ++i) {
      const v1::Layer& layer = *quantized[i];
      table.Add({"  " + layer.name(), layer.op(), layer.method(), absl::StrCat(layer.bits()),
                 absl::StrFormat("%.1f", layer.sqnr_db()), Significant(layer.relative_error()),
                 Significant(layer.mae())});
    }
    out += table.Render(kWidth);
  }
  std::optional<std::pair<int64_t, int64_t>> routed;  // least and most
  for (const v1::Layer& layer : report.layers()) {
    if (!layer.has_routed_tokens()) continue;
    const int64_t n = layer.routed_tokens();
    routed = routed.has_value() ? std::pair(std::min(routed->first, n), std::max(routed->second, n)) : std::pair(n, n);
  }
  if (routed.has_value()) {
    absl::StrAppend(&out, "\nExperts: ", routed->first, " to ", routed->second,
                    " calibration tokens were routed to each (--format json has all)\n");
  }
  if (fallbacks.empty()) return;
  out += "\nFall-backs\n";
  for (size_t i = 0; i < std::min(kFallbacks, fallbacks.size()); ++i) {
    absl::StrAppend(&out, "  ", Wrap(absl::StrCat(fallbacks[i]->name(), ": ", fallbacks[i]->fallback()), 4));
  }
  if (fallbacks.size() > kFallbacks) {
    absl::StrAppend(&out, "  and ", fallbacks.size() - kFallbacks, " more (--format json has all)\n");
  }
}

void Provenance(const v1::Provenance& provenance, std::string& out) {
  out += "\nProvenance\n";
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty()) absl::StrAppend(&out, absl::StrFormat("  %-8s  ", name), Wrap(value, 12));
  };
  line("model", provenance.model_digest());
  line("result", provenance.result_digest());
  line("data", absl::StrJoin(provenance.data_digests(), " "));
  if (provenance.has_recipe()) {
    // One line of JSON, with a blank after each comma to break at.
    std::string json;
    for (absl::string_view part : absl::StrSplit(MessageToJson(provenance.recipe()), '\n')) {
      absl::string_view text = absl::StripLeadingAsciiWhitespace(part);
      if (!json.empty() && json.back() == ',') json += ' ';
      absl::StrAppend(&json, text);
    }
    line("recipe", json);
  }
  line("build", provenance.build());
  line("machine", absl::StrCat(provenance.machine(), provenance.machine().empty() ? "" : ", ", provenance.isa()));
  line("seed", absl::StrCat(provenance.seed()));
}

}  // namespace

double SqnrKey(const v1::Layer& layer) {
  return std::isnan(layer.sqnr_db()) ? -std::numeric_limits<double>::infinity() : layer.sqnr_db();
}

std::string JobTitle(const v1::Job& job) {
  const v1::JobSpec& spec = job.spec();
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      return absl::StrCat("quantize ", MethodName(spec.quantize().recipe()));
    case v1::JobSpec::kAnalyze:
      return absl::StrCat("analyze ", MethodName(spec.analyze().recipe()));
    case v1::JobSpec::kCalibrate:
      return "calibrate";
    case v1::JobSpec::kBenchmark:
      return "benchmark";
    case v1::JobSpec::kTune:
      return "tune";
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
  return "job";
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

std::string ReportText(const v1::Report& report, const v1::Job& job) {
  std::string out =
      Wrap(absl::StrCat("Report of job ", job.id(), ": ", JobTitle(job),
                        job.result_model_id().empty() ? "" : absl::StrCat(", result ", job.result_model_id())),
           0);
  if (const std::vector<HeadlineRow> rows = Headline(report); !rows.empty()) {
    using enum Table::Align;
    Table table({{"", kLeft, true}, {"original", kRight}, {"quantized", kRight}, {"change", kLeft, true}});
    for (const HeadlineRow& row : rows) table.Add({row.name, row.original, row.quantized, row.change});
    absl::StrAppend(&out, "\n", table.Render(kWidth));
  }
  if (report.peak_memory_bytes() > 0) {
    absl::StrAppend(&out, "peak memory of the job: ", HumanBytes(report.peak_memory_bytes()), "\n");
  }
  if (!report.notes().empty()) out += "\nNotes\n";
  for (const std::string& note : report.notes()) absl::StrAppend(&out, "  - ", Wrap(note, 4));
  Layers(report, out);
  if (!report.phases().empty()) {
    double total = 0;
    std::vector<std::string> phases;
    for (const v1::Phase& phase : report.phases()) {
      phases.push_back(Printable(absl::StrCat(phase.name(), " ", HumanDuration(absl::Seconds(phase.seconds())), ",")));
      total += phase.seconds();
    }
    phases.push_back(absl::StrCat("in all ", HumanDuration(absl::Seconds(total))));
    absl::StrAppend(&out, "\nTime\n  ", WrapWords(std::move(phases), 2));
  }
  if (report.has_provenance()) Provenance(report.provenance(), out);
  return out;
}

}  // namespace quant

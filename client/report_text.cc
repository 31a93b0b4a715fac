// SPDX-License-Identifier: Apache-2.0
#include "client/report_text.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/terminal.h"
#include "common/strings.h"
#include "common/view/job_view.h"
#include "common/view/json.h"
#include "common/view/report_view.h"
#include "common/view/tuning_view.h"
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

void Candidates(const v1::Tuning& tuning, std::string& out) {
  absl::StrAppend(&out, "\nCandidates\n  ", Wrap(absl::StrCat(TuningSummary(tuning), "."), 2));
  using enum Table::Align;
  const std::string metric = MetricOf(tuning);
  Table table({{"  no.", kRight},
               {"candidate", kLeft, true},
               {"size", kRight},
               {"of orig.", kRight},
               {metric.substr(0, metric.find('/')), kRight},
               {"loss", kRight},
               {"speed", kRight},
               {"", kLeft, true}});
  int number = 0;
  for (const TrialRow& row : TrialRows(tuning)) {
    table.Add({absl::StrCat(++number), row.name, row.size, row.percent, row.metric, row.loss, row.speed, row.verdict});
  }
  out += table.Render(kWidth);
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
  if (report.has_tuning()) Candidates(report.tuning(), out);
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

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"
#include "common/view/html.h"
#include "common/view/human.h"
#include "common/view/job_view.h"
#include "common/view/json.h"
#include "common/view/report_charts.h"
#include "common/view/report_view.h"
#include "common/view/tuning_view.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

constexpr char kStyle[] = R"css(
:root{--bg:#fff;--fg:#1c2330;--dim:#5c6678;--line:#dfe3ea;--old:#9aa6b8;--new:#2563c9;--bad:#b84a0f;--good:#1d7a3e;--card:#f5f7fa}
@media(prefers-color-scheme:dark){:root{--bg:#14181f;--fg:#e6eaf0;--dim:#9aa6b8;--line:#2d3542;--old:#6b7788;--new:#6ea3f5;--bad:#f0925a;--good:#6fcf8f;--card:#1c222c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p.sub{color:var(--dim);margin:.2rem 0 1rem;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1rem 0}
.card{background:var(--card);border-radius:.5rem;padding:.75rem}
.card b{display:block;font-size:1.4rem;line-height:1.3}.card span{color:var(--dim);font-size:.85rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-size:.85rem;color:var(--dim);font-weight:600}
td.n,th.n{text-align:right;white-space:nowrap}td.word{white-space:nowrap}
td.n+td:not(.n),th.n+th:not(.n){padding-left:.6rem}
.bars td{border:0;padding:.1rem .6rem .1rem 0;font-size:.85rem}
.bars td.name{width:36%;overflow-wrap:anywhere}.bars td.plot{width:44%}
svg{display:block;width:100%;height:.9rem}
.old{fill:var(--old)}.new{fill:var(--new)}.bad{fill:var(--bad)}.axis{fill:var(--dim)}
.pale{opacity:.35}
svg.scatter{height:auto;max-width:40rem}
.scatter text{fill:var(--fg);font-size:17px}.scatter .grid{stroke:var(--line)}
.scatter .limit{stroke:var(--bad);stroke-dasharray:7 5;stroke-width:1.5}.scatter .front{fill:none;stroke:var(--new);stroke-width:1.5}
.scatter .chosen{fill:var(--new)}.scatter .on{fill:var(--bg);stroke:var(--new);stroke-width:2}.scatter .off{fill:var(--old)}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;margin-right:.3rem}
.key.old{background:var(--old)}.key.new{background:var(--new)}.key.bad{background:var(--bad)}.key.ring{border:2px solid var(--new)}
.legend{color:var(--dim);font-size:.85rem}.legend span{margin-right:1rem;display:inline-block}
dl{display:grid;grid-template-columns:minmax(5rem,auto) 1fr;gap:.2rem 1rem}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--card);padding:.75rem;border-radius:.5rem;overflow-x:auto;font-size:.8rem}
li,p{overflow-wrap:anywhere}summary{cursor:pointer}
.map{display:grid;grid-template-columns:minmax(2rem,max-content) 1fr;gap:.2rem .6rem;font-size:.8rem;align-items:start}
.map.flat{display:block}
.map>span{color:var(--dim);max-width:12rem;overflow-wrap:anywhere}
.cells{display:flex;flex-wrap:wrap;gap:2px}
.bit{display:inline-block;min-width:1.5rem;padding:0 .15rem;border-radius:.15rem;text-align:center;font-size:.75rem;line-height:1.4rem;color:#fff;border:2px solid transparent}
.b2{background:#7b1f6a}.b3{background:#a02c53}.b4{background:#b84a0f}.b8{background:#2563c9}.b16{background:#4d6a4f}.b32{background:#5c6678}
.bit.fb{border-color:var(--fg)}
@media(max-width:30rem){.bars td.name{width:30%}.bars td.plot{width:40%}.bars td{padding-right:.3rem}.bars td.n{white-space:normal}}
@media print{
:root{--bg:#fff;--fg:#1c2330;--dim:#5c6678;--line:#dfe3ea;--old:#9aa6b8;--new:#2563c9;--bad:#b84a0f;--good:#1d7a3e;--card:#f5f7fa}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{font-size:11px;max-width:none;padding:0}
h2{break-after:avoid}tr,.card,.map{break-inside:avoid}thead{display:table-header-group}
.wide{overflow:visible}
details::details-content{content-visibility:visible;block-size:auto}
summary{list-style:none}
}
)css";

std::string Dash(const std::string& text) { return text == "-" || text.empty() ? "–" : text; }

void Card(std::string& out, const std::string& value, const std::string& caption) {
  absl::StrAppend(&out, "<div class=\"card\"><b>", HtmlEscape(value), "</b><span>", HtmlEscape(caption),
                  "</span></div>\n");
}

void Cards(const v1::Report& report, std::string& out) {
  out += "<div class=\"cards\">\n";
  const v1::Size& size = report.size();
  if (size.original_bytes() > 0 && size.quantized_bytes() > 0) {
    Card(out,
         absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(size.quantized_bytes()) /
                                        static_cast<double>(size.original_bytes())),
         "of the original's size");
  }
  if (!report.metrics().empty()) {
    const v1::Metric& metric = report.metrics(0);
    const bool accuracy = metric.name() == "top1" || metric.name() == "perplexity";
    Card(out, accuracy ? absl::StrFormat("%+.2f", metric.delta()) : Significant(metric.quantized(), 4),
         metric.name() == "top1" ? "points of top-1 accuracy"
         : accuracy              ? "perplexity"
                                 : metric.name());
  }
  const double before = report.latency().original().mean_ms(), after = report.latency().quantized().mean_ms();
  if (before > 0 && after > 0) Card(out, absl::StrCat(Significant(before / after), "x"), "speed at batch 1");
  if (report.throughput().original() > 0 && report.throughput().quantized() > 0) {
    Card(out, absl::StrCat(Significant(report.throughput().quantized() / report.throughput().original()), "x"),
         absl::StrCat("throughput at batch ", report.throughput().batch()));
  }
  if (report.peak_memory_bytes() > 0) Card(out, HumanBytes(report.peak_memory_bytes()), "peak memory of the job");
  out += "</div>\n";
}

void HeadlineTable(const v1::Report& report, std::string& out) {
  const std::vector<HeadlineRow> rows = Headline(report);
  if (rows.empty()) return;
  out +=
      "<h2>Before and after</h2>\n<div class=\"wide\"><table><tr><th></th><th class=\"n\">original</th>"
      "<th class=\"n\">quantized</th><th>change</th></tr>\n";
  for (const HeadlineRow& row : rows) {
    absl::StrAppend(&out, "<tr><td>", HtmlEscape(row.name), "</td><td class=\"n\">", HtmlEscape(Dash(row.original)),
                    "</td><td class=\"n\">", HtmlEscape(Dash(row.quantized)), "</td><td>", HtmlEscape(row.change),
                    "</td></tr>\n");
  }
  out += "</table></div>\n";
}

void Candidates(const v1::Tuning& tuning, std::string& out) {
  absl::StrAppend(&out, "<h2>Candidates</h2>\n<p>", HtmlEscape(TuningSummary(tuning)), ".</p>\n");
  if (const std::string plot = ParetoPlot(tuning); !plot.empty()) {
    absl::StrAppend(
        &out, plot,
        "<p class=\"legend\"><span><i class=\"key new\"></i>chosen</span><span><i class=\"key ring\"></i>on "
        "the Pareto front, the stair</span><span><i class=\"key old\"></i>beaten by another</span><span>"
        "Broken line: the loss that was accepted. Triangle: loses more than the picture shows.</span></p>\n");
  }
  out +=
      "<div class=\"wide\"><table><tr><th class=\"n\">no.</th><th>candidate</th><th class=\"n\">size</th>"
      "<th class=\"n\">of the original</th><th class=\"n\">";
  absl::StrAppend(&out, HtmlEscape(MetricName(MetricOf(tuning))),
                  "</th><th class=\"n\">loss</th><th class=\"n\">speed</th><th></th></tr>\n");
  int number = 0;
  for (const TrialRow& row : TrialRows(tuning)) {
    absl::StrAppend(&out, "<tr><td class=\"n\">", ++number, "</td><td>", HtmlEscape(row.name), "</td>");
    for (const std::string* text : {&row.size, &row.percent, &row.metric, &row.loss, &row.speed}) {
      absl::StrAppend(&out, "<td class=\"n\">", HtmlEscape(Dash(*text)), "</td>");
    }
    absl::StrAppend(&out, "<td class=\"word\">", HtmlEscape(row.verdict), "</td></tr>\n");
  }
  out += "</table></div>\n";
}

void LayerTable(const v1::Report& report, std::string& out) {
  if (report.layers().empty()) return;
  absl::StrAppend(&out, "<h2>Layers</h2>\n<details><summary>All ", report.layers_size(), " layers</summary>\n",
                  "<div class=\"wide\"><table><tr><th>name</th><th>op</th><th>method</th><th class=\"n\">bits</th>",
                  "<th class=\"n\">group</th><th class=\"n\">SQNR dB</th><th class=\"n\">rel. error</th>",
                  "<th class=\"n\">MSE</th><th class=\"n\">MAE</th><th>fall-back</th></tr>\n");
  for (const v1::Layer& layer : report.layers()) {
    absl::StrAppend(&out, "<tr><td>", HtmlEscape(layer.name()), "</td><td>", HtmlEscape(layer.op()), "</td><td>",
                    HtmlEscape(layer.method()), "</td><td class=\"n\">", layer.bits(), "</td><td class=\"n\">",
                    layer.group_size() == 0 ? "–" : absl::StrCat(layer.group_size()), "</td><td class=\"n\">");
    absl::StrAppend(&out, absl::StrFormat("%.1f", layer.sqnr_db()), "</td><td class=\"n\">",
                    Significant(layer.relative_error()), "</td><td class=\"n\">", Significant(layer.mse()),
                    "</td><td class=\"n\">", Significant(layer.mae()), "</td><td>", HtmlEscape(layer.fallback()),
                    "</td></tr>\n");
  }
  out += "</table></div></details>\n";
}

void Provenance(const v1::Provenance& provenance, std::string& out) {
  out += "<h2>Provenance</h2>\n<dl>\n";
  const auto item = [&](const char* name, const std::string& value) {
    if (!value.empty()) absl::StrAppend(&out, "<dt>", name, "</dt><dd>", HtmlEscape(value), "</dd>\n");
  };
  item("model", provenance.model_digest());
  item("result", provenance.result_digest());
  for (const std::string& digest : provenance.data_digests()) item("data", digest);
  item("build", provenance.build());
  item("machine", provenance.machine());
  item("isa", provenance.isa());
  item("seed", absl::StrCat(provenance.seed()));
  out += "</dl>\n";
  if (provenance.has_recipe()) {
    out += "<details><summary>Recipe, with every default filled in</summary><pre>";
    // Escape makes line ends printable, so it goes line by line.
    for (absl::string_view line : absl::StrSplit(MessageToJson(provenance.recipe()), '\n')) {
      absl::StrAppend(&out, HtmlEscape(StdView(line)), "\n");
    }
    out += "</pre></details>\n";
  }
}

}  // namespace

std::string_view ReportStyle() { return kStyle; }

std::string ReportBody(const v1::Report& report) {
  std::string out;
  Cards(report, out);
  HeadlineTable(report, out);
  if (!report.notes().empty()) {
    out += "<h2>Notes</h2>\n<ul>\n";
    for (const std::string& note : report.notes()) absl::StrAppend(&out, "<li>", HtmlEscape(note), "</li>\n");
    out += "</ul>\n";
  }
  if (report.has_tuning()) Candidates(report.tuning(), out);
  AccuracyChart(report, out);
  if (report.has_size()) SizeChart(report.size(), out);
  if (report.has_latency()) LatencyChart(report.latency(), out);
  BitMap(report, out);
  LayerChart(report, out);
  PhaseChart(report, out);
  LayerTable(report, out);
  if (report.has_provenance()) Provenance(report.provenance(), out);
  return out;
}

std::string ReportHtml(const v1::Report& report, const v1::Job& job) {
  const std::string title = absl::StrCat("Report of ", JobTitle(job));
  std::string out = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n",
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
      "<title>", HtmlEscape(title), "</title>\n<style>", kStyle, "</style></head><body>\n");
  absl::StrAppend(&out, "<h1>", HtmlEscape(title), "</h1>\n<p class=\"sub\">job ", HtmlEscape(job.id()),
                  job.result_model_id().empty() ? "" : absl::StrCat(", result ", HtmlEscape(job.result_model_id())),
                  "</p>\n", ReportBody(report), "</body></html>\n");
  return out;
}

}  // namespace quant

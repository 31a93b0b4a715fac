// SPDX-License-Identifier: Apache-2.0
#include "common/view/report_charts.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/strings.h"
#include "common/view/html.h"
#include "common/view/human.h"
#include "common/view/report_view.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

constexpr size_t kMostBars = 200;  // a page with more is slow to scroll and tells nothing more
constexpr int kMostCells = 2000;

// A share of the axis in percent; a NaN is at its beginning.
double Place(double value, double most) { return most > 0 && value > 0 ? std::min(1.0, value / most) * 100 : 0; }

std::string Rect(const char* css, double x, double width, double y = 0, double height = 10) {
  return absl::StrFormat(R"(<rect class="%s" x="%.2f" y="%g" width="%.2f" height="%g"/>)", css, x, y, width, height);
}

std::string Plot(const std::string& shapes) {
  return absl::StrCat(R"(<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">)", shapes, "</svg>");
}

void PlotRow(std::string& out, std::string_view name, const std::string& shapes, std::string_view text) {
  absl::StrAppend(&out, "<tr><td class=\"name\">", HtmlEscape(name), "</td><td class=\"plot\">", Plot(shapes),
                  "</td><td class=\"n\">", HtmlEscape(text), "</td></tr>\n");
}

// A horizontal bar that fills `value`/`most` of its cell.
void BarRow(std::string& out, std::string_view name, double value, double most, const char* css,
            std::string_view text) {
  PlotRow(out, name, Rect(css, 0, Place(value, most)), text);
}

// The block that a layer belongs to by its name, up to its first number: "model.layers.12" of
// "model.layers.12.mlp.up_proj"; the whole name where it has none.
std::string_view BlockOf(std::string_view name) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find_first_of("./", begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (!part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      return name.substr(0, end);
    }
    begin = end + 1;
  }
  return name;
}

const char* BitClass(int bits) {
  if (bits <= 0 || bits > 16) return "b32";
  return bits <= 2 ? "b2" : bits <= 3 ? "b3" : bits <= 4 ? "b4" : bits <= 8 ? "b8" : "b16";
}

std::string Cell(const v1::Layer& layer) {
  const bool alone = layer.method() == "fp32" || layer.bits() <= 0;
  const std::string bits = alone ? "fp" : absl::StrCat(layer.bits());
  std::string title = absl::StrCat(layer.name(), ": ", alone ? "left in floating point" : layer.method(),
                                   alone ? "" : absl::StrCat(", ", layer.bits(), " bits"));
  if (!layer.fallback().empty()) absl::StrAppend(&title, "; ", layer.fallback());
  return absl::StrCat("<span class=\"bit ", alone ? "b32" : BitClass(layer.bits()),
                      layer.fallback().empty() ? "" : " fb", "\" title=\"", HtmlEscape(title), "\">", bits, "</span>");
}

std::string Signed(double value) { return absl::StrCat(value > 0 ? "+" : "", Significant(value)); }

}  // namespace

void AccuracyChart(const v1::Report& report, std::string& out) {
  std::string rows;
  for (const v1::Metric& metric : report.metrics()) {
    const double most = 1.1 * std::max({std::abs(metric.low()), std::abs(metric.high()), std::abs(metric.delta())});
    if (!(metric.low() < metric.high()) || !std::isfinite(most)) continue;
    const auto x = [&](double value) { return Place(value + most, 2 * most); };
    PlotRow(rows, MetricName(metric.name()),
            Rect("new pale", x(metric.low()), x(metric.high()) - x(metric.low()), 1, 8) + Rect("axis", 49.8, 0.4) +
                Rect("new", x(metric.delta()) - 0.6, 1.2, 1, 8),
            absl::StrCat(Signed(metric.delta()), " (", Signed(metric.low()), " to ", Signed(metric.high()), ")"));
  }
  if (rows.empty()) return;
  absl::StrAppend(&out,
                  "<h2>Change with its 95 % interval</h2>\n<p class=\"legend\">Quantized less original, from paired "
                  "samples; the line is no change.</p>\n<table class=\"bars\">\n",
                  rows, "</table>\n");
}

void SizeChart(const v1::Size& size, std::string& out) {
  const auto original = static_cast<double>(size.original_bytes()),
             quantized = static_cast<double>(size.quantized_bytes());
  if (!(original > 0) || !(quantized > 0)) return;
  out += "<h2>Size on disk</h2>\n<table class=\"bars\">\n";
  const double most = std::max(original, quantized);
  BarRow(out, "original", original, most, "old", HumanBytes(size.original_bytes()));
  BarRow(out, "quantized", quantized, most, "new", HumanBytes(size.quantized_bytes()));
  out += "</table>\n";
}

void LatencyChart(const v1::LatencyPair& pair, std::string& out) {
  const double most = std::max({pair.original().p99_ms(), pair.quantized().p99_ms(),
                                pair.original().mean_ms() + pair.original().std_ms(),
                                pair.quantized().mean_ms() + pair.quantized().std_ms()});
  if (!(most > 0) || !std::isfinite(most)) return;
  absl::StrAppend(
      &out, "<h2>Latency</h2>\n<p class=\"legend\"><span><i class=\"key old\"></i>original</span>",
      "<span><i class=\"key new\"></i>quantized</span><span>", pair.runs(), " interleaved runs, ", pair.threads(),
      " threads, batch ", pair.batch(),
      "</span></p>\n<p class=\"legend\">Pale: mean and one standard deviation to each side. Marks: median, 95th "
      "and 99th percentile, joined by a line. The axis begins at 0.</p>\n<table class=\"bars\">\n");
  const auto row = [&](const char* name, const v1::Latency& latency, const char* css) {
    const auto x = [&](double ms) { return 0.99 * Place(ms, most); };
    const double low = x(latency.mean_ms() - latency.std_ms()), high = x(latency.mean_ms() + latency.std_ms());
    const double p50 = x(latency.p50_ms()), p95 = x(latency.p95_ms()), p99 = x(latency.p99_ms());
    PlotRow(out, name,
            Rect(absl::StrCat(css, " pale").c_str(), low, std::max(0.0, high - low)) +
                Rect(css, p50, std::max(0.0, p99 - p50), 4.5, 1) + Rect(css, p50, 1) + Rect(css, p95, 0.6, 1.5, 7) +
                Rect(css, p99, 0.6, 3, 4),
            absl::StrCat(Significant(latency.p50_ms()), " · ", Significant(latency.p95_ms()), " · ",
                         Significant(latency.p99_ms()), " ms"));
  };
  row("original", pair.original(), "old");
  row("quantized", pair.quantized(), "new");
  out += "</table>\n";
}

void BitMap(const v1::Report& report, std::string& out) {
  const int count = std::min(report.layers_size(), kMostCells);
  if (count == 0) return;
  std::vector<std::string_view> blocks;  // of each layer
  int groups = 0;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(BlockOf(report.layers(i).name()));
    if (i == 0 || blocks[static_cast<size_t>(i)] != blocks[static_cast<size_t>(i - 1)]) ++groups;
  }
  const bool by_block = groups * 3 <= count;  // else names do not follow blocks, and rows would be single cells
  out +=
      "<h2>Bits by layer</h2>\n<p class=\"legend\">A cell a layer, in the model's order, with the bits of its weights";
  absl::StrAppend(
      &out, by_block ? "; a row a block" : "", ". fp: left in floating point. Outlined: with a fall-back.",
      count < report.layers_size() ? absl::StrCat(" The first ", count, " of ", report.layers_size(), ".") : "",
      by_block ? "</p>\n<div class=\"map\">\n" : "</p>\n<div class=\"map flat\">\n");
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (i == 0 || (by_block && blocks[at] != blocks[at - 1])) {
      absl::StrAppend(&out, i == 0 ? "" : "</div>\n",
                      by_block ? absl::StrCat("<span>", HtmlEscape(blocks[at]), "</span>") : "",
                      "<div class=\"cells\">");
    }
    out += Cell(report.layers(i));
  }
  out += "</div>\n</div>\n";
}

void LayerChart(const v1::Report& report, std::string& out) {
  std::vector<const v1::Layer*> layers;
  double most = 0;
  for (const v1::Layer& layer : report.layers()) {
    if (layer.method() == "fp32") continue;
    layers.push_back(&layer);
    most = std::max(most, layer.sqnr_db());
  }
  if (layers.empty() || !(most > 0)) return;
  out +=
      "<h2>Signal to quantization noise by layer</h2>\n<p class=\"legend\"><span><i class=\"key new\"></i>as asked"
      "</span><span><i class=\"key bad\"></i>with a fall-back</span><span>dB, more is better</span></p>\n";
  if (layers.size() > kMostBars) {
    absl::StrAppend(&out, "<p class=\"legend\">The ", kMostBars, " worst of ", layers.size(), " layers.</p>\n");
    // Keeps graph order among the worst.
    std::vector<const v1::Layer*> sorted = layers;
    std::nth_element(sorted.begin(), sorted.begin() + kMostBars, sorted.end(),
                     [](const v1::Layer* a, const v1::Layer* b) { return SqnrKey(*a) < SqnrKey(*b); });
    const double limit = SqnrKey(*sorted[kMostBars]);
    std::erase_if(layers, [&](const v1::Layer* layer) { return SqnrKey(*layer) > limit; });
    layers.resize(std::min(layers.size(), kMostBars));
  }
  out += "<table class=\"bars\">\n";
  for (const v1::Layer* layer : layers) {
    BarRow(out, layer->name(), layer->sqnr_db(), most, layer->fallback().empty() ? "new" : "bad",
           absl::StrFormat("%.1f", layer->sqnr_db()));
  }
  out += "</table>\n";
}

void PhaseChart(const v1::Report& report, std::string& out) {
  double most = 0;
  for (const v1::Phase& phase : report.phases()) most = std::max(most, phase.seconds());
  if (!(most > 0)) return;
  out += "<h2>Time by phase</h2>\n<table class=\"bars\">\n";
  for (const v1::Phase& phase : report.phases()) {
    BarRow(out, phase.name(), phase.seconds(), most, "new", HumanDuration(absl::Seconds(phase.seconds())));
  }
  out += "</table>\n";
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/report_text.h"
#include "client/terminal.h"
#include "common/view/report_view.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

v1::Job ExampleJob() {
  v1::Job job;
  job.set_id("j-0123456789abcdef");
  job.set_result_model_id("m-fedcba9876543210");
  job.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_static_int8();
  return job;
}

v1::Report ExampleReport() {
  v1::Report report;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
    size { original_bytes: 1110000 quantized_bytes: 339000 bits_per_weight: 8.21 }
    metrics { name: "top1" original: 80.2 quantized: 80.08 delta: -0.12 low: -0.4 high: 0.16 samples: 4744 }
    metrics { name: "sqnr_db" quantized: 28.31 samples: 4744 }
    latency { original { mean_ms: 0.59 std_ms: 0.012 p50_ms: 0.58 p95_ms: 0.62 p99_ms: 0.7 }
              quantized { mean_ms: 0.40 std_ms: 0.01 p50_ms: 0.39 p95_ms: 0.43 p99_ms: 0.5 } runs: 200 threads: 2 batch: 1 }
    throughput { original: 2500 quantized: 4100 batch: 16 }
    peak_memory_bytes: 163000000
    phases { name: "load" seconds: 0.25 } phases { name: "calibrate" seconds: 3.5 } phases { name: "evaluate" seconds: 61 }
    layers { name: "conv1" op: "Conv" method: "static" bits: 8 mse: 0.1 mae: 0.2 relative_error: 0.01 sqnr_db: 40 }
    layers { name: "conv2" op: "Conv" method: "static" bits: 7 mse: 0.1 mae: 0.2 relative_error: 0.02 sqnr_db: 31.5
             fallback: "7-bit weights: 12 saturating sums" }
    layers { name: "fc" op: "Gemm" method: "fp32" bits: 32 }
    notes: "fc was left alone: --skip fc"
    provenance { model_digest: "aa11" data_digests: "bb22" data_digests: "cc33" build: "0.1.0+abc" isa: "avx2" seed: 7
                 machine: "Test CPU, 2 cores" result_digest: "dd44" recipe { static_int8 {} seed: 7 } }
  )",
                                                            &report));
  return report;
}

TEST(ReportTextTest, Golden) {
  EXPECT_EQ(ReportText(ExampleReport(), ExampleJob()),
            R"(Report of job j-0123456789abcdef: quantize static, result m-fedcba9876543210

                       original  quantized  change
size on disk           1.06 MiB    331 KiB  3.27x smaller, 30.5 % of the original
bits per weight               -       8.21
top-1 accuracy, %         80.20      80.08  -0.12 (95 %: -0.40 to +0.16), 4744 samples
output SQNR, dB               -      28.31  4744 samples
latency mean, ms           0.59        0.4  1.47x faster
latency p50, ms            0.58       0.39  1.49x faster
latency p95, ms            0.62       0.43  1.44x faster
latency p99, ms             0.7        0.5  1.4x faster
latency std. dev., ms     0.012       0.01  200 runs, 2 threads, batch 1
throughput, 1/s            2500       4100  1.64x more, batch 16
peak memory of the job: 155 MiB

Notes
  - fc was left alone: --skip fc

Layers: 2 quantized, 1 left in floating point, 1 with a fall-back
  worst by SQNR  op    method  bits  SQNR dB  rel. error  MAE
  conv2          Conv  static     7     31.5        0.02  0.2
  conv1          Conv  static     8     40.0        0.01  0.2

Fall-backs
  conv2: 7-bit weights: 12 saturating sums

Time
  load 0.2 s, calibrate 3.5 s, evaluate 1m01s, in all 1m05s

Provenance
  model     aa11
  result    dd44
  data      bb22 cc33
  recipe    {"static_int8": {"weight_granularity": "UNSPECIFIED", "weight_symmetry": "UNSPECIFIED",
            "activation_symmetry": "UNSPECIFIED", "activation_type": "UNSPECIFIED", "reduce_range":
            "UNSPECIFIED", "skip_first": false, "skip_last": false, "op_types": [],
            "bias_correction": false, "cross_layer_equalization": false}, "rules": [], "format":
            "UNSPECIFIED", "seed": 7, "memory_bytes": 0}
  build     0.1.0+abc
  machine   Test CPU, 2 cores, avx2
  seed      7
)");
}

v1::Report TunedReport() {
  v1::Report report = ExampleReport();
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
    objective: TUNE_OBJECTIVE_SIZE max_drop: 1 met: true
    trials { name: "dynamic" size { original_bytes: 1110000 quantized_bytes: 350000 } drop: 0.01 within: true pareto: true
             metric { name: "top1" original: 80.2 quantized: 80.19 } }
    trials { name: "static" size { original_bytes: 1110000 quantized_bytes: 339000 } drop: 0.12 within: true pareto: true
             chosen: true metric { name: "top1" original: 80.2 quantized: 80.08 }
             latency { original { p50_ms: 0.58 } quantized { p50_ms: 0.39 } } }
    trials { name: "static skip-first" size { original_bytes: 1110000 quantized_bytes: 345000 } drop: 30.5
             metric { name: "top1" original: 80.2 quantized: 49.7 } }
    trials { name: "gptq <4>" error: "not for ONNX models" }
  )",
                                                            report.mutable_tuning()));
  return report;
}

TEST(ReportTextTest, ListsTheCandidatesOfATuneJob) {
  EXPECT_THAT(ReportText(TunedReport(), ExampleJob()), HasSubstr(R"(
Candidates
  2 of 4 candidates keep the loss of 1.00 points; the smallest of them was made: static.
  no.  candidate             size  of orig.   top1          loss  speed
    1  dynamic            342 KiB    31.5 %  80.19   0.01 points      -  on the front
    2  static             331 KiB    30.5 %  80.08   0.12 points  1.49x  chosen
    3  static skip-first  337 KiB    31.1 %  49.70  30.50 points      -  loses too much
    4  gptq <4>                 -         -      -             -      -  no model
)"));
  v1::Report missed = TunedReport();
  missed.mutable_tuning()->set_met(false);
  missed.mutable_tuning()->set_max_drop(0.001);
  EXPECT_THAT(ReportText(missed, ExampleJob()),
              HasSubstr("None of 4 candidates keeps the loss of 0.00 points; the one"));
  v1::Report wide = TunedReport();
  for (v1::Trial& trial : *wide.mutable_tuning()->mutable_trials()) {
    trial.set_name(std::string(300, 'n'));
    trial.mutable_metric()->set_name("top1/" + std::string(300, 'm'));
  }
  for (absl::string_view line : absl::StrSplit(ReportText(wide, ExampleJob()), '\n'))
    EXPECT_LE(DisplayWidth({line.data(), line.size()}), 100) << line;
}

TEST(ReportTextTest, FitsAHundredColumnsWhateverTheNames) {
  v1::Report report = ExampleReport();
  const std::string name = "/model/very/long/" + std::string(300, 'n');
  for (int i = 0; i < 50; ++i) {
    v1::Layer& layer = *report.add_layers();
    layer.set_name(absl::StrCat(name, i));
    layer.set_op(std::string(60, 'o'));
    layer.set_method(std::string(60, 'm'));
    layer.set_sqnr_db(i);
    layer.set_fallback(std::string(500, 'f') + " and words after it");
  }
  report.add_notes(std::string(400, 'x'));
  report.mutable_metrics(0)->set_name(name);
  report.mutable_provenance()->set_machine(std::string(250, 'c'));
  const std::string text = ReportText(report, ExampleJob());
  for (absl::string_view line : absl::StrSplit(text, '\n'))
    EXPECT_LE(DisplayWidth({line.data(), line.size()}), 100) << line;
  EXPECT_THAT(text, HasSubstr("and 31 more"));
}

TEST(ReportTextTest, PartsThatAreNotThereAreLeftOut) {
  v1::Job job;
  job.set_id("j-1");
  job.mutable_spec()->mutable_benchmark();
  EXPECT_EQ(ReportText(v1::Report(), job), "Report of job j-1: benchmark\n");
  v1::Report report;
  report.mutable_size()->set_original_bytes(5);
  report.mutable_latency()->mutable_quantized()->set_mean_ms(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(ReportText(report, job), AllOf(HasSubstr("size on disk"), HasSubstr("5 B")));
}

TEST(ReportTextTest, TellsTheTokensOfAMixturesExperts) {
  v1::Report report = ExampleReport();
  EXPECT_THAT(ReportText(report, ExampleJob()), Not(HasSubstr("Experts")));
  for (const int64_t n : {812, 0, 33}) report.add_layers()->set_routed_tokens(n);
  EXPECT_THAT(ReportText(report, ExampleJob()), HasSubstr("Experts: 0 to 812 calibration tokens were routed to each"));
}

TEST(ReportTextTest, EscapeSequencesFromTheServerDoNotReachTheTerminal) {
  v1::Report report = ExampleReport();
  report.add_notes("\x1b[2J\x07 wiped \xc2\x9b");
  report.mutable_layers(0)->set_name("\x1b]0;title\x07");
  const std::string text = ReportText(report, ExampleJob());
  EXPECT_THAT(text, AllOf(Not(HasSubstr("\x1b")), Not(HasSubstr("\x07")), Not(HasSubstr("\xc2\x9b"))));
}

TEST(ReportHtmlTest, ShowsWhatTheReportHas) {
  const std::string html = ReportHtml(ExampleReport(), ExampleJob());
  for (const char* part : {"<!doctype html>",
                           "name=\"viewport\"",
                           "Report of quantize static",
                           "m-fedcba9876543210",
                           "30.5 %",
                           "top-1 accuracy, %",
                           "-0.12 (95 %: -0.40 to +0.16)",
                           "1.47x",
                           "<svg",
                           "conv2",
                           "31.5",
                           "class=\"bad\"",
                           "7-bit weights",
                           "aa11",
                           "bb22",
                           "cc33",
                           "dd44",
                           "0.1.0+abc",
                           "Test CPU",
                           "&quot;seed&quot;: 7",
                           "fc was left alone",
                           "calibrate"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  // Self-contained: nothing is loaded, nothing runs.
  for (const char* part : {"<script", "http:", "https:", "src=", "href=", "@import", "url("}) {
    EXPECT_THAT(html, Not(HasSubstr(part)));
  }
}

size_t Count(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(ReportHtmlTest, PlotsTheCandidatesOfATuneJob) {
  const std::string html = ReportHtml(TunedReport(), ExampleJob());
  EXPECT_THAT(html,
              AllOf(HasSubstr("<h2>Candidates</h2>"), HasSubstr("svg class=\"scatter\""),
                    HasSubstr("loss, points of top-1"), HasSubstr("<td>gptq &lt;4&gt;</td>"), HasSubstr("no model")));
  EXPECT_EQ(Count(html, "<circle class=\"chosen\""), 1u);
  EXPECT_EQ(Count(html, "<circle class=\"on\""), 1u);
  EXPECT_EQ(Count(html, "<path class=\"off\""), 1u) << "30 points stand at the edge, as a triangle";
  EXPECT_EQ(Count(html, "<path class=\"front\""), 1u);
  EXPECT_EQ(Count(html, "<line class=\"limit\""), 1u);
}

TEST(ReportHtmlTest, APlotOfWildNumbersEnds) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const double wild : {inf, -inf, nan, 1e308, -1e308, 0.0}) {
    v1::Report report = TunedReport();
    report.mutable_tuning()->set_max_drop(wild);
    EXPECT_THAT(ReportHtml(report, ExampleJob()), HasSubstr("Candidates"));
    report.mutable_tuning()->mutable_trials(0)->set_drop(wild);
    report.mutable_tuning()->mutable_trials(0)->mutable_size()->set_quantized_bytes(INT64_MAX);
    report.mutable_tuning()->mutable_trials(1)->mutable_size()->set_quantized_bytes(-1);
    const std::string html = ReportHtml(report, ExampleJob());
    EXPECT_LT(html.size(), 100'000u);
  }
}

TEST(ReportHtmlTest, MapsBitsInRowsOfBlocks) {
  v1::Report report;
  for (int block = 0; block < 2; ++block) {
    for (const char* name : {"attn.q", "attn.k", "mlp.up"}) {
      v1::Layer& layer = *report.add_layers();
      layer.set_name(absl::StrCat("model.layers.", block, ".", name));
      layer.set_method("gptq");
      layer.set_bits(4);
    }
  }
  report.mutable_layers(4)->set_method("fp32");
  report.mutable_layers(5)->set_fallback("worse than rtn");
  std::string html = ReportHtml(report, ExampleJob());
  EXPECT_THAT(html,
              AllOf(HasSubstr("<span>model.layers.0</span><div class=\"cells\">"),
                    HasSubstr("<span class=\"bit b4\" title=\"model.layers.0.attn.q: gptq, 4 bits\">4</span>"),
                    HasSubstr("<span>model.layers.1</span>"),
                    HasSubstr("model.layers.1.attn.k: left in floating point\">fp</span>"),
                    HasSubstr("class=\"bit b4 fb\" title=\"model.layers.1.mlp.up: gptq, 4 bits; worse than rtn\"")));
  // Names without blocks: one row.
  for (int i = 0; i < 6; ++i) report.mutable_layers(i)->set_name(absl::StrCat("conv", i));
  html = ReportHtml(report, ExampleJob());
  EXPECT_THAT(html, HasSubstr("<div class=\"map flat\">\n<div class=\"cells\"><span class=\"bit b4\""));
}

TEST(ReportHtmlTest, DrawsIntervalsAndDistributions) {
  v1::Report report = ExampleReport();
  const std::string html = ReportHtml(report, ExampleJob());
  EXPECT_THAT(html, AllOf(HasSubstr("Change with its 95 % interval"), HasSubstr("-0.12 (-0.4 to +0.16)"),
                          HasSubstr("0.58 · 0.62 · 0.7 ms"), HasSubstr("0.39 · 0.43 · 0.5 ms")));
  // The interval from -0.40 to +0.16 on an axis of 0.44 to each side: 4.5 % to 68.2 %.
  EXPECT_THAT(html, HasSubstr("<rect class=\"new pale\" x=\"4.55\" y=\"1\" width=\"63.64\" height=\"8\"/>"));
  report.mutable_metrics(0)->set_high(std::nan(""));
  report.mutable_latency()->mutable_original()->set_std_ms(std::nan(""));
  report.mutable_latency()->mutable_quantized()->set_p99_ms(std::numeric_limits<double>::infinity());
  EXPECT_THAT(ReportHtml(report, ExampleJob()), AllOf(Not(HasSubstr("=\"nan")), Not(HasSubstr("=\"inf"))));
}

TEST(ReportHtmlTest, EveryTextFromTheReportIsEscaped) {
  const std::string evil = "<img src=x onerror=alert(1)>\"'&";
  v1::Report report = ExampleReport();
  for (v1::Layer& layer : *report.mutable_layers()) {
    layer.set_name(evil);
    layer.set_op(evil);
    layer.set_method(evil);
    layer.set_fallback(evil);
  }
  report.add_notes(evil);
  report.mutable_metrics(0)->set_name(evil);
  report.mutable_phases(0)->set_name(evil);
  v1::Provenance& provenance = *report.mutable_provenance();
  provenance.set_model_digest(evil);
  provenance.set_result_digest(evil);
  provenance.set_data_digests(0, evil);
  provenance.set_build(evil);
  provenance.set_isa(evil);
  provenance.set_machine(evil);
  provenance.mutable_recipe()->add_rules()->set_name(evil);
  v1::Job job = ExampleJob();
  job.set_id(evil);
  job.set_result_model_id(evil);
  const std::string html = ReportHtml(report, job);
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, HasSubstr("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;"));
}

TEST(ReportHtmlTest, ManyLayersAreCutToTheWorst) {
  v1::Report report;
  for (int i = 0; i < 1000; ++i) {
    v1::Layer& layer = *report.add_layers();
    layer.set_name(absl::StrCat("layer", i));
    layer.set_sqnr_db(1000 - i);
  }
  const std::string html = ReportHtml(report, ExampleJob());
  EXPECT_THAT(html, HasSubstr("The 200 worst of 1000 layers"));
  size_t bars = 0;
  for (size_t at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1)) ++bars;
  EXPECT_EQ(bars, 200u);
  // NaN must not put invalid numbers into the page's geometry.
  report.mutable_layers(999)->set_sqnr_db(std::nan(""));
  EXPECT_THAT(ReportHtml(report, ExampleJob()), Not(HasSubstr("width=\"nan")));
}

TEST(TerminalTest, NumbersForPeople) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1.00 KiB");
  EXPECT_EQ(HumanBytes(1048575), "1.00 MiB");
  EXPECT_EQ(HumanBytes(123456789), "118 MiB");
  EXPECT_EQ(HumanBytes(std::numeric_limits<int64_t>::max()), "8.00 EiB");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(42)), "42 ms");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(420)), "0.4 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(59.9)), "1m00s");
  EXPECT_EQ(HumanDuration(absl::Seconds(3599.9)), "1h00m");
  EXPECT_EQ(HumanDuration(absl::Hours(26)), "26h00m");
  EXPECT_EQ(Significant(0.000012345), "1.23e-05");
  EXPECT_EQ(Significant(1234.5), "1234");
  EXPECT_EQ(Significant(-0.5), "-0.5");
  EXPECT_EQ(Ellipsize("äöüß", 3), "äö…");
}

TEST(TerminalTest, TablesShrinkTheColumnsThatMay) {
  Table table({{"ID"}, {"NAME", Table::Align::kLeft, true}, {"SIZE", Table::Align::kRight}});
  table.Add({"m-1", std::string(100, 'n'), "5"});
  table.Add({"m-2", "short\x1b", "1234"});
  EXPECT_EQ(table.Render(30),
            "ID   NAME                 SIZE\n"
            "m-1  nnnnnnnnnnnnnnnnnn…     5\n"
            "m-2  short?               1234\n");
  EXPECT_EQ(table.Render(0).substr(0, 120).find('\n') > 100, true);
}

}  // namespace
}  // namespace quant

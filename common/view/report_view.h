// SPDX-License-Identifier: Apache-2.0
// A report (quant.v1.Report) for people. Its JSON form is MessageToJson of json.h, its text form client/report_text.h.
#ifndef QUANT_COMMON_VIEW_REPORT_VIEW_H_
#define QUANT_COMMON_VIEW_REPORT_VIEW_H_

#include <string>
#include <string_view>
#include <vector>

namespace quant {

namespace v1 {
class Job;
class Layer;
class Metric;
class Report;
}  // namespace v1

// One self-contained HTML page: inline style and SVG, no script, nothing loaded from anywhere (a content security
// policy in the page says so too); every text from the report is escaped.
std::string ReportHtml(const v1::Report& report, const v1::Job& job);
// What is in that page below its heading, for a page that has ReportStyle among its styles.
std::string ReportBody(const v1::Report& report);
std::string_view ReportStyle();

// A row of the headline table, shared by both forms: original against quantized.
struct HeadlineRow {
  std::string name;      // "top-1 accuracy, %"
  std::string original;  // "-" where it has none
  std::string quantized;
  std::string change;  // "-0.12 (95 %: -0.40 to +0.16)", "3.3x smaller"
};
std::vector<HeadlineRow> Headline(const v1::Report& report);

// A metric's value: percents with two decimals, as accuracies are compared by hundredths of a point.
std::string MetricValue(const v1::Metric& metric, double value);
// A metric as people call it: "top-1 accuracy, %" for "top1", "top-1 accuracy, % (output)" for "top1/output".
std::string MetricName(const std::string& name);

// The order of layers from worst to best by SQNR; a NaN is worst of all (and keeps sorting well-defined).
double SqnrKey(const v1::Layer& layer);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_REPORT_VIEW_H_

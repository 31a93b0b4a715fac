// SPDX-License-Identifier: Apache-2.0
// A report (quant.v1.Report) for people. Its JSON form is MessageToJson of client/json.h.
#ifndef QUANT_CLIENT_REPORT_VIEW_H_
#define QUANT_CLIENT_REPORT_VIEW_H_

#include <string>
#include <vector>

namespace quant {

namespace v1 {
class Job;
class Layer;
class Report;
}  // namespace v1

// Plain text of at most 100 columns: headline table, notes, worst layers, fall-backs, phases, provenance. Parts that
// the report does not have are left out. Ends with a newline.
std::string ReportText(const v1::Report& report, const v1::Job& job);

// One self-contained HTML page: inline style and SVG, no script, nothing loaded from anywhere (a content security
// policy in the page says so too); every text from the report is escaped.
std::string ReportHtml(const v1::Report& report, const v1::Job& job);

// A row of the headline table, shared by both forms: original against quantized.
struct HeadlineRow {
  std::string name;      // "top-1 accuracy, %"
  std::string original;  // "-" where it has none
  std::string quantized;
  std::string change;  // "-0.12 (95 %: -0.40 to +0.16)", "3.3x smaller"
};
std::vector<HeadlineRow> Headline(const v1::Report& report);

// The order of layers from worst to best by SQNR; a NaN is worst of all (and keeps sorting well-defined).
double SqnrKey(const v1::Layer& layer);

// "quantize static", "benchmark": what the job did.
std::string JobTitle(const v1::Job& job);

}  // namespace quant

#endif  // QUANT_CLIENT_REPORT_VIEW_H_

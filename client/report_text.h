// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_CLIENT_REPORT_TEXT_H_
#define QUANT_CLIENT_REPORT_TEXT_H_

#include <string>

namespace quant {

namespace v1 {
class Job;
class Report;
}  // namespace v1

// A report as plain text of at most 100 columns: headline table, notes, worst layers, fall-backs, phases, provenance.
// Parts that the report does not have are left out. Ends with a newline.
std::string ReportText(const v1::Report& report, const v1::Job& job);

}  // namespace quant

#endif  // QUANT_CLIENT_REPORT_TEXT_H_

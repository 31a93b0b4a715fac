// SPDX-License-Identifier: Apache-2.0
// The charts of a report's page: inline SVG and coloured cells. Each appends a section to the page, or nothing where
// the report does not have what it shows. Internal to common/view.
#ifndef QUANT_COMMON_VIEW_REPORT_CHARTS_H_
#define QUANT_COMMON_VIEW_REPORT_CHARTS_H_

#include <string>

namespace quant {

namespace v1 {
class LatencyPair;
class Report;
class Size;
}  // namespace v1

// Each metric's change with its 95 % interval, around the line of no change.
void AccuracyChart(const v1::Report& report, std::string& out);
// Both sizes as bars.
void SizeChart(const v1::Size& size, std::string& out);
// Both distributions on one axis: mean and standard deviation, median, 95th and 99th percentile.
void LatencyChart(const v1::LatencyPair& pair, std::string& out);
// A cell a layer with its bits; a row a block, where layers are named after blocks.
void BitMap(const v1::Report& report, std::string& out);
// SQNR of the quantized layers as bars, the worst of very many.
void LayerChart(const v1::Report& report, std::string& out);
// Seconds of each phase.
void PhaseChart(const v1::Report& report, std::string& out);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_REPORT_CHARTS_H_

// SPDX-License-Identifier: Apache-2.0
// What a tune job tried (quant.v1.Tuning), as rows that both forms of the report share, and as a plot.
#ifndef QUANT_COMMON_VIEW_TUNING_VIEW_H_
#define QUANT_COMMON_VIEW_TUNING_VIEW_H_

#include <string>
#include <vector>

namespace quant {

namespace v1 {
class Trial;
class Tuning;
}  // namespace v1

// "3 of 5 candidates keep the loss of 1 point; the smallest of them was made: static".
std::string TuningSummary(const v1::Tuning& tuning);

// The metric that candidates are compared by: of the first that made a model; "" where none did.
std::string MetricOf(const v1::Tuning& tuning);

// What is lost: "0.42 points" of an accuracy, "2.8 %" of a perplexity or of outputs.
std::string LossText(const std::string& metric, double drop);

// A candidate. Numbers are "-" where it made no model.
struct TrialRow {
  std::string name;
  std::string size;     // "331 KiB"
  std::string percent;  // of the original's size: "30.5 %"
  std::string metric;   // its value: "80.08"
  std::string loss;     // "0.12 points"
  std::string speed;    // "1.5x", against the original; "-" where no latency was measured
  std::string verdict;  // "chosen", "loses too much", "no model", "on the front"; "" for what another one beats
};
std::vector<TrialRow> TrialRows(const v1::Tuning& tuning);

// Loss against size, or against latency where that was the objective, as an SVG element: every candidate by its number
// from 1 on, the Pareto front as a line, the loss that was accepted as another. "" for fewer than two models.
std::string ParetoPlot(const v1::Tuning& tuning);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_TUNING_VIEW_H_

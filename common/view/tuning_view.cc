// SPDX-License-Identifier: Apache-2.0
#include "common/view/tuning_view.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/strings.h"
#include "common/view/human.h"
#include "common/view/report_view.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

const v1::Trial* ChosenOf(const v1::Tuning& tuning) {
  const auto it = std::find_if(tuning.trials().begin(), tuning.trials().end(),
                               [](const v1::Trial& trial) { return trial.chosen(); });
  return it == tuning.trials().end() ? nullptr : &*it;
}

std::string Verdict(const v1::Trial& trial) {
  if (!trial.error().empty()) return "no model";
  if (trial.chosen()) return trial.within() ? "chosen" : "chosen, loses too much";
  if (!trial.within()) return "loses too much";
  return trial.pareto() ? "on the front" : "";
}

}  // namespace

std::string MetricOf(const v1::Tuning& tuning) {
  for (const v1::Trial& trial : tuning.trials()) {
    if (trial.error().empty()) return trial.metric().name();
  }
  return "";
}

std::string LossText(const std::string& metric, double drop) {
  if (absl::StartsWith(metric, "top1")) return absl::StrCat(absl::StrFormat("%.2f", drop), " points");
  return absl::StrCat(Significant(100 * drop), " %");
}

std::string TuningSummary(const v1::Tuning& tuning) {
  const v1::Trial* const chosen = ChosenOf(tuning);
  if (chosen == nullptr) return "";
  const auto within = std::count_if(tuning.trials().begin(), tuning.trials().end(),
                                    [](const v1::Trial& trial) { return trial.within(); });
  const std::string loss = LossText(chosen->metric().name(), tuning.max_drop());
  const char* const what = tuning.objective() == v1::TUNE_OBJECTIVE_LATENCY ? "fastest" : "smallest";
  if (!tuning.met()) {
    return absl::StrCat("None of ", tuning.trials_size(), " candidates keeps the loss of ", loss,
                        "; the one that loses least was made: ", chosen->name());
  }
  return absl::StrCat(within, " of ", tuning.trials_size(), " candidates keep", within == 1 ? "s" : "", " the loss of ",
                      loss, within == 1 ? "; it was made: " : absl::StrCat("; the ", what, " of them was made: "),
                      chosen->name());
}

std::vector<TrialRow> TrialRows(const v1::Tuning& tuning) {
  std::vector<TrialRow> rows;
  for (const v1::Trial& trial : tuning.trials()) {
    TrialRow row{trial.name(), "-", "-", "-", "-", "-", Verdict(trial)};
    if (trial.error().empty()) {
      const auto original = static_cast<double>(trial.size().original_bytes());
      row.size = HumanBytes(trial.size().quantized_bytes());
      if (original > 0) {
        row.percent = absl::StrFormat("%.1f %%", 100 * static_cast<double>(trial.size().quantized_bytes()) / original);
      }
      row.metric = MetricValue(trial.metric(), trial.metric().quantized());
      row.loss = LossText(trial.metric().name(), trial.drop());
      const double before = trial.latency().original().p50_ms(), after = trial.latency().quantized().p50_ms();
      if (before > 0 && after > 0) row.speed = absl::StrFormat("%.2fx", before / after);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace quant

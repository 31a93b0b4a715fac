// SPDX-License-Identifier: Apache-2.0
// The candidates of a tune job against each other: what each loses, which are on the Pareto front, which one is best.
#ifndef QUANT_WORKER_JOB_TRIALS_H_
#define QUANT_WORKER_JOB_TRIALS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/recipe.pb.h"
#include "quant/v1/report.pb.h"

namespace quant {

// The metric that candidates are compared by, and what is lost of it (report.proto, Trial.metric and Trial.drop).
struct Loss {
  quant::v1::Metric metric;
  double drop = 0;
};
// INVALID_ARGUMENT: the report has none of the metrics. FAILED_PRECONDITION: the loss is not a finite number, so the
// model is of no use.
absl::StatusOr<Loss> LossOf(const quant::v1::Report& report);

// TuneSpec.max_drop, or its default for the metric: 1 point of top1, else 0.05.
double MaxDrop(const quant::v1::TuneSpec& spec, const std::string& metric);

// The numbers of a candidate whose job ended with `report`.
quant::v1::Trial TrialOf(const quant::v1::Report& report, const Loss& loss);

// Whether `a` is to be chosen before `b`, both without an error. A strict weak order: who keeps `max_drop` comes before
// who does not; among the former the objective decides in whole percent of the original, then the loss; among the
// latter the loss; then the size.
bool IsBetter(const quant::v1::Trial& a, const quant::v1::Trial& b, const quant::v1::Tuning& tuning);

// Sets `within`, `pareto` and `chosen` of all trials, and `met`. REQUIRES: a trial without an error.
void Judge(quant::v1::Tuning* tuning);

// Short names, each different from the others: the method and what is set besides, "gptq 4 bits g128".
std::vector<std::string> TrialNames(const std::vector<quant::v1::Recipe>& candidates);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_TRIALS_H_

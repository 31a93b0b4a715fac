// SPDX-License-Identifier: Apache-2.0
// What the pages show of jobs, workers, models and datasets. Internal to server/pages.
#ifndef QUANT_SERVER_PAGES_PAGE_PARTS_H_
#define QUANT_SERVER_PAGES_PAGE_PARTS_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/workers.pb.h"
#include "server/pages/page_html.h"

namespace quant {

Markup JobRows(const std::vector<v1::Job>& jobs, absl::Time now);
Markup WorkerRows(const std::vector<v1::Worker>& workers, absl::Time now);
Markup ModelRows(const std::vector<v1::Model>& models, absl::Time now);
Markup DatasetRows(const std::vector<v1::Dataset>& datasets, absl::Time now);

// Links to the lists of one state each; `state` is the present one ("running", "" for all).
Markup StateFilter(const std::string& state);

// What a job names, with names and links.
struct JobNames {
  Markup model, result, calibration, evaluation;
};
// The page of a job above its report: heading, progress, error, facts, specification.
Markup JobFacts(const v1::Job& job, const JobNames& names, absl::Time now);
Markup ModelFacts(const v1::Model& model);
Markup DatasetFacts(const v1::Dataset& dataset);

}  // namespace quant

#endif  // QUANT_SERVER_PAGES_PAGE_PARTS_H_

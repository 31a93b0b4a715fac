// SPDX-License-Identifier: Apache-2.0
#include "common/view/job_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/proto_time.h"
#include "common/strings.h"
#include "common/view/human.h"
#include "common/view/method_name.h"
#include "common/view/proto_fields.h"
#include "quant/v1/jobs.pb.h"

namespace quant {

std::string JobTitle(const v1::Job& job) {
  const v1::JobSpec& spec = job.spec();
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      return absl::StrCat("quantize ", AbslView(MethodName(spec.quantize().recipe())));
    case v1::JobSpec::kAnalyze:
      return absl::StrCat("analyze ", AbslView(MethodName(spec.analyze().recipe())));
    case v1::JobSpec::kCalibrate:
      return "calibrate";
    case v1::JobSpec::kBenchmark:
      return "benchmark";
    case v1::JobSpec::kTune:
      return "tune";
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
  return "job";
}

std::string StateName(const v1::Job& job) { return ShortEnumName(*v1::JobState_descriptor(), job.state()); }

bool IsSettled(const v1::Job& job) {
  return job.state() == v1::JOB_STATE_SUCCEEDED || job.state() == v1::JOB_STATE_FAILED ||
         job.state() == v1::JOB_STATE_CANCELLED || job.state() == v1::JOB_STATE_DEAD;
}

std::string RunTime(const v1::Job& job, absl::Time now) {
  if (!job.has_start_time()) return "-";
  const absl::Time end = job.has_end_time() && IsSettled(job) ? FromProto(job.end_time()) : now;
  return HumanDuration(std::max(end - FromProto(job.start_time()), absl::ZeroDuration()));
}

std::string ErrorText(const v1::JobError& error) {
  return absl::StrCat(error.reason(), error.phase().empty() ? "" : absl::StrCat(" in ", error.phase()), ": ",
                      error.message());
}

std::string ProgressText(const v1::Job& job, absl::Time now) {
  if (job.state() == v1::JOB_STATE_RETRY_WAIT && job.has_retry_time()) {
    return absl::StrCat("tries again in ",
                        HumanDuration(std::max(FromProto(job.retry_time()) - now, absl::ZeroDuration())));
  }
  if (job.state() != v1::JOB_STATE_RUNNING && job.state() != v1::JOB_STATE_CANCELLING) return "";
  if (job.progress().phase().empty()) return "starting";
  return absl::StrFormat("%s %d%%", job.progress().phase(), static_cast<int>(100 * job.progress().fraction()));
}

std::string ProgressFigures(const v1::Progress& progress) {
  const bool bytes = progress.unit() == "bytes";
  std::string text;
  const auto add = [&](const std::string& part) { absl::StrAppend(&text, text.empty() ? "" : ", ", part); };
  if (progress.total() > 0) {
    add(bytes ? absl::StrCat(HumanBytes(progress.done()), " of ", HumanBytes(progress.total()))
              : absl::StrCat(progress.done(), " of ", progress.total(), " ", progress.unit()));
  }
  if (progress.rate() > 0) {
    const double rate = progress.rate();
    if (bytes) {
      add(absl::StrCat(HumanBytes(static_cast<int64_t>(std::min(rate, 1e18))), "/s"));
    } else if (rate >= 0.1) {
      add(absl::StrCat(Significant(rate), " ", progress.unit(), "/s"));
    } else {  // a layer takes a minute: "1.5 layers/min" says more than "0.025 layers/s"
      add(absl::StrCat(Significant(60 * rate), " ", progress.unit(), "/min"));
    }
  }
  if (progress.has_remaining()) add(absl::StrCat(HumanDuration(FromProto(progress.remaining())), " left"));
  return text;
}

}  // namespace quant

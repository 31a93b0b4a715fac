// SPDX-License-Identifier: Apache-2.0
#include "server/store/job_store.h"

namespace quant {

std::string_view JobKindName(const v1::JobSpec& spec) {
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      return "quantize";
    case v1::JobSpec::kCalibrate:
      return "calibrate";
    case v1::JobSpec::kBenchmark:
      return "benchmark";
    case v1::JobSpec::kAnalyze:
      return "analyze";
    case v1::JobSpec::kTune:
      return "tune";
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
  return "";
}

}  // namespace quant

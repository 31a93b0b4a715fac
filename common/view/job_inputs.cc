// SPDX-License-Identifier: Apache-2.0
#include "common/view/job_inputs.h"

#include "quant/v1/jobs.pb.h"

namespace quant {

JobInputs InputsOf(const v1::JobSpec& spec) {
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      return {.model = spec.quantize().model_id(),
              .baseline = "",
              .calibration = spec.quantize().calibration_dataset_id(),
              .evaluation = spec.quantize().evaluation_dataset_id()};
    case v1::JobSpec::kCalibrate:
      return {.model = spec.calibrate().model_id(),
              .baseline = "",
              .calibration = spec.calibrate().dataset_id(),
              .evaluation = ""};
    case v1::JobSpec::kBenchmark:
      return {.model = spec.benchmark().model_id(),
              .baseline = spec.benchmark().baseline_model_id(),
              .calibration = "",
              .evaluation = spec.benchmark().dataset_id()};
    case v1::JobSpec::kAnalyze:
      return {.model = spec.analyze().model_id(),
              .baseline = "",
              .calibration = spec.analyze().dataset_id(),
              .evaluation = ""};
    case v1::JobSpec::kTune:
      return {.model = spec.tune().model_id(),
              .baseline = "",
              .calibration = spec.tune().calibration_dataset_id(),
              .evaluation = spec.tune().evaluation_dataset_id()};
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
  return {};
}

bool MakesModel(const v1::JobSpec& spec) { return spec.has_quantize() || spec.has_tune(); }

}  // namespace quant

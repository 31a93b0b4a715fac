// SPDX-License-Identifier: Apache-2.0
// What a job reads and whether it makes a model, the same way for every kind.
#ifndef QUANT_COMMON_VIEW_JOB_INPUTS_H_
#define QUANT_COMMON_VIEW_JOB_INPUTS_H_

#include <string>

namespace quant {

namespace v1 {
class JobSpec;
}  // namespace v1

// Ids as the spec has them; empty where the kind or this job has none.
struct JobInputs {
  std::string model;
  std::string baseline;
  std::string calibration;
  std::string evaluation;
};
JobInputs InputsOf(const v1::JobSpec& spec);

// Whether a job of this kind ends with a model: quantize and tune.
bool MakesModel(const v1::JobSpec& spec);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_JOB_INPUTS_H_

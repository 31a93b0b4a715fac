// SPDX-License-Identifier: Apache-2.0
// Mixture of experts (Shazeer et al. 2017, arXiv 1701.06538) in standard operators:
//
//   y = sum over experts e of w_e(x) * expert_e(x)
//
// where w is the softmax over all experts of the router's products, kept for the `per_token` greatest (renormalised to
// sum 1 with `normalize`) and 0 for the others. The graph says that every expert sees every token; which tokens an
// expert serves is where its weight is not 0.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_MOE_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_MOE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/decoder.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

struct Experts {
  int64_t count = 0;
  int64_t per_token = 0;  // at most count
  int64_t intermediate = 0;
  bool normalize = false;
  std::string act;
  GatedNames names;
};

// The experts `module`.experts.N behind the router `module`.gate, [count, hidden].
absl::StatusOr<std::string> MixtureOfExperts(Decoder& decoder, const std::string& module, const std::string& x,
                                             const Experts& experts);

}  // namespace quant::huggingface

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_MOE_H_

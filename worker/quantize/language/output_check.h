// SPDX-License-Identifier: Apache-2.0
// AWQ's own measure (Lin et al. 2023, arXiv 2306.00978, section 3.2; llm-awq runs the sub-block forward for each
// candidate): how far a block's outputs move when the layers of one input are rounded to nearest as they stand, the
// rest of the block being left as it is. The search itself compares candidates by the quadratic form, which is exact
// for the layers' outputs and blind to what comes after them (the softmax after q and k); this checks its choice.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_OUTPUT_CHECK_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_OUTPUT_CHECK_H_

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/hidden_states.h"
#include "worker/quantize/language/block.h"
#include "worker/quantize/weight_only/grid.h"

namespace quant {

class OutputCheck {
 public:
  // Runs `block`, not quantized, on some of the samples. `hidden` and `windows` outlive this. Memory: the outputs of
  // the samples in float32.
  static absl::StatusOr<OutputCheck> Create(const DecoderBlock& block, const HiddenStates& hidden, TokenWindows windows,
                                            std::vector<size_t> samples, int threads);

  // The sum of squared differences from those outputs when the layers of `group` in `block`, whose function is the
  // same, are rounded to nearest. Cost: one run of the block per sample.
  absl::StatusOr<double> Error(DecoderBlock block, const InputGroup& group, const weight_only::GridOptions& grid) const;

 private:
  OutputCheck(const HiddenStates& hidden, TokenWindows windows, std::vector<size_t> samples, int threads)
      : hidden_(&hidden), windows_(windows), samples_(std::move(samples)), threads_(threads) {}

  const HiddenStates* hidden_;
  TokenWindows windows_;
  std::vector<size_t> samples_;
  int threads_;
  std::vector<std::vector<float>> outputs_;  // of each sample
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_OUTPUT_CHECK_H_

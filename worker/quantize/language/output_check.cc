// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/output_check.h"

#include <span>
#include <string>
#include <utility>

#include "common/status_macros.h"
#include "worker/graph/linear.h"
#include "worker/quantize/weight_only/rtn.h"

namespace quant {

absl::StatusOr<OutputCheck> OutputCheck::Create(const DecoderBlock& block, const HiddenStates& hidden,
                                                TokenWindows windows, std::vector<size_t> samples, int threads) {
  OutputCheck check(hidden, windows, std::move(samples), threads);
  const std::vector<std::string> out = {block.output()};
  ASSIGN_OR_RETURN(BlockRunner runner, block.Runner(out, threads));
  for (const size_t s : check.samples_) {
    ASSIGN_OR_RETURN(const std::span<const Tensor> y, runner.Run(hidden, s, windows[s]));
    const std::span<const float> values = y[0].data<float>();
    check.outputs_.emplace_back(values.begin(), values.end());
  }
  return check;
}

absl::StatusOr<double> OutputCheck::Error(DecoderBlock block, const InputGroup& group,
                                          const weight_only::GridOptions& grid) const {
  for (const Linear& linear : group.linears) {
    ASSIGN_OR_RETURN(const std::vector<float> weights, LinearWeights(block.graph(), linear));
    ASSIGN_OR_RETURN(GroupedMatrix rounded,
                     weight_only::QuantizeRtn({weights, linear.rows, linear.cols}, grid, {}, threads_));
    RETURN_IF_ERROR(ReplaceLinear(&block.graph(), linear.name, std::move(rounded)));
  }
  const std::vector<std::string> out = {block.output()};
  ASSIGN_OR_RETURN(BlockRunner runner, block.Runner(out, threads_));
  double error = 0;
  for (size_t i = 0; i < samples_.size(); ++i) {
    const size_t s = samples_[i];
    ASSIGN_OR_RETURN(const std::span<const Tensor> y, runner.Run(*hidden_, s, windows_[s]));
    const std::span<const float> values = y[0].data<float>();
    for (size_t k = 0; k < values.size(); ++k) {
      const double d = static_cast<double>(values[k]) - outputs_[i][k];
      error += d * d;
    }
  }
  return error;
}

}  // namespace quant

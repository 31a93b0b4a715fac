// SPDX-License-Identifier: Apache-2.0
// One decoder block of a language model, cut out of its graph at the residual stream, and how calibration samples run
// through parts of it.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_BLOCK_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_BLOCK_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/calibrate/hidden_states.h"
#include "worker/calibrate/progress.h"
#include "worker/graph/graph.h"
#include "worker/graph/linear.h"

namespace quant {

using TokenWindows = std::span<const std::vector<int32_t>>;

// Linear layers that read one value: they share its statistics.
struct InputGroup {
  std::string input;
  std::vector<Linear> linears;  // in graph order
};

// Thread-compatible.
class DecoderBlock {
 public:
  // The part of `model` between two values of the residual stream. INVALID_ARGUMENT: the graph lacks one, or the part
  // needs inputs besides `input` and input_ids.
  static absl::StatusOr<DecoderBlock> Cut(const Graph& model, const std::string& input, const std::string& output);

  const std::string& input() const { return input_; }
  const std::string& output() const { return output_; }
  Graph& graph() { return graph_; }
  const Graph& graph() const { return graph_; }

  // In graph order of their first layers; what is quantized already is not in it.
  std::vector<InputGroup> Groups() const;

  // Called with the sample's number and the values asked for, float32 [1, tokens, width], valid during the call.
  using OnSample = std::function<absl::Status(size_t sample, std::span<const Tensor> values)>;

  // Runs every sample as far as `values` need (names of this block's values; the input itself is allowed). `tokens` are
  // the samples' ids: positions follow from their number.
  absl::Status Run(const HiddenStates& hidden, TokenWindows tokens, std::span<const std::string> values, int threads,
                   const OnSample& on_sample, const ProgressFn& progress) const;

 private:
  std::string input_;
  std::string output_;
  Graph graph_;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_BLOCK_H_

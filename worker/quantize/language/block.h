// SPDX-License-Identifier: Apache-2.0
// One decoder block of a language model, cut out of its graph at the residual stream, and how calibration samples run
// through parts of it.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_BLOCK_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_BLOCK_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/calibrate/hidden_states.h"
#include "worker/graph/graph.h"
#include "worker/graph/linear.h"
#include "worker/runtime/executable.h"

namespace quant {

using TokenWindows = std::span<const std::vector<int32_t>>;

// Linear layers that read one value: they share its statistics.
struct InputGroup {
  std::string input;
  std::vector<Linear> linears;  // in graph order
};

// Part of a block, compiled: the values it was made for, sample by sample. Thread-compatible.
class BlockRunner {
 public:
  // The values for sample `sample` of `hidden`, float32 [1, tokens, width], valid until the next Run. `ids` are the
  // sample's tokens: positions follow from their number.
  absl::StatusOr<std::span<const Tensor>> Run(const HiddenStates& hidden, size_t sample, std::span<const int32_t> ids);

 private:
  friend class DecoderBlock;

  std::string input_;
  std::vector<std::string> values_;
  std::vector<std::string> inputs_;         // of the executable, by name
  std::unique_ptr<Executable> executable_;  // null: only the block's input is asked for
  std::vector<Tensor> shown_;
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

  // Computes `values` (names of this block's values; the input itself is allowed), and no more than they need.
  absl::StatusOr<BlockRunner> Runner(std::span<const std::string> values, int threads) const;

 private:
  std::string input_;
  std::string output_;
  Graph graph_;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_BLOCK_H_

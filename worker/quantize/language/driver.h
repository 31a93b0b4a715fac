// SPDX-License-Identifier: Apache-2.0
// The block-sequential driver: quantizes a language model block by block, each on the outputs of the already quantized
// blocks before it (Frantar et al. 2023, section 4; design.md section 4).
//
//   ASSIGN_OR_RETURN(BlockDriver driver, BlockDriver::Create(model.graph, model.cuts, windows, options));
//   while (!driver.done()) {
//     ASSIGN_OR_RETURN(BlockResult block, driver.Next(progress));
//     ... write block.layers and driver.state() ...
//   }
//
// A block, in order: its input groups (layers that read one value) one after the other; of each, the samples run up to
// the group's input through what is quantized so far (true-sequential), one Hessian is gathered for all its layers,
// each is quantized, and its quantized form takes its place; at the end the samples run through the whole quantized
// block.
//
// Never worse: every eighth sample is held out. On them each layer is judged beside round to nearest on the same grid,
// by the error of its outputs; where the method is not better, round to nearest is kept and the outcome says so.
//
// Experts of a mixture learn from all tokens, since each computes all of them (graph/routing.h); how many were routed
// to each is told.
//
// With `compensate` the original model runs beside the quantized one, and GPTQ quantizes the weights that make good
// what the layers before have done to the inputs (weight_only/input_error.h); the error that judges is then against the
// original's outputs.
//
// Memory: the hidden states (bfloat16, twice with `compensate`, spilled beyond a quarter of the budget), one block's
// weights as float32 a layer at a time, and for the widest input of C columns 2 Hessians, 2 cross moments and 2
// factors: about 24 C^2 bytes, and 8 C^2 of work where C is at most 4096. The same model, samples, options and
// instruction set give the same bits, for any number of threads and whether or not the work was resumed in between.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_DRIVER_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_DRIVER_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/calibrate/hidden_states.h"
#include "worker/calibrate/progress.h"
#include "worker/quantize/language/block.h"
#include "worker/quantize/language/linear_method.h"
#include "worker/quantize/quantize.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

// A layer's new weights, or only its outcome where it stays in floating point.
struct QuantizedLayer {
  LayerOutcome outcome;
  std::optional<WeightMatrix> weights;
  double relative_error = 0;  // sqrt(tr(D H D^T) / tr(W H W^T)) on held-out samples (all, where none are held out)
};

// Fills method, bits, group size, fall-back, error and weights from a method's result.
void Describe(LinearResult result, QuantizedLayer* layer);

struct BlockResult {
  int64_t block = 0;
  std::vector<QuantizedLayer> layers;     // in graph order
  std::map<std::string, Tensor> changed;  // other tensors with new content (norms and rows that AWQ scaled), by name
  std::vector<std::string> notes;
};

struct DriverOptions {
  // What becomes of each linear layer of a block.
  std::function<LinearMethod(const Linear& linear)> method_of;
  bool true_sequential = true;
  bool compensate = true;  // for GPTQ
  int threads = 0;
  int64_t memory_bytes = 0;  // of the job; 0: no limit
  std::filesystem::path spill_folder;
};

// Thread-compatible.
class BlockDriver {
 public:
  // Runs the samples through what comes before the first block. `cuts` are the residual stream's values (blocks + 1).
  // `windows` are the calibration samples, each at least one token; they outlive the driver, as does `model`.
  // INVALID_ARGUMENT: no samples; RESOURCE_EXHAUSTED: no room for the hidden states.
  static absl::StatusOr<BlockDriver> Create(const Graph& model, std::vector<std::string> cuts, TokenWindows windows,
                                            DriverOptions options, const ProgressFn& progress);

  bool done() const { return next_ + 1 >= static_cast<int64_t>(cuts_.size()); }
  int64_t next() const { return next_; }
  int64_t blocks() const { return static_cast<int64_t>(cuts_.size()) - 1; }

  // Quantizes the next block. INVALID_ARGUMENT: a weight or activation is NaN or infinite (named); what methods return.
  absl::StatusOr<BlockResult> Next(const ProgressFn& progress);

  // The hidden states before block next(): with the results so far, all that a resumed run needs.
  std::span<const std::byte> state() const { return hidden_.bytes(); }
  // Goes on at block `next` with such a state. INVALID_ARGUMENT: another size.
  absl::Status Restore(int64_t next, std::span<const std::byte> state);

 private:
  BlockDriver(const Graph& model, std::vector<std::string> cuts, TokenWindows windows, DriverOptions options,
              HiddenStates hidden);
  // Runs the samples through a whole block, in place, the sample's states lying `offset` behind its number.
  absl::Status Advance(const DecoderBlock& block, size_t offset);

  const Graph* model_;
  std::vector<std::string> cuts_;
  TokenWindows windows_;
  DriverOptions options_;
  HiddenStates hidden_;  // of each sample in the quantized model; then, with `compensate`, of each in the original one
  int64_t next_ = 0;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_DRIVER_H_

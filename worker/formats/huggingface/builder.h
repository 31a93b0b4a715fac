// SPDX-License-Identifier: Apache-2.0
// From a Hugging Face checkpoint to a Graph: what nothing outside this folder needs to know about model families.
//
//   ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(folder));
//   ASSIGN_OR_RETURN(LanguageModel model, BuildLanguageModel(*checkpoint, {}));
//
// The graph computes in float32 with standard operators of opset 23: input `input_ids` int64 [batch, sequence], output
// `logits` float32 [batch, sequence, vocab]; attention is causal, rows of a batch are equally long. Weights are the
// checkpoint's mapped tensors under their own names, in their own type, borrowed: Cast nodes stand where they are read.
// A linear layer's node has its module's name (worker/graph/linear.h); quantized checkpoints give quantized layers.
// docs/formats/huggingface.md lists the families and the keys of config.json that are honoured.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_BUILDER_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_BUILDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/graph/graph.h"

namespace quant {

struct LanguageModel {
  Graph graph;
  // The residual stream, float32 [batch, sequence, hidden]: after the embedding, then after each decoder block
  // (layers + 1 values). Nothing else that depends on weights of a block crosses a cut: positions, rotary tables and
  // masks follow from the shapes of the graph's inputs and from constants.
  std::vector<std::string> cuts;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t layers = 0;
  int64_t max_positions = 0;  // tokens that learned positions reach, or max_position_embeddings
};

struct BuildOptions {
  // Adds inputs past_key.N and past_value.N, float32 [batch, kv_heads, past, head_dim], and outputs present_key.N and
  // present_value.N, the same with past + sequence, per block N in order. input_ids then holds the new tokens only;
  // past may be 0. Inputs: input_ids, past_key.0, past_value.0, past_key.1, ...; outputs alike.
  bool kv_cache = false;
};

// UNIMPLEMENTED: model_type or another value of config.json is not known (the message lists the known ones), or weights
// of a type other than float32, float16, bfloat16. INVALID_ARGUMENT: config.json is malformed or a size in it beyond
// the caps of decoder.h; a tensor is missing or has another shape (named, with the shape wanted); a decoder block holds
// a tensor that the family does not have. Allocates nothing in proportion to sizes that only config.json claims.
absl::StatusOr<LanguageModel> BuildLanguageModel(const Checkpoint& checkpoint, const BuildOptions& options);

// The values of model_type that BuildLanguageModel knows, sorted.
std::vector<std::string> KnownModelTypes();

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_BUILDER_H_

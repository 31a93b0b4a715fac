// SPDX-License-Identifier: Apache-2.0
// Decoder: the parts that language models are put together from, each a few nodes appended to one graph. A family
// (families.h) reads its keys of config.json and calls these in its order.
//
// Every function that takes a module's name takes it as in the checkpoint, without ".weight"; values it returns are
// float32 [batch, sequence, features] unless it says otherwise. Errors are those of BuildLanguageModel (builder.h).
//
// Thread-safety: thread-compatible.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_DECODER_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_DECODER_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/formats/huggingface/rope.h"

namespace quant::huggingface {

// Caps on what config.json may claim, several times what published models have; every size is also checked against the
// tensors before anything is made from it. rope.h has the cap on positions.
inline constexpr int64_t kMaxVocab = int64_t{1} << 22;
inline constexpr int64_t kMaxHidden = int64_t{1} << 16;  // also heads * head_dim
inline constexpr int64_t kMaxIntermediate = int64_t{1} << 20;
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 4096;
inline constexpr int64_t kMaxExperts = 1024;

struct Sizes {
  int64_t vocab = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_positions = 0;
};

// The keys most families share: vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads
// (default: heads), head_dim (default: `head_dim`, or if that is 0 hidden / heads), max_position_embeddings.
absl::StatusOr<Sizes> ReadSizes(const Checkpoint& checkpoint, int64_t default_max_positions, int64_t head_dim = 0);

// An integer of config.json that must be there, from 1 to `greatest`.
absl::StatusOr<int64_t> Size(const Checkpoint& checkpoint, std::string_view key, int64_t greatest);

// A number of config.json that may not be negative: an epsilon, a cap.
absl::StatusOr<double> NonNegative(const Checkpoint& checkpoint, std::string_view key, double otherwise);

// kWhereStored: used where the checkpoint has the tensor (GPTQ writers store zero biases for layers that have none).
enum class Bias { kNeeded, kWhereStored };

enum class NormKind {
  kRms,         // RMSNorm: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)
  kRmsPlusOne,  // the same with 1 + weight: Gemma
  kLayer,       // LayerNorm with weight and bias
};

struct AttentionOptions {
  double scale = 0;    // of the products; 0: head_dim^-0.5
  double softcap = 0;  // 0: none; products become softcap * tanh(products / softcap), then they are masked
  int64_t window = 0;  // 0: none; else a query sees itself and the window - 1 positions before
};

class Decoder {
 public:
  // `prefixes`: what may stand in front of `probe`, a tensor every checkpoint of the family has; the first one found
  // becomes prefix(). The graph gets its inputs.
  static absl::StatusOr<Decoder> Create(const Checkpoint& checkpoint, const BuildOptions& options, const Sizes& sizes,
                                        const std::vector<std::string>& prefixes, const std::string& probe);

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const Sizes& sizes() const { return sizes_; }
  const std::string& prefix() const { return prefix_; }

  // ---- tensors and single nodes

  // The checkpoint's tensor, which must be a float one of this shape, as a float32 value.
  absl::StatusOr<std::string> Weight(const std::string& tensor, const Shape& shape);
  // A node with one output, which has the node's name.
  std::string Add(std::string_view name, const std::string& op, std::vector<std::string> inputs,
                  std::map<std::string, Attribute> attributes = {});
  std::string Constant(std::string_view name, Tensor value);
  std::string Scalar(float value);

  // ---- layers

  // x [.., cols] -> [.., rows]: [rows, cols] weights (with `conv1d` stored as [cols, rows], as GPT-2 does), quantized
  // if the checkpoint has them so.
  absl::StatusOr<std::string> Linear(const std::string& module, const std::string& x, int64_t rows, int64_t cols,
                                     Bias bias = Bias::kWhereStored, bool conv1d = false);
  // Splits the last axis into parts of these sizes.
  std::vector<std::string> Split(std::string_view name, const std::string& x, const std::vector<int64_t>& sizes);
  // Gives x [batch, sequence, ..] the last axes `last`.
  std::string Reshape(std::string_view name, const std::string& x, std::vector<int64_t> last);
  // Appends a node that has several outputs, and nothing else.
  void Append(Node node) { graph_.nodes.push_back(std::move(node)); }
  // Over the last axis of any rank, whose size is `features`.
  absl::StatusOr<std::string> Norm(const std::string& module, const std::string& x, int64_t features, NormKind kind,
                                   double eps);
  // hidden_act by its Transformers name.
  absl::StatusOr<std::string> Activation(std::string_view name, const std::string& act, const std::string& x);
  // cap * tanh(x / cap).
  std::string SoftCap(std::string_view name, const std::string& x, double cap);

  // ---- positions

  // Rows of a table of positions: float32 [sequence, hidden], to be added to a [batch, sequence, hidden].
  absl::StatusOr<std::string> LearnedPositions(const std::string& module, int64_t rows, int64_t offset);
  // Turns x [.., heads * head_dim]; a decoder has one rope.
  std::string Rotate(std::string_view name, const Rope& rope, const std::string& x, int64_t heads);

  // ---- attention over q [.., heads * head_dim] and k, v [.., kv_heads * head_dim] of block `layer`
  std::string Attention(int64_t layer, const std::string& module, const std::string& q, const std::string& k,
                        const std::string& v, const AttentionOptions& options);

  // ---- ends

  // INVALID_ARGUMENT when tensors whose names begin with `blocks` ("model.layers.") were not read, save the constants
  // that old versions of Transformers stored: the model would compute something else than its author's.
  absl::Status CheckAllRead(const std::string& blocks) const;

  // Rows of the table `module` [vocab, features] by input_ids.
  absl::StatusOr<std::string> Embed(const std::string& module, int64_t features);
  // Marks x as the residual stream after the embedding or after a block.
  void Cut(const std::string& x) { cuts_.push_back(x); }
  // The logits: linear layer lm_head, or the embedding table where `tied`; softcap as in SoftCap, 0 for none. Consumes
  // the decoder.
  absl::StatusOr<LanguageModel> Finish(const std::string& x, const std::string& embedding, int64_t features, bool tied,
                                       double softcap = 0) &&;

 private:
  Decoder(const Checkpoint& checkpoint, const BuildOptions& options, const Sizes& sizes)
      : checkpoint_(&checkpoint), options_(options), sizes_(sizes) {}
  void MakeInputs();
  // Puts the tensor among the initializers.
  absl::Status Take(const std::string& tensor, const Shape& shape);
  void MakePositions();
  void MakeRotary(const Rope& rope);
  // bool [sequence, past + sequence]: keys not before the window of a query; "" for window 0.
  std::string Mask(int64_t window);

  const Checkpoint* checkpoint_;
  BuildOptions options_;
  Sizes sizes_;
  std::string prefix_;
  Graph graph_;
  std::vector<std::string> cuts_;
  std::set<std::string, std::less<>> read_;     // tensors read
  std::set<std::string, std::less<>> modules_;  // quantized modules
  std::string positions_, total_, position_ids_;
  std::set<int64_t> masks_;  // windows that have one
  std::string cos_, sin_;
};

}  // namespace quant::huggingface

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_DECODER_H_

// SPDX-License-Identifier: Apache-2.0
// What llama.cpp must know of a model: the keys of its architecture, the names of its tensors, and the order of rows of
// the query and key projections.
#ifndef QUANT_WORKER_FORMATS_GGUF_ARCHITECTURE_H_
#define QUANT_WORKER_FORMATS_GGUF_ARCHITECTURE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/gguf/gguf_file.h"
#include "worker/formats/huggingface/checkpoint.h"

namespace quant {

struct GgufArchitecture {
  std::string name;  // "llama" (of llama and mistral), "qwen2", "qwen3"
  int64_t vocab_size = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool permutes = false;            // rows of q_proj and k_proj are stored in another order
  GgufKeys keys;                    // general.architecture and <name>.*
  std::vector<float> rope_factors;  // rope_freqs.weight, or empty
  std::vector<std::string> notes;
};

// From config.json. UNIMPLEMENTED: another model_type (the known ones are named), or an activation or rotary positions
// that llama.cpp does not compute in this architecture. INVALID_ARGUMENT: sizes out of range.
absl::StatusOr<GgufArchitecture> ReadGgufArchitecture(const Checkpoint& checkpoint);

// The tensor's name in the file; "" for a tensor that is left out (rotary_emb.inv_freq); nullopt for one that llama.cpp
// does not know.
std::optional<std::string> GgufTensorName(std::string_view name);

// Where row `row` of the tensor `name` (its Hugging Face name) comes from: row itself but for q_proj and k_proj of
// architectures that permute. There, within each head, new row 2j + b is old row b * head_dim / 2 + j.
int64_t GgufSourceRow(const GgufArchitecture& architecture, std::string_view name, int64_t row);

// The reverse: where in the file the checkpoint's row `row` is.
int64_t GgufRowOf(const GgufArchitecture& architecture, std::string_view name, int64_t row);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GGUF_ARCHITECTURE_H_

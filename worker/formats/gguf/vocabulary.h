// SPDX-License-Identifier: Apache-2.0
// A checkpoint's tokenizer as GGUF's metadata hold it: from a SentencePiece model (tokenizer.model) or from a
// tokenizer.json of type BPE, byte-level (GPT-2, Llama 3, Qwen) or with byte fallback (Llama 2, Mistral).
//
// llama.cpp's "llama" tokenizer joins pieces by the score of what they make, not by a list of merges. For a
// tokenizer.json of that kind the score of a token is minus the rank of its first merge, which gives the same tokens
// unless two pieces that no merge names make a token; how many tokens have such a pair is noted.
#ifndef QUANT_WORKER_FORMATS_GGUF_VOCABULARY_H_
#define QUANT_WORKER_FORMATS_GGUF_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/gguf/gguf_file.h"
#include "worker/formats/huggingface/checkpoint.h"

namespace quant {

struct GgufVocabulary {
  std::string model;  // "llama" or "gpt2"
  std::string pre;    // of "gpt2": which way text is split before merging
  std::vector<std::string> tokens;
  std::vector<float> scores;        // of "llama"
  std::vector<int32_t> types;       // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;  // of "gpt2"
  std::optional<uint32_t> bos, eos, unknown, padding;
  bool add_bos = false;
  bool add_eos = false;
  std::optional<bool> add_space_prefix;
  std::string chat_template;
  std::vector<std::string> notes;
};

// The tokenizer of `vocab_size` tokens: ids that the files do not name become "[PADn]", unused.
// NOT_FOUND: there is neither tokenizer.json nor tokenizer.model. INVALID_ARGUMENT: malformed, or more tokens than
// vocab_size. UNIMPLEMENTED: a tokenizer.json of another type than BPE without a tokenizer.model beside it.
absl::StatusOr<GgufVocabulary> ReadGgufVocabulary(const Checkpoint& checkpoint, int64_t vocab_size);

// The keys tokenizer.*.
GgufKeys VocabularyKeys(const GgufVocabulary& vocabulary);

// Pieces of a serialized SentencePiece model. INVALID_ARGUMENT: not such a message.
struct SentencePiece {
  std::string text;
  float score = 0;
  int32_t type = 1;
};
struct SentencePieceModel {
  std::vector<SentencePiece> pieces;
  bool add_dummy_prefix = true;
};
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GGUF_VOCABULARY_H_

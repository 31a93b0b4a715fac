// SPDX-License-Identifier: Apache-2.0
// Text for language models: documents of token ids, from text and a tokenizer or from arrays of ids, and the windows
// that calibration and perplexity run over (docs/formats/datasets.md).
#ifndef QUANT_WORKER_FORMATS_DATASET_TEXT_H_
#define QUANT_WORKER_FORMATS_DATASET_TEXT_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant {

struct TokenDataset {
  std::vector<std::vector<int32_t>> documents;  // none empty
  std::optional<int32_t> bos;                   // what each document begins with, when it was put there by us
};

struct TokenDatasetOptions {
  int64_t max_text_bytes = int64_t{256} << 20;  // of all files together
  int64_t max_tokens = int64_t{64} << 20;
};

// Opens `path`, a folder or one file, for a model whose ids are below `vocab_size`.
// - Arrays (.npy, .npz, .safetensors; integers), when there are any: "input_ids" or "tokens" or the only one;
// [documents,
//   tokens], or [tokens] cut at the starts in "offsets" (which may end with the number of tokens), or [tokens] as one
//   document. "attention_mask", 1 for tokens that count, drops padding. Taken as they are: no BOS is added.
// - Else its .txt files in the order of their names: UTF-8, documents separated by lines of "<|endoftext|>", the line
//   break before such a line and at the end of a file being no part of the text, empty documents left out. Each is
//   tokenized with the tokenizer's BOS, where it has one, in front.
// `tokenizer` may be null when only arrays are to be read.
// INVALID_ARGUMENT: neither arrays nor text, or no document in them; an id outside [0, vocab_size) (value, position and
// limit); malformed arrays or offsets; text that is not UTF-8 (file and byte). FAILED_PRECONDITION: text, but no
// tokenizer. RESOURCE_EXHAUSTED: over `options`, or the tokenizer's limits. NOT_FOUND: no such path.
absl::StatusOr<TokenDataset> OpenTokenDataset(const std::filesystem::path& path, const Tokenizer* tokenizer,
                                              int64_t vocab_size, const TokenDatasetOptions& options = {});

enum class WindowMode {
  kDefault,    // documents when there is more than one, else stream
  kDocuments,  // each document by itself, cut at `length`; those of one token, which predict nothing, left out
  kStream,     // all documents one behind the other with one BOS at the very start, in windows of exactly `length` that
               // do not overlap, what is left at the end dropped
};

struct WindowOptions {
  int64_t length = 2048;  // tokens, at least 2
  WindowMode mode = WindowMode::kDefault;
};

// INVALID_ARGUMENT with the counts: not one window comes out, or `length` is below 2.
absl::StatusOr<std::vector<std::vector<int32_t>>> MakeWindows(const TokenDataset& dataset,
                                                              const WindowOptions& options = {});

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_DATASET_TEXT_H_

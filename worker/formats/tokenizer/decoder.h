// SPDX-License-Identifier: Apache-2.0
// Decoder: tokens back to text. Internal to formats/tokenizer.
//
// Types: ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, WordPiece, BPEDecoder, Sequence. What each does is
// what Hugging Face tokenizers' decoders/ does.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_DECODER_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_DECODER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"

namespace quant::tokenizer {

// Immutable.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // Turns tokens into strings that, one behind the other, are the text.
  virtual absl::Status Apply(std::vector<std::string>& tokens) const = 0;
};

// INVALID_ARGUMENT for wrong keys, UNIMPLEMENTED for other types.
absl::StatusOr<std::unique_ptr<Decoder>> MakeDecoder(const Fields& fields);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_DECODER_H_

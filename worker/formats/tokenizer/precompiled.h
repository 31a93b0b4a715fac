// SPDX-License-Identifier: Apache-2.0
// The Precompiled normalizer: SentencePiece's character map, as converted Unigram models carry it. Internal to
// formats/tokenizer.
//
// Layout after base64 (sentencepiece normalizer.cc): u32 little-endian size of the trie in bytes, the trie, then
// NUL-terminated replacements. The trie is a darts-clone double array of u32 units: bits 0-7 the label, bit 8 whether
// a leaf follows, bit 9 and 10-30 the offset, bit 31 set in a leaf, whose bits 0-30 are the replacement's position.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_PRECOMPILED_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_PRECOMPILED_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"
#include "worker/formats/tokenizer/normalizer.h"

namespace quant::tokenizer {

// From "precompiled_charsmap". As Hugging Face's: each grapheme below 6 bytes, else each of its characters, becomes the
// replacement of its shortest prefix in the map. INVALID_ARGUMENT: not base64, sizes that do not fit; an empty map
// changes nothing.
absl::StatusOr<std::unique_ptr<Normalizer>> MakePrecompiled(const Fields& fields);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_PRECOMPILED_H_

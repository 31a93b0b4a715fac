// SPDX-License-Identifier: Apache-2.0
// PostProcessor: the special tokens around a text. Internal to formats/tokenizer.
//
// Types: TemplateProcessing (its "single"), BertProcessing, RobertaProcessing, ByteLevel (adds none), Sequence.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_POST_PROCESSOR_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_POST_PROCESSOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"

namespace quant::tokenizer {

struct PostProcessor {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

// INVALID_ARGUMENT for wrong keys, UNIMPLEMENTED for other types.
absl::StatusOr<PostProcessor> ReadPostProcessor(const Fields& fields);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_POST_PROCESSOR_H_

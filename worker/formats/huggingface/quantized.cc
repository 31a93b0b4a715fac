// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/quantized.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {

absl::StatusOr<std::optional<WeightMatrix>> ReadQuantizedLinear(const Checkpoint& checkpoint, std::string_view module) {
  if (!checkpoint.Has("quantization_config")) return std::nullopt;
  return absl::UnimplementedError(absl::StrCat("layer ", Quoted(module), ": quant_method ",
                                               Quoted(checkpoint.QuantMethod()),
                                               " is not read; give the unquantized checkpoint"));
}

}  // namespace quant

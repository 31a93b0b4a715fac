// SPDX-License-Identifier: Apache-2.0
// What this build can do of the contract. SubmitJob answers UNIMPLEMENTED for the rest, naming what there is.
#ifndef QUANT_SERVER_QUEUE_CAPABILITIES_H_
#define QUANT_SERVER_QUEUE_CAPABILITIES_H_

#include <string_view>

namespace quant {

// Names of JobKindName.
inline constexpr std::string_view kBuiltKinds[] = {"quantize", "benchmark", "tune"};

// Names of MethodName.
inline constexpr std::string_view kBuiltMethods[] = {"dynamic", "static", "rtn", "gptq", "awq", "nf4", "hqq"};

// Export formats, by the ends of their enum names in lower case.
inline constexpr std::string_view kBuiltFormats[] = {"onnx", "gptq", "awq", "bitsandbytes", "compressed_tensors",
                                                     "gguf"};

// Kinds of checkpoint that jobs can read, by the ends of the names of quant.v1.ModelFormat in lower case.
inline constexpr std::string_view kBuiltModelFormats[] = {"onnx", "hugging_face"};

// Actions of a LayerRule, by field name.
inline constexpr std::string_view kBuiltRuleActions[] = {"skip", "grid", "recipe"};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_CAPABILITIES_H_

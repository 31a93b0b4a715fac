// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_COMMON_VIEW_METHOD_NAME_H_
#define QUANT_COMMON_VIEW_METHOD_NAME_H_

#include <string_view>

namespace quant {

namespace v1 {
class Recipe;
}  // namespace v1

// The method as quantctl names it: "dynamic", "static", "smoothquant", "rtn", "gptq", "awq", "nf4", "llm_int8", "fp16",
// "bf16", "mixed", "hqq"; "" when none is set.
std::string_view MethodName(const v1::Recipe& recipe);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_METHOD_NAME_H_

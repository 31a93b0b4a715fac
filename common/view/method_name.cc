// SPDX-License-Identifier: Apache-2.0
#include "common/view/method_name.h"

#include "quant/v1/recipe.pb.h"

namespace quant {

std::string_view MethodName(const v1::Recipe& recipe) {
  switch (recipe.method_case()) {
    case v1::Recipe::kDynamic:
      return "dynamic";
    case v1::Recipe::kStaticInt8:
      return "static";
    case v1::Recipe::kSmoothquant:
      return "smoothquant";
    case v1::Recipe::kRtn:
      return "rtn";
    case v1::Recipe::kGptq:
      return "gptq";
    case v1::Recipe::kAwq:
      return "awq";
    case v1::Recipe::kNf4:
      return "nf4";
    case v1::Recipe::kLlmInt8:
      return "llm_int8";
    case v1::Recipe::kHalf:
      return recipe.half().type() == v1::HALF_TYPE_BF16 ? "bf16" : "fp16";
    case v1::Recipe::kMixed:
      return "mixed";
    case v1::Recipe::kHqq:
      return "hqq";
    case v1::Recipe::METHOD_NOT_SET:
      break;
  }
  return "";
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/builder.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/huggingface/families.h"

namespace quant {
namespace {

using Build = absl::StatusOr<LanguageModel> (*)(const Checkpoint&, const BuildOptions&);

const std::map<std::string, Build>& Families() {
  static const auto& families = *new std::map<std::string, Build>{
      {"gemma", huggingface::BuildGemma},     {"gemma2", huggingface::BuildGemma2},
      {"gpt2", huggingface::BuildGpt2},       {"llama", huggingface::BuildLlama},
      {"mistral", huggingface::BuildMistral}, {"mixtral", huggingface::BuildMixtral},
      {"opt", huggingface::BuildOpt},         {"phi3", huggingface::BuildPhi3},
      {"qwen2", huggingface::BuildQwen2},     {"qwen2_moe", huggingface::BuildQwen2Moe},
      {"qwen3", huggingface::BuildQwen3},
  };
  return families;
}

}  // namespace

std::vector<std::string> KnownModelTypes() {
  std::vector<std::string> types;
  for (const auto& [type, build] : Families()) types.push_back(type);
  return types;
}

absl::StatusOr<LanguageModel> BuildLanguageModel(const Checkpoint& checkpoint, const BuildOptions& options) {
  if (!checkpoint.Has("model_type")) return absl::InvalidArgumentError("config.json has no model_type");
  ASSIGN_OR_RETURN(const std::string type, checkpoint.String("model_type", ""));
  const auto family = Families().find(type);
  if (family == Families().end()) {
    return absl::UnimplementedError(absl::StrCat("config.json: the model_type ", Quoted(type),
                                                 " is not known; known are ", absl::StrJoin(KnownModelTypes(), ", ")));
  }
  return family->second(checkpoint, options);
}

}  // namespace quant

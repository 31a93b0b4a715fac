// SPDX-License-Identifier: Apache-2.0
// One function per family of models, each in the file of its name.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_FAMILIES_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_FAMILIES_H_

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/huggingface/checkpoint.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildLlama(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildMistral(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildQwen2(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildQwen3(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildGemma(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildGemma2(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildPhi3(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildGpt2(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildOpt(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildMixtral(const Checkpoint& checkpoint, const BuildOptions& options);
absl::StatusOr<LanguageModel> BuildQwen2Moe(const Checkpoint& checkpoint, const BuildOptions& options);

}  // namespace quant::huggingface

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_FAMILIES_H_

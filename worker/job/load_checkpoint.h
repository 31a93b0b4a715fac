// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_JOB_LOAD_CHECKPOINT_H_
#define QUANT_WORKER_JOB_LOAD_CHECKPOINT_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/huggingface/checkpoint.h"

namespace quant {

// Whether the model in `folder` is a checkpoint (a config.json beside safetensors files) rather than an ONNX file.
bool IsLanguageModel(const std::filesystem::path& folder);

struct LoadedCheckpoint {
  std::shared_ptr<const Checkpoint> checkpoint;
  LanguageModel model;  // weights are the checkpoint's mapped bytes
};
// Opens the checkpoint in `folder` and builds its graph. Reasons: MODEL_INVALID, OPERATOR_UNSUPPORTED.
absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const std::filesystem::path& folder);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_LOAD_CHECKPOINT_H_

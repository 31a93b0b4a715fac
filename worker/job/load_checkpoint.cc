// SPDX-License-Identifier: Apache-2.0
#include "worker/job/load_checkpoint.h"

#include <system_error>
#include <utility>

#include "worker/job/job_error.h"
#include "worker/runtime/executable.h"

namespace quant {

namespace fs = std::filesystem;

bool IsLanguageModel(const fs::path& folder) {
  std::error_code error;
  bool onnx = false, safetensors = false;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::end(it); it.increment(error)) {
    onnx = onnx || it->path().extension() == ".onnx";
    safetensors = safetensors || it->path().extension() == ".safetensors";
  }
  return !onnx && (safetensors || fs::exists(folder / "config.json", error));
}

absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const fs::path& folder) {
  LoadedCheckpoint loaded;
  absl::StatusOr<std::shared_ptr<const Checkpoint>> checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return WithJobReason(checkpoint.status(), "MODEL_INVALID");
  loaded.checkpoint = *std::move(checkpoint);
  absl::StatusOr<LanguageModel> model = BuildLanguageModel(*loaded.checkpoint, {});
  if (!model.ok()) {
    return WithJobReason(model.status(),
                         absl::IsUnimplemented(model.status()) ? "OPERATOR_UNSUPPORTED" : "MODEL_INVALID");
  }
  loaded.model = *std::move(model);
  if (absl::Status s = CheckSupported(loaded.model.graph); !s.ok()) return WithJobReason(s, "OPERATOR_UNSUPPORTED");
  return loaded;
}

}  // namespace quant

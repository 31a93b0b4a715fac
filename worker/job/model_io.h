// SPDX-License-Identifier: Apache-2.0
// The job folder's models and datasets as graphs and streams, with errors a user can act on.
#ifndef QUANT_WORKER_JOB_MODEL_IO_H_
#define QUANT_WORKER_JOB_MODEL_IO_H_

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/graph/graph.h"

namespace quant {

// Constants of worker/graph/passes and worker/runtime wired together.
struct LoadedModel {
  std::shared_ptr<const Graph> imported;  // as uploaded
  std::shared_ptr<const Graph> prepared;  // after the passes (BatchNormalization folded, constants folded, ...)
  std::filesystem::path file;             // relative to the model's folder
  std::vector<std::string> notes;
};

// Reads the one .onnx file in `folder` and prepares it. That the passes kept the function is checked on random data: if
// not, `prepared` is the imported graph and a note says so.
// Reasons: MODEL_INVALID, OPERATOR_UNSUPPORTED.
absl::StatusOr<LoadedModel> LoadModel(const std::filesystem::path& folder, int threads);

// Opens a dataset folder for the model. Reason: DATA_MISMATCH.
absl::StatusOr<std::unique_ptr<Dataset>> LoadDataset(const std::filesystem::path& folder, const Graph& graph);

// Bytes of all regular files below `folder`.
int64_t FolderBytes(const std::filesystem::path& folder);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_MODEL_IO_H_

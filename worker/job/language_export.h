// SPDX-License-Identifier: Apache-2.0
// LanguageExport: where a language model's quantized layers go, block by block, and the proof that they got there.
//
//   ASSIGN_OR_RETURN(auto out, LanguageExport::Create(format, checkpoint, model, folder, options));
//   for (block : ...) RETURN_IF_ERROR(out->Add(block));
//   RETURN_IF_ERROR(out->Finish());
//   ASSIGN_OR_RETURN(std::shared_ptr<const Graph> read, out->ReadBack(progress));
//
// Checkpoint formats are written as the blocks come. An ONNX file is one graph: for it and for GGUF the quantized
// layers are kept in memory until the end.
//
// Thread-compatible.
#ifndef QUANT_WORKER_JOB_LANGUAGE_EXPORT_H_
#define QUANT_WORKER_JOB_LANGUAGE_EXPORT_H_

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/calibrate/progress.h"
#include "worker/formats/checkpoint_writer.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/quantize/language/driver.h"

namespace quant {

class LanguageExport {
 public:
  // `folder` receives the files; `checkpoint` and `model` (its graph) outlive this.
  static absl::StatusOr<std::unique_ptr<LanguageExport>> Create(CheckpointFormat format, const Checkpoint& checkpoint,
                                                                const LanguageModel& model,
                                                                const std::filesystem::path& folder,
                                                                const ExportOptions& options);

  // The layers and changed tensors of a block; each block once, in order.
  absl::Status Add(const BlockResult& block);
  // Everything that was not quantized, and the end of the files.
  absl::Status Finish();

  // After Finish: reads every layer from the files and compares its real weights, bit by bit; of ONNX the logits; of
  // GGUF, whose grids may round weights again, within 15 % of their size. DATA_LOSS naming the layer that differs.
  // Checkpoint formats: several layers at a time on OpenMP's threads, which call `progress` one after the other.
  absl::Status Verify(const ProgressFn& progress);

  // After Verify: the model as the files have it, for measuring. With a key/value cache: null for ONNX and GGUF.
  absl::StatusOr<std::shared_ptr<const Graph>> ReadBack(bool kv_cache) const;

  std::vector<std::string> notes() const;

 private:
  LanguageExport(CheckpointFormat format, const Checkpoint& checkpoint, const LanguageModel& model,
                 std::filesystem::path folder)
      : format_(format), checkpoint_(&checkpoint), model_(&model), folder_(std::move(folder)) {}

  absl::Status VerifyGguf(const ProgressFn& progress);
  absl::StatusOr<std::shared_ptr<const Graph>> GgufGraph() const;

  CheckpointFormat format_;
  const Checkpoint* checkpoint_;
  const LanguageModel* model_;
  std::filesystem::path folder_;
  std::unique_ptr<CheckpointWriter> writer_;    // null for ONNX
  std::shared_ptr<Graph> graph_;                // ONNX and GGUF: the model with its quantized layers
  std::map<std::string, std::string> digests_;  // of a layer's real weights, by module
  std::map<std::string, Tensor> changed_;
  bool rounded_again_ = false;  // GGUF: the file's weights are not quite those it was given
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_LANGUAGE_EXPORT_H_

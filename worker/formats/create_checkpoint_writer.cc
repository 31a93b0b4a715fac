// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "worker/formats/awq/awq.h"
#include "worker/formats/bitsandbytes/bitsandbytes.h"
#include "worker/formats/checkpoint_writer.h"
#include "worker/formats/compressed_tensors/compressed_tensors.h"
#include "worker/formats/gguf/gguf_writer.h"
#include "worker/formats/gptq/gptq.h"

namespace quant {

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateCheckpointWriter(CheckpointFormat format,
                                                                         const Checkpoint& source,
                                                                         const std::filesystem::path& folder,
                                                                         const ExportOptions& options) {
  switch (format) {
    case CheckpointFormat::kGptq:
      return CreateGptqWriter(source, folder, options, GptqVersion::kV1);
    case CheckpointFormat::kGptqV2:
      return CreateGptqWriter(source, folder, options, GptqVersion::kV2);
    case CheckpointFormat::kAwq:
      return CreateAwqWriter(source, folder, options);
    case CheckpointFormat::kBitsandbytes:
      return CreateBitsandbytesWriter(source, folder, options);
    case CheckpointFormat::kCompressedTensors:
      return CreateCompressedTensorsWriter(source, folder, options);
    case CheckpointFormat::kGguf:
      return CreateGgufWriter(source, folder, options);
    case CheckpointFormat::kOnnx:
      break;
  }
  return absl::UnimplementedError(
      absl::StrCat("the ", CheckpointFormatName(format), " format is written from a graph, not layer by layer"));
}

}  // namespace quant

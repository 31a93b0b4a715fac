// SPDX-License-Identifier: Apache-2.0
// The seam between quantizers and the files that others load: a writer per checkpoint format, all fed the same way.
//
//   RETURN_IF_ERROR(CheckFormat(CheckpointFormat::kGptq, spec, rows, cols));  // of every layer, before any work
//   ASSIGN_OR_RETURN(auto writer, CreateCheckpointWriter(CheckpointFormat::kGptq, source, folder, options));
//   RETURN_IF_ERROR(writer->AddLinear("model.layers.0.mlp.up_proj", weights, nullptr));
//   RETURN_IF_ERROR(writer->AddTensor("model.norm.weight", norm));
//   RETURN_IF_ERROR(writer->Finish());
//
// A writer streams: it holds a few tensors, never the model, and writes them in the order of the calls. What it writes
// dequantizes to the same float32 numbers as the WeightMatrix it was given, unless a note says otherwise: scales that a
// format stores in 16 bits must be 16-bit numbers already.
#ifndef QUANT_WORKER_FORMATS_CHECKPOINT_WRITER_H_
#define QUANT_WORKER_FORMATS_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/tensor/tensor.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

enum class CheckpointFormat { kGptq, kGptqV2, kAwq, kBitsandbytes, kCompressedTensors, kGguf, kOnnx };

// "gptq", "gptq_v2", "awq", "bitsandbytes", "compressed-tensors", "gguf", "onnx".
const char* CheckpointFormatName(CheckpointFormat format);
// The reverse. INVALID_ARGUMENT listing the names.
absl::StatusOr<CheckpointFormat> ParseCheckpointFormat(std::string_view name);

// What the quantized weights of a layer are, or will be.
struct WeightSpec {
  bool codebook = false;  // NF4 or FP4: a CodebookMatrix, group_size is its block size; the rest does not apply
  int bits = 4;
  int64_t group_size = 128;  // -1: one group per row, as is whatever reaches the number of inputs
  bool symmetric = true;
  bool float_zeros = false;    // zero points that are not integers (HQQ)
  bool dynamic_order = false;  // group_of: columns of a group lie apart
};

WeightSpec SpecOf(const WeightMatrix& weights);

// Whether `format` can hold a layer of `rows` outputs and `cols` inputs with such weights. INVALID_ARGUMENT naming the
// value, the limit, and the group sizes that fit, or else the formats that hold such a layer.
// onnx and gguf hold every layer; gguf not always exactly (gguf/gguf_writer.h).
absl::Status CheckFormat(CheckpointFormat format, const WeightSpec& spec, int64_t rows, int64_t cols);

// Group sizes (-1 included where it is legal) with which CheckFormat passes: divisors of cols and the common ones, in
// ascending order.
std::vector<int64_t> FittingGroupSizes(CheckpointFormat format, const WeightSpec& spec, int64_t rows, int64_t cols);

// The smallest zero point that can be written: 1 for gptq, which stores z - 1 in a field without a sign (formats.md
// section 2), else 0. Quantizers that make asymmetric grids for a format clamp to it.
inline int LeastZeroPoint(CheckpointFormat format) { return format == CheckpointFormat::kGptq ? 1 : 0; }

struct ExportOptions {
  std::string method;        // "rtn", "gptq", "awq", ...: recorded
  std::string tool_version;  // recorded, as "quantd:<version>"
  // Of the recipe: recorded where layers do not say otherwise themselves.
  int bits = 4;
  int64_t group_size = 128;
  bool symmetric = true;
  // GPTQ's facts, for formats that record them.
  double damping = 0.01;
  bool true_sequential = true;
  bool static_groups = false;  // act-order with groups fixed before
  // compressed-tensors: 8-bit weights are for 8-bit activations, quantized per token at run time (int-quantized, W8A8).
  bool int8_activations = false;
  // Modules left in floating point on purpose, for formats that list them. Found besides: every two-dimensional weight
  // given to AddTensor that is no embedding, and lm_head unless it is quantized.
  std::vector<std::string> unquantized;
};

class CheckpointWriter {
 public:
  virtual ~CheckpointWriter() = default;

  // A tensor that is not quantized, under its Hugging Face name, with its dtype.
  virtual absl::Status AddTensor(std::string_view name, const Tensor& tensor) = 0;
  // A quantized linear layer `module` ("model.layers.0.mlp.up_proj") instead of its weight; `bias` is null or [rows].
  // INVALID_ARGUMENT: as CheckFormat and Validate, or weights the format cannot hold exactly (a scale that is no 16-bit
  // number, zero point 0 in gptq), naming the layer.
  virtual absl::Status AddLinear(std::string_view module, const WeightMatrix& weights, const Tensor* bias) = 0;
  // Completes the files. FAILED_PRECONDITION: a tensor of the source was never given, or was given twice.
  virtual absl::Status Finish() = 0;

  // What the user should know about the files: roundings, layers in another type. In the order of the calls.
  const std::vector<std::string>& notes() const { return notes_; }

 protected:
  std::vector<std::string> notes_;
};

// Makes the writer of a format; `folder` is created where it is missing and must not be the source's. Weights that an
// earlier attempt left there are removed. UNIMPLEMENTED: onnx, which is written from a graph (onnx/onnx.h), and what
// the format's own factory refuses.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateCheckpointWriter(CheckpointFormat format,
                                                                         const Checkpoint& source,
                                                                         const std::filesystem::path& folder,
                                                                         const ExportOptions& options);

// ---- what the writers share

// The names of the float tensors that `source` stands for: of a quantized layer "<module>.weight" instead of its parts.
std::vector<std::string> FloatTensorNames(const Checkpoint& source);

// Creates `folder` and removes model weights in it. INVALID_ARGUMENT when it is the source's folder or lies in it.
absl::Status PrepareFolder(const Checkpoint& source, const std::filesystem::path& folder);

// Copies the source's other files (tokenizer, generation_config.json, ...) except those named.
absl::Status CopyOtherFiles(const Checkpoint& source, const std::filesystem::path& folder,
                            const std::vector<std::string>& except);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_CHECKPOINT_WRITER_H_

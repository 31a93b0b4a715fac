// SPDX-License-Identifier: Apache-2.0
// What the writers of gptq, awq, bitsandbytes and compressed-tensors checkpoints share: safetensors files, config.json
// with its quantization_config block, the other files of the source, and the account of what was given. A format adds
// how a layer is packed and what its block says.
//
// Thread-compatible. The source must outlive the writer.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_WRITER_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_WRITER_H_

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/checkpoint_writer.h"
#include "worker/formats/safetensors/writer.h"

namespace quant {

// A layer that was written.
struct WrittenLayer {
  std::string module;
  WeightSpec spec;
  int64_t rows = 0;
  int64_t cols = 0;
};

// The grid of a layer as config blocks name it.
struct LayerScheme {
  int bits = 4;
  int64_t group_size = 128;  // -1: one group per row
  friend bool operator==(const LayerScheme&, const LayerScheme&) = default;
  friend auto operator<=>(const LayerScheme&, const LayerScheme&) = default;
};

// The scheme that most layers have (of equally many the recipe's, then the smallest), where a group of all columns
// counts as -1 unless some layer has more columns than that: with what the recipe says of layers that fit both.
LayerScheme CommonScheme(std::span<const WrittenLayer> layers, const ExportOptions& options);
// The layer's scheme in a file whose common one is `common`.
LayerScheme SchemeOf(const WrittenLayer& layer, const LayerScheme& common);

class QuantizedWriter : public CheckpointWriter {
 public:
  absl::Status AddTensor(std::string_view name, const Tensor& tensor) override;
  absl::Status AddLinear(std::string_view module, const WeightMatrix& weights, const Tensor* bias) override;
  absl::Status Finish() override;

 protected:
  QuantizedWriter(CheckpointFormat format, const Checkpoint& source, std::filesystem::path folder,
                  ExportOptions options);
  // Prepares the folder and the files; the first call.
  absl::Status Start();

  // The layer's tensors, without its bias. `weights` passed Validate and CheckFormat.
  virtual absl::StatusOr<std::vector<NamedTensor>> Pack(const std::string& module, const WeightMatrix& weights) = 0;
  // The bias as it is stored: as it is, unless the format wants another type.
  virtual absl::StatusOr<Tensor> PackBias(const Tensor& bias) { return bias; }
  // The quantization_config block.
  virtual nlohmann::ordered_json Config() const = 0;
  // Files beside config.json that repeat the block.
  virtual std::vector<std::string> ConfigFiles() const { return {}; }

  const Checkpoint& source() const { return source_; }
  const ExportOptions& options() const { return options_; }
  const std::vector<WrittenLayer>& layers() const { return layers_; }
  // Modules of two-dimensional weights that stayed in floating point, sorted; lm_head among them unless quantized.
  std::vector<std::string> Unquantized() const;
  std::string ToolName() const;  // "quantd:1.0"

 private:
  absl::Status Account(const std::string& name);

  CheckpointFormat format_;
  const Checkpoint& source_;
  std::filesystem::path folder_;
  ExportOptions options_;
  std::unique_ptr<SafetensorsWriter> tensors_;
  std::vector<WrittenLayer> layers_;
  std::set<std::string> known_;  // the source's tensors, as if none were quantized
  std::set<std::string> given_;
  std::set<std::string> unquantized_;
};

// The bias in F16, rounded. INVALID_ARGUMENT: a value exceeds that type.
absl::StatusOr<Tensor> RoundedFloat16(const Tensor& bias);

// `values` as a tensor of F16, exactly. INVALID_ARGUMENT naming module, place and value: it is no float16 number.
absl::StatusOr<Tensor> ExactFloat16(const std::string& module, std::span<const float> values, Shape shape);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_WRITER_H_

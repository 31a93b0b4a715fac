// SPDX-License-Identifier: Apache-2.0
// The tensors that a quantized layer of a checkpoint is made of, for the readers and writers of its formats: looked up
// with every property that code relies on checked, and int32 words in and out of tensors.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_LAYER_PARTS_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_LAYER_PARTS_H_

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/tensor/tensor.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

// INVALID_ARGUMENT "layer "m": ...".
absl::Status LayerError(std::string_view module, std::string_view what);

// Reads parts of one module. Every error names the module and the tensor.
class LayerParts {
 public:
  LayerParts(const Checkpoint& checkpoint, std::string_view module) : checkpoint_(checkpoint), module_(module) {}

  const std::string& module() const { return module_; }
  // The tensor "<module><suffix>", or null.
  const Tensor* Find(std::string_view suffix) const;
  // The same, of one of the dtypes and of this shape, in which -1 stands for any size above 0. INVALID_ARGUMENT: there
  // is none, another dtype or shape.
  absl::StatusOr<const Tensor*> Get(std::string_view suffix, std::initializer_list<DType> dtypes,
                                    std::initializer_list<int64_t> shape) const;
  // Floats of type F16, BF16 or F32, all finite.
  absl::StatusOr<std::vector<float>> Floats(std::string_view suffix, std::initializer_list<int64_t> shape) const;
  absl::StatusOr<std::vector<uint32_t>> Words(std::string_view suffix, std::initializer_list<int64_t> shape) const;
  absl::Status Error(std::string_view what) const { return LayerError(module_, what); }

  // A group index per input (GPTQ's g_idx), checked to lie in 0 to groups - 1; empty when it says no more than
  // i / group_size does, or when the tensor is missing.
  absl::StatusOr<std::vector<int32_t>> GroupOf(std::string_view suffix, int64_t cols, int64_t group_size) const;

 private:
  const Checkpoint& checkpoint_;
  std::string module_;
};

// An I32 tensor with these bits.
absl::StatusOr<Tensor> WordTensor(std::span<const uint32_t> words, Shape shape);

// Codes to little-endian words as a bit stream, the first code lowest, the last word padded with 0; and back.
// words.size() is ceil(codes.size() * bits / 32).
void PackWords(std::span<const uint8_t> codes, int bits, std::span<uint32_t> words);
void UnpackWords(std::span<const uint32_t> words, int bits, std::span<uint8_t> codes);

// The same of each row of codes [rows, cols]: an I32 tensor [rows, ceil(cols * bits / 32)]. On OpenMP's threads.
absl::StatusOr<Tensor> PackRows(std::span<const uint8_t> codes, int64_t rows, int64_t cols, int bits);

// GPTQ's way: the codes [rows, cols] of a matrix, each row packed into cols * bits / 32 words (a whole number), the
// words stored transposed: an I32 tensor [cols * bits / 32, rows]; and back. Packs on OpenMP's threads.
absl::StatusOr<Tensor> PackDown(std::span<const uint8_t> codes, int64_t rows, int64_t cols, int bits);
void UnpackDown(std::span<const uint32_t> words, int64_t rows, int64_t cols, int bits, std::span<uint8_t> codes);

// Makes zero points that all say "symmetric" empty, as GroupedMatrix has it.
void DropMiddleZeros(GroupedMatrix* w);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_LAYER_PARTS_H_

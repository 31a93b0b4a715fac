// SPDX-License-Identifier: Apache-2.0
// Files of weights and arrays.
#include <string_view>

#include "absl/log/check.h"
#include "absl/status/statusor.h"
#include "fuzz/fuzz_target.h"
#include "worker/formats/dataset/image.h"
#include "worker/formats/gguf/gguf_model.h"
#include "worker/formats/npy/npy.h"
#include "worker/formats/npy/npz.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/safetensors/safetensors.h"

namespace quant::fuzz {
namespace {

// Reads every byte of a tensor, which must be as long as its shape says.
void Touch(const Tensor& tensor) {
  unsigned sum = 0;
  for (const std::byte b : tensor.bytes()) sum += static_cast<unsigned>(b);
  [[maybe_unused]] volatile unsigned kept = sum;
}

}  // namespace

// The file, then what lies beside it as weights.bin.
FUZZ_TARGET(onnx, input) {
  const std::vector<std::string_view> parts = Parts(input, 2);
  const auto& folder = EmptyFolder();
  WriteTo(folder / "model.onnx", parts[0]);
  if (!parts[1].empty()) WriteTo(folder / "weights.bin", parts[1]);
  const auto graph = ImportOnnx(folder / "model.onnx", {.max_weight_bytes = 1 << 24});
  if (!graph.ok()) return;
  for (const auto& [name, tensor] : graph->initializers) Touch(tensor);
  CHECK_OK(graph->Validate()) << "the importer promises a valid graph";
}

FUZZ_TARGET(safetensors, input) {
  const Copy copy(input);
  const auto file = ParseSafetensors(copy.bytes, copy.owner);
  if (!file.ok()) return;
  for (const auto& [name, tensor] : file->tensors) Touch(tensor);
}

FUZZ_TARGET(npy, input) {
  const Copy copy(input);
  const auto tensor = ParseNpy(copy.bytes, copy.owner);
  if (tensor.ok()) Touch(*tensor);
}

FUZZ_TARGET(npz, input) {
  const auto& folder = EmptyFolder();
  WriteTo(folder / "data.npz", input);
  const auto arrays = ReadNpz(folder / "data.npz", {.max_inflated_bytes = 1 << 22, .max_members = 100});
  if (!arrays.ok()) return;
  for (const auto& [name, tensor] : *arrays) Touch(tensor);
}

FUZZ_TARGET(image, input) {
  const Copy copy(input);
  const auto image = DecodeImage(copy.bytes);
  if (!image.ok()) return;
  CHECK_EQ(image->pixels.size(), size_t{3} * image->height * image->width);
  if (int64_t{image->height} * image->width > 1 << 16) return;
  const auto [height, width] = SizeForShorterSide(*image, 16);
  if (int64_t{height} * width > 1 << 16) return;
  const Image small = Resize(*image, height, width);
  CHECK_OK(CenterCrop(small, 16, 16).status());
}

FUZZ_TARGET(gguf, input) {
  const Copy copy(input);
  const auto model = GgufModel::Parse(copy.bytes, copy.owner);
  if (!model.ok()) return;
  for (const auto& [name, entry] : (*model)->tensors()) {
    if (entry.shape.empty()) continue;
    const auto row = static_cast<size_t>(entry.shape.back());
    if (row == 0 || row > 1 << 16 || GgufRowBytes(entry.type, entry.shape.back()) > int64_t(entry.bytes.size()))
      continue;
    std::vector<float> values(row);
    DequantizeGgufRow(entry.type, entry.bytes.first(static_cast<size_t>(GgufRowBytes(entry.type, entry.shape.back()))),
                      values);
  }
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight",
                           "transformer.wte.weight", "lm_head.weight", "model.layers.0.self_attn.k_proj.weight"}) {
    (*model)->Rows(name, 0, 1).IgnoreError();
    (*model)->Rows(name, 1, 3).IgnoreError();
  }
}

}  // namespace quant::fuzz

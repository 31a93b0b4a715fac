// SPDX-License-Identifier: Apache-2.0
// Small checkpoints and random quantized matrices for the tests of checkpoint formats.
#ifndef QUANT_WORKER_FORMATS_CHECKPOINT_TESTING_H_
#define QUANT_WORKER_FORMATS_CHECKPOINT_TESTING_H_

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint_writer.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/formats/safetensors/writer.h"
#include "worker/formats/testing.h"
#include "worker/tensor/codebooks.h"

namespace quant::testing {

// Writes `tensors` and `config` as a checkpoint into `folder` and opens it.
inline std::shared_ptr<const Checkpoint> MakeCheckpoint(const std::filesystem::path& folder,
                                                        const nlohmann::json& config,
                                                        const std::vector<NamedTensor>& tensors) {
  std::filesystem::create_directories(folder);
  WriteFile(folder / "config.json", config.dump());
  auto writer = SafetensorsWriter::Create(folder);
  CHECK_OK(writer.status());
  for (const NamedTensor& t : tensors) CHECK_OK((*writer)->Add(t.name, t.tensor));
  CHECK_OK((*writer)->Finish());
  auto checkpoint = Checkpoint::Open(folder);
  CHECK_OK(checkpoint.status());
  return *checkpoint;
}

struct TestLayer {
  std::string module;
  WeightMatrix weights;
  bool bias = false;
};

// A float checkpoint with an embedding, a norm, a linear layer "head.out" that stays as it is, and layers of the given
// shapes.
inline std::shared_ptr<const Checkpoint> MakeSource(const std::filesystem::path& folder,
                                                    const std::vector<TestLayer>& layers) {
  const auto bf16 = [](Shape shape) { return *Tensor::Allocate(DType::kBFloat16, std::move(shape)); };
  std::vector<NamedTensor> tensors = {
      {"model.embed_tokens.weight", bf16({8, 4})}, {"model.norm.weight", bf16({5})}, {"head.out.weight", bf16({3, 5})}};
  for (const TestLayer& l : layers) {
    tensors.push_back({absl::StrCat(l.module, ".weight"), bf16({Rows(l.weights), Cols(l.weights)})});
    if (l.bias) tensors.push_back({absl::StrCat(l.module, ".bias"), bf16({Rows(l.weights)})});
  }
  auto checkpoint = MakeCheckpoint(folder, {{"model_type", "llama"}, {"rms_norm_eps", 1e-6}}, tensors);
  WriteFile(folder / "tokenizer.json", "{}");
  return *Checkpoint::Open(folder);
}

// Gives a writer everything that MakeSource has.
inline absl::Status WriteAll(CheckpointWriter& writer, const Checkpoint& source, const std::vector<TestLayer>& layers) {
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "head.out.weight"}) {
    if (absl::Status s = writer.AddTensor(name, *source.Find(name)); !s.ok()) return s;
  }
  for (const TestLayer& l : layers) {
    const Tensor* bias = l.bias ? source.Find(absl::StrCat(l.module, ".bias")) : nullptr;
    if (absl::Status s = writer.AddLinear(l.module, l.weights, bias); !s.ok()) return s;
  }
  return writer.Finish();
}

struct RandomGrid {
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;
  int64_t group_size = 32;
  bool symmetric = true;
  bool dynamic_order = false;
  int least_zero = 0;
};

// Codes over the whole range, scales that are float16 numbers of either sign, integer zero points.
inline GroupedMatrix RandomGrouped(const RandomGrid& g, uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint32_t>(n)); };
  GroupedMatrix w{.rows = g.rows, .cols = g.cols, .bits = g.bits, .group_size = g.group_size};
  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  for (uint8_t& c : w.codes) c = static_cast<uint8_t>(below(1 << w.bits));
  w.scales.resize(static_cast<size_t>(w.rows * w.groups()));
  for (float& s : w.scales) {
    s = Float16ToFloat(FloatToFloat16((0.001f + 0.0001f * static_cast<float>(below(1000))) * (below(8) == 0 ? -1 : 1)));
  }
  if (!g.symmetric) {
    w.zeros.resize(w.scales.size());
    for (float& z : w.zeros) z = static_cast<float>(g.least_zero + below((1 << w.bits) - g.least_zero));
  }
  if (g.dynamic_order) {
    w.group_of.resize(static_cast<size_t>(w.cols));
    for (int64_t c = 0; c < w.cols; ++c) w.group_of[static_cast<size_t>(c)] = static_cast<int32_t>(c / w.group_size);
    for (size_t i = w.group_of.size(); i > 1; --i) std::swap(w.group_of[i - 1], w.group_of[random() % i]);
  }
  return w;
}

inline CodebookMatrix RandomCodebook(int64_t rows, int64_t cols, int64_t block, bool fp4, bool nested, uint32_t seed) {
  std::mt19937 random(seed);
  const auto unit = [&] { return static_cast<float>(random() >> 8) / static_cast<float>(1 << 24); };
  CodebookMatrix w{.rows = rows, .cols = cols, .block_size = block, .fp4 = fp4};
  w.codes.resize(static_cast<size_t>(rows * cols));
  for (uint8_t& c : w.codes) c = static_cast<uint8_t>(random() % 16);
  const std::span<const float> table = fp4 ? Fp4Table() : Nf4Table();
  w.codebook.assign(table.begin(), table.end());
  w.absmax.resize(static_cast<size_t>(w.blocks()));
  for (float& a : w.absmax) a = unit();
  if (!nested) return w;
  w.nested_offset = 0.5f + unit();
  w.nested_absmax.resize((w.absmax.size() + 255) / 256);
  for (float& a : w.nested_absmax) a = unit();
  w.nested_map.resize(256);
  for (float& m : w.nested_map) m = unit();
  w.nested_codes.resize(w.absmax.size());
  for (size_t i = 0; i < w.absmax.size(); ++i) {
    w.nested_codes[i] = static_cast<uint8_t>(random() % 256);
    w.absmax[i] = w.nested_map[w.nested_codes[i]] * w.nested_absmax[i / 256] + w.nested_offset;
  }
  return w;
}

inline std::vector<float> Dequantized(const WeightMatrix& w) {
  std::vector<float> out(static_cast<size_t>(Rows(w) * Cols(w)));
  DequantizeRows(w, 0, Rows(w), out);
  return out;
}

// The first `count` words of a tensor as they are on disk.
inline std::vector<uint32_t> FirstWords(const Tensor& t, size_t count) {
  std::vector<uint32_t> words(count);
  CHECK_LE(count * 4, t.bytes().size());
  std::memcpy(words.data(), t.bytes().data(), count * 4);
  return words;
}

}  // namespace quant::testing

#endif  // QUANT_WORKER_FORMATS_CHECKPOINT_TESTING_H_

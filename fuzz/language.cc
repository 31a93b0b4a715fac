// SPDX-License-Identifier: Apache-2.0
// Language models: checkpoints in every layout, and tokenizers.
#include <set>
#include <string>
#include <string_view>

#include "absl/log/check.h"
#include "fuzz/fuzz_target.h"
#include "worker/formats/gguf/vocabulary.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/formats/huggingface/quantized.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::fuzz {
namespace {

// The module of a tensor that some layout of quantized layers has, or "".
std::string_view ModuleOf(std::string_view tensor) {
  for (const std::string_view suffix : {".qweight", ".weight_packed", ".weight", ".weight_scale", ".scales"}) {
    if (tensor.ends_with(suffix)) return tensor.substr(0, tensor.size() - suffix.size());
  }
  return "";
}

}  // namespace

// config.json, then model.safetensors. gptq, awq, bitsandbytes and compressed-tensors are read through the
// quantization_config.
FUZZ_TARGET(huggingface, input) {
  const std::vector<std::string_view> parts = Parts(input, 2);
  const auto& folder = EmptyFolder();
  WriteTo(folder / "config.json", parts[0]);
  WriteTo(folder / "model.safetensors", parts[1]);
  const auto checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return;
  for (const bool kv_cache : {false, true}) {
    const auto model = BuildLanguageModel(**checkpoint, {.kv_cache = kv_cache});
    if (model.ok()) CHECK_OK(model->graph.Validate()) << "the builder promises a valid graph";
  }
  std::set<std::string, std::less<>> modules;
  for (const auto& [name, tensor] : (*checkpoint)->tensors()) modules.emplace(ModuleOf(name));
  for (const std::string& module : modules) {
    ReadQuantizedLinear(**checkpoint, module).IgnoreError();
    ReadLinearBias(**checkpoint, module).IgnoreError();
  }
}

// model.safetensors.index.json, then the header and data of one of its files, a.safetensors.
FUZZ_TARGET(checkpoint_index, input) {
  const std::vector<std::string_view> parts = Parts(input, 2);
  const auto& folder = EmptyFolder();
  WriteTo(folder / "config.json", "{}");
  WriteTo(folder / "model.safetensors.index.json", parts[0]);
  WriteTo(folder / "a.safetensors", parts[1]);
  Checkpoint::Open(folder).IgnoreError();
}

// tokenizer.json, then tokenizer_config.json, then a text.
FUZZ_TARGET(tokenizer, input) {
  const std::vector<std::string_view> parts = Parts(input, 3);
  const auto& folder = EmptyFolder();
  WriteTo(folder / "tokenizer.json", parts[0]);
  if (!parts[1].empty()) WriteTo(folder / "tokenizer_config.json", parts[1]);
  const auto tokenizer = Tokenizer::Load(folder);
  if (!tokenizer.ok()) return;
  for (const std::string_view text : {parts[2], std::string_view("Once upon a time, there was 1 \xc3\xa9 <s>")}) {
    const auto ids = (*tokenizer)->Encode(text, /*add_special=*/true);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) CHECK(id >= 0 && id < (*tokenizer)->vocab_size()) << id;
    CHECK_OK((*tokenizer)->Decode(*ids).status()) << "ids of its own";
  }
}

// vocab.json, then merges.txt.
FUZZ_TARGET(vocab_and_merges, input) {
  const std::vector<std::string_view> parts = Parts(input, 2);
  const auto& folder = EmptyFolder();
  WriteTo(folder / "vocab.json", parts[0]);
  WriteTo(folder / "merges.txt", parts[1]);
  const auto tokenizer = Tokenizer::Load(folder);
  if (tokenizer.ok()) (*tokenizer)->Encode("Once upon a time", true).IgnoreError();
}

// Our own reader of a SentencePiece model. libsentencepiece itself cannot be loaded beside AddressSanitizer (ADR
// sentencepiece-module).
FUZZ_TARGET(sentencepiece, input) {
  const Copy copy(input);
  ParseSentencePieceModel({reinterpret_cast<const char*>(copy.bytes.data()), copy.bytes.size()}).IgnoreError();
}

// What a GGUF file makes of a tokenizer: tokenizer.json, then the vocabulary's size from config.json.
FUZZ_TARGET(gguf_vocabulary, input) {
  const std::vector<std::string_view> parts = Parts(input, 2);
  const auto& folder = EmptyFolder();
  WriteTo(folder / "config.json", R"({"model_type": "llama"})");
  WriteTo(folder / "tokenizer.json", parts[0]);
  if (!parts[1].empty()) WriteTo(folder / "tokenizer_config.json", parts[1]);
  static constexpr char kHeader[] = R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   )";
  std::string file("\x38\0\0\0\0\0\0\0", 8);
  file[0] = static_cast<char>(sizeof(kHeader) - 1);
  WriteTo(folder / "model.safetensors", file + kHeader + '\0');
  const auto checkpoint = Checkpoint::Open(folder);
  CHECK_OK(checkpoint.status());
  const auto vocabulary = ReadGgufVocabulary(**checkpoint, 300);
  if (vocabulary.ok()) VocabularyKeys(*vocabulary);
}

}  // namespace quant::fuzz

// SPDX-License-Identifier: Apache-2.0
// The part of Decoder that knows where a token stands: positions, learned and rotary, and masks. All of it follows from
// the shapes of the graph's inputs, so that a backend, which plans for given shapes, computes it once per plan.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/huggingface/decoder.h"

namespace quant::huggingface {
namespace {

Tensor Index(int64_t value) { return Tensor::Of<int64_t>({1}, std::vector<int64_t>{value}); }

Tensor Row(const std::vector<float>& values) {
  return Tensor::Of<float>({1, static_cast<int64_t>(values.size())}, values);
}

}  // namespace

// positions_: int64 [sequence], those of the new tokens; total_: the number of tokens, past ones among them.
void Decoder::MakePositions() {
  if (!positions_.empty()) return;
  const std::string zero = Constant("positions.zero", Tensor::Scalar(int64_t{0}));
  const std::string one = Constant("positions.one", Tensor::Scalar(int64_t{1}));
  const std::string shape = Add("positions.shape", "Shape", {"input_ids"});
  const std::string length = Add("positions.length", "Gather", {shape, one});
  std::string past = zero;
  total_ = length;
  if (options_.kv_cache) {
    const std::string two = Constant("positions.two", Tensor::Scalar(int64_t{2}));
    past = Add("positions.past", "Gather", {Add("positions.past_shape", "Shape", {"past_key.0"}), two});
    total_ = Add("positions.total", "Add", {past, length});
  }
  positions_ = Add("positions", "Range", {past, total_, one});
}

absl::StatusOr<std::string> Decoder::LearnedPositions(const std::string& module, int64_t rows, int64_t offset) {
  MakePositions();
  const std::string table = absl::StrCat(module, ".weight");
  RETURN_IF_ERROR(Take(table, {rows, sizes_.hidden}));
  std::string at = positions_;
  if (offset != 0) {
    at = Add(absl::StrCat(module, ".at"), "Add",
             {at, Constant(absl::StrCat(module, ".offset"), Tensor::Scalar(offset))});
  }
  const bool is_float32 = graph_.Initializer(table)->dtype() == DType::kFloat32;
  const std::string picked = Add(is_float32 ? module : absl::StrCat(module, ".rows"), "Gather", {table, at});
  return is_float32 ? picked : Add(module, "Cast", {picked}, {{"to", int64_t{1}}});
}

// cos_ and sin_: float32 [sequence, rotary_dim / 2], of the new tokens.
void Decoder::MakeRotary(const Rope& rope) {
  MakePositions();
  std::string freq = Constant("rope.inv_freq", Row(rope.inv_freq));
  if (rope.dynamic_factor != 0 || !rope.long_inv_freq.empty()) {
    const float original = static_cast<float>(rope.original_positions);
    const std::string tokens = Add("rope.tokens", "Cast", {total_}, {{"to", int64_t{1}}});
    if (!rope.long_inv_freq.empty()) {
      const std::string is_long = Add("rope.is_long", "Greater", {tokens, Scalar(original)});
      freq = Add("rope.freq", "Where", {is_long, Constant("rope.long_inv_freq", Row(rope.long_inv_freq)), freq});
    } else {
      // growth = factor * max(tokens, original) / original - (factor - 1), in this order as Transformers does.
      const float factor = static_cast<float>(rope.dynamic_factor);
      const std::string seen = Add("rope.seen", "Max", {tokens, Scalar(original)});
      const std::string share = Add("rope.share", "Mul", {seen, Scalar(factor / original)});
      const std::string growth = Add("rope.growth", "Sub", {share, Scalar(factor - 1)});
      std::vector<float> exponents;
      exponents.reserve(rope.inv_freq.size());
      for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
        exponents.push_back(
            static_cast<float>(-2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim - 2)));
      }
      freq = Add("rope.freq", "Mul",
                 {freq, Add("rope.slower", "Pow", {growth, Constant("rope.exponents", Row(exponents))})});
    }
  }
  const std::string axis = Constant("rope.axis", Index(1));
  const std::string column =
      Add("rope.column", "Unsqueeze", {Add("rope.positions", "Cast", {positions_}, {{"to", int64_t{1}}}), axis});
  const std::string angles = Add("rope.angles", "Mul", {column, freq});
  cos_ = Add("rope.cos", "Cos", {angles});
  sin_ = Add("rope.sin", "Sin", {angles});
  if (rope.attention_factor != 1) {
    const std::string factor = Scalar(static_cast<float>(rope.attention_factor));
    cos_ = Add("rope.cos.scaled", "Mul", {cos_, factor});
    sin_ = Add("rope.sin.scaled", "Mul", {sin_, factor});
  }
  // Row t of the tables is new token t, in every row of the batch.
  const std::string rows = Add("rope.rows", "Range", {"positions.zero", "positions.length", "positions.one"});
  position_ids_ = Add("rope.ids", "Expand", {rows, "positions.shape"});
}

std::string Decoder::Rotate(std::string_view name, const Rope& rope, const std::string& x, int64_t heads) {
  if (cos_.empty()) MakeRotary(rope);
  std::map<std::string, Attribute> attributes = {{"num_heads", heads}};
  if (rope.rotary_dim != sizes_.head_dim) attributes["rotary_embedding_dim"] = rope.rotary_dim;
  return Add(name, "RotaryEmbedding", {x, cos_, sin_, position_ids_}, std::move(attributes));
}

std::string Decoder::Mask(int64_t window) {
  if (window == 0) return "";
  std::string name = absl::StrCat("mask.window.", window);
  if (masks_.contains(window)) return name;
  MakePositions();
  if (masks_.empty()) {
    Add("mask.keys", "Range", {"positions.zero", total_, "positions.one"});
    Add("mask.queries", "Unsqueeze", {positions_, Constant("mask.axis", Index(1))});
  }
  masks_.insert(window);
  const std::string width = Constant(absl::StrCat(name, ".width"), Tensor::Scalar(window));
  return Add(name, "Greater", {"mask.keys", Add(absl::StrCat(name, ".before"), "Sub", {"mask.queries", width})});
}

}  // namespace quant::huggingface

// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/qdq.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {
namespace {

bool Equal(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin(), b.bytes().end());
}

Tensor ZeroPoint(DType type, int32_t value) {
  if (type == DType::kUInt8) {
    const uint8_t z = static_cast<uint8_t>(value);
    return Tensor::Of<uint8_t>({}, std::span<const uint8_t>(&z, 1));
  }
  const int8_t z = static_cast<int8_t>(value);
  return Tensor::Of<int8_t>({}, std::span<const int8_t>(&z, 1));
}

template <typename T>
Tensor VectorOrScalar(const std::vector<T>& v) {
  return v.size() == 1 ? Tensor::Of<T>({}, v) : Tensor::Of<T>({static_cast<int64_t>(v.size())}, v);
}

}  // namespace

std::string QdqBuilder::Constant(const std::string& base, const Tensor& content) {
  if (const Tensor* t = graph_->Initializer(base); t != nullptr && Equal(*t, content)) return base;
  const std::string name = graph_->UniqueName(base);
  graph_->initializers.emplace(name, content);
  return name;
}

void QdqBuilder::AppendPair(const std::string& v, const Grid& grid, std::string_view grid_name, DType type,
                            std::vector<Node>* nodes) {
  const std::string scale = Constant(absl::StrCat(AbslView(grid_name), ".scale"), Tensor::Scalar(grid.scale));
  const std::string zero = Constant(absl::StrCat(type == DType::kUInt8 ? "u8.zp" : "s8.zp", grid.zero_point),
                                    ZeroPoint(type, grid.zero_point));
  const std::string codes = graph_->UniqueName(absl::StrCat(v, ".q"));
  const std::string floats = graph_->UniqueName(absl::StrCat(v, ".dq"));
  graph_->ReplaceUses(v, floats);
  for (Node& n : *nodes) std::replace(n.inputs.begin(), n.inputs.end(), v, floats);
  nodes->push_back({.name = codes, .op_type = "QuantizeLinear", .inputs = {v, scale, zero}, .outputs = {codes}});
  nodes->push_back(
      {.name = floats, .op_type = "DequantizeLinear", .inputs = {codes, scale, zero}, .outputs = {floats}});
}

void QdqBuilder::AppendWeights(const QuantizedWeights& weights, Node* layer, std::vector<Node>* nodes) {
  const std::string base = layer->inputs[1];
  const std::string codes = Constant(absl::StrCat(base, ".q"), weights.codes);
  const std::string scale = Constant(absl::StrCat(base, ".scale"), VectorOrScalar(weights.scales));
  const std::string zero = Constant(absl::StrCat("s8.zp", weights.scales.size() == 1 ? "" : "x", weights.scales.size(),
                                                 weights.zeros[0] != 0 ? "." : "", weights.zeros[0] != 0 ? base : ""),
                                    VectorOrScalar(weights.zeros));
  const std::string floats = absl::StrCat(base, ".dq");
  for (const Node& n : *nodes) {
    if (n.name == floats && n.input(0) == codes && n.input(1) == scale) {
      layer->inputs[1] = floats;
      return;
    }
  }
  Node dq{.name = graph_->UniqueName(floats), .op_type = "DequantizeLinear", .inputs = {codes, scale, zero}};
  for (int i = 1; std::any_of(nodes->begin(), nodes->end(), [&](const Node& n) { return n.name == dq.name; }); ++i) {
    dq.name = graph_->UniqueName(absl::StrCat(floats, "_", i));
  }
  dq.outputs = {dq.name};
  if (weights.scales.size() > 1) dq.attributes["axis"] = static_cast<int64_t>(weights.axis);
  layer->inputs[1] = dq.name;
  nodes->push_back(std::move(dq));
}

void QdqBuilder::AppendBias(std::span<const float> bias, float input_scale, const QuantizedWeights& weights,
                            Node* layer, std::vector<Node>* nodes) {
  const std::string base =
      layer->inputs.size() > 2 && !layer->inputs[2].empty() ? layer->inputs[2] : absl::StrCat(layer->name, ".bias");
  std::vector<float> scales;
  scales.reserve(weights.scales.size());
  for (const float s : weights.scales) scales.push_back(s * input_scale);
  // ONNX Runtime and the rule |bias| < 2^30 both use the product rounded to float, so the codes do too.
  std::vector<float> unit = scales;
  const std::vector<int32_t> codes = QuantizeBias(bias, 1.0f, unit);
  const std::string q =
      Constant(absl::StrCat(base, ".q"), Tensor::Of<int32_t>({static_cast<int64_t>(codes.size())}, codes));
  const std::string scale = Constant(absl::StrCat(base, ".scale"), VectorOrScalar(scales));
  Node dq{.name = graph_->UniqueName(absl::StrCat(base, ".dq")), .op_type = "DequantizeLinear", .inputs = {q, scale}};
  for (int i = 1; std::any_of(nodes->begin(), nodes->end(), [&](const Node& n) { return n.name == dq.name; }); ++i) {
    dq.name = graph_->UniqueName(absl::StrCat(base, ".dq_", i));
  }
  dq.outputs = {dq.name};
  if (scales.size() > 1) dq.attributes["axis"] = int64_t{0};
  layer->inputs.resize(3);
  layer->inputs[2] = dq.name;
  nodes->push_back(std::move(dq));
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// Dynamic INT8, in the form ONNX Runtime executes: DynamicQuantizeLinear on the activation (uint8, per tensor, range
// found per call), MatMulInteger on int8 or ConvInteger on uint8 weights, then Cast, Mul by input scale times weight
// scale, Add of the bias in floating point. Layers that read one value share its DynamicQuantizeLinear.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/quantize/int8.h"
#include "worker/quantize/qdq.h"
#include "worker/quantize/selection.h"
#include "worker/quantize/weights.h"

namespace quant {
namespace {

// The same grid 128 codes higher: ONNX Runtime has ConvInteger for uint8 weights only.
Tensor ToUnsigned(const Tensor& codes) {
  std::vector<uint8_t> shifted;
  for (int8_t code : codes.data<int8_t>()) shifted.push_back(static_cast<uint8_t>(code + 128));
  return Tensor::Of<uint8_t>(codes.shape(), shifted);
}

class DynamicQuantizer {
 public:
  DynamicQuantizer(Graph graph, const DynamicInt8Options& options)
      : original_(std::move(graph)), graph_(original_), qdq_(&graph_), options_(options) {}

  absl::StatusOr<QuantizedModel> Run(const ProgressFn& progress);

 private:
  // Why a layer of the right kind cannot be run so; "" when it can.
  std::string Obstacle(const Node& node) const;
  absl::Status Rewrite(const WeightedLayer& layer, const Node& node, std::vector<Node>* nodes);
  // Adds a node with one output called `value`.
  void Emit(std::string op, std::vector<std::string> inputs, const std::string& value, std::vector<Node>* nodes,
            std::map<std::string, Attribute> attributes = {}) {
    nodes->push_back({.name = value,
                      .op_type = std::move(op),
                      .inputs = std::move(inputs),
                      .outputs = {value},
                      .attributes = std::move(attributes)});
  }

  const Graph original_;
  Graph graph_;
  QdqBuilder qdq_;
  const DynamicInt8Options& options_;
  std::set<std::string> dynamic_inputs_;  // values that have their DynamicQuantizeLinear
};

std::string DynamicQuantizer::Obstacle(const Node& node) const {
  if (node.op_type == "ConvTranspose") return "there is no integer ConvTranspose in ONNX";
  if (original_.Initializer(node.input(0)) != nullptr) return "its input is a constant";
  if (node.op_type == "Gemm" && (node.Float("alpha", 1) != 1 || node.Float("beta", 1) != 1 || node.Int("transA", 0))) {
    return "Gemm with alpha, beta or transA";
  }
  return "";
}

absl::Status DynamicQuantizer::Rewrite(const WeightedLayer& layer, const Node& node, std::vector<Node>* nodes) {
  const std::string& x = node.inputs[0];
  if (dynamic_inputs_.insert(x).second) {
    nodes->push_back({.name = absl::StrCat(x, ".dynamic"),
                      .op_type = "DynamicQuantizeLinear",
                      .inputs = {x},
                      .outputs = {absl::StrCat(x, ".q"), absl::StrCat(x, ".scale"), absl::StrCat(x, ".zp")}});
  }
  Tensor weights = *original_.Initializer(node.input(1));
  int axis = layer.channel_axis;
  if (node.op_type == "Gemm" && axis == 0) {  // MatMulInteger has no transB
    absl::StatusOr<std::vector<float>> w = ToFloat(weights);
    if (!w.ok()) return w.status();
    const int64_t rows = weights.dim(0), cols = weights.dim(1);
    std::vector<float> t(w->size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) t[static_cast<size_t>(c * rows + r)] = (*w)[static_cast<size_t>(r * cols + c)];
    }
    weights = Tensor::Of<float>({cols, rows}, t);
    axis = 1;
  }
  const int bits = options_.reduce_range == ReduceRange::kAlways ? 7 : 8;
  absl::StatusOr<QuantizedWeights> q = QuantizeWeights(
      weights, axis,
      {.granularity = options_.weight_granularity, .symmetric = options_.symmetric_weights, .bits = bits});
  if (!q.ok()) return absl::Status(q.status().code(), absl::StrCat("layer '", node.name, "': ", q.status().message()));

  const bool conv = node.op_type == "Conv";
  const int64_t spatial = weights.rank() - 2;
  const auto per_channel_shape = [&](int64_t channels) {
    Shape s = {channels};
    if (conv) s.insert(s.end(), static_cast<size_t>(spatial), 1);  // broadcast over [N, C, ...]
    return s;
  };
  const std::string base = node.inputs[1];
  std::vector<std::string> inputs = {absl::StrCat(x, ".q"),
                                     qdq_.Constant(absl::StrCat(base, ".q"), conv ? ToUnsigned(q->codes) : q->codes),
                                     absl::StrCat(x, ".zp")};
  // One zero point for all channels where they agree: ONNX Runtime's ConvInteger takes no other.
  std::vector<int8_t> zeros = q->zeros;
  if (std::all_of(zeros.begin(), zeros.end(), [&](int8_t z) { return z == zeros[0]; })) zeros.resize(1);
  const Tensor zero =
      Tensor::Of<int8_t>(zeros.size() == 1 ? Shape{} : Shape{static_cast<int64_t>(zeros.size())}, zeros);
  if (conv) {
    inputs.push_back(qdq_.Constant(absl::StrCat(base, ".zp"), ToUnsigned(zero)));
  } else if (zeros.size() > 1 || zeros[0] != 0) {
    inputs.push_back(qdq_.Constant(absl::StrCat(base, ".zp"), zero));
  }
  const Shape scale_shape = q->scales.size() == 1 ? Shape{} : per_channel_shape(static_cast<int64_t>(q->scales.size()));
  const std::string weight_scale =
      qdq_.Constant(absl::StrCat(base, ".scale"), Tensor::Of<float>(scale_shape, q->scales));

  const std::string out = node.outputs[0];
  const Tensor* bias = original_.Initializer(node.input(2));
  const bool has_bias = !node.input(2).empty();
  std::map<std::string, Attribute> attributes;
  if (conv) attributes = node.attributes;
  Emit(conv ? "ConvInteger" : "MatMulInteger", std::move(inputs), absl::StrCat(out, ".i32"), nodes, attributes);
  Emit("Cast", {absl::StrCat(out, ".i32")}, absl::StrCat(out, ".sum"), nodes, {{"to", int64_t{1}}});
  Emit("Mul", {absl::StrCat(x, ".scale"), weight_scale}, absl::StrCat(out, ".unit"), nodes);
  Node scaled{.name = has_bias ? absl::StrCat(node.name, ".scaled") : node.name,
              .op_type = "Mul",
              .inputs = {absl::StrCat(out, ".sum"), absl::StrCat(out, ".unit")},
              .outputs = {has_bias ? absl::StrCat(out, ".scaled") : out}};
  nodes->push_back(std::move(scaled));
  if (has_bias) {
    std::string addend = node.inputs[2];
    if (conv && bias != nullptr) {
      absl::StatusOr<std::vector<float>> b = ToFloat(*bias);
      if (!b.ok()) return b.status();
      addend = qdq_.Constant(absl::StrCat(addend, ".nchw"),
                             Tensor::Of<float>(per_channel_shape(static_cast<int64_t>(b->size())), *b));
    }
    nodes->push_back(
        {.name = node.name, .op_type = "Add", .inputs = {absl::StrCat(out, ".scaled"), addend}, .outputs = {out}});
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedModel> DynamicQuantizer::Run(const ProgressFn& progress) {
  QuantizedModel result;
  absl::StatusOr<std::map<std::string, std::string>> reasons = SelectLayers(original_, options_.layers, &result.notes);
  if (!reasons.ok()) return reasons.status();
  const std::vector<WeightedLayer> layers = FindWeightedLayers(original_);
  std::map<int, const WeightedLayer*> by_node;
  for (const WeightedLayer& layer : layers) by_node[layer.node] = &layer;

  std::vector<Node> nodes;
  for (size_t i = 0; i < original_.nodes.size(); ++i) {
    const Node& node = original_.nodes[i];
    const auto it = by_node.find(static_cast<int>(i));
    if (it == by_node.end()) {
      nodes.push_back(node);
      continue;
    }
    LayerOutcome o{.name = node.name,
                   .op = node.op_type,
                   .method = "fp32",
                   .parameters = it->second->parameters,
                   .output = node.outputs[0]};
    o.fallback = (*reasons)[node.name];
    if (o.fallback.empty()) o.fallback = Obstacle(node);
    const DType type = original_.Initializer(node.input(1))->dtype();
    if (o.fallback.empty() && type != DType::kFloat32) o.fallback = absl::StrCat("weights are ", DTypeName(type));
    if (o.fallback.empty() && node.op_type == "Conv" && !node.input(2).empty() &&
        !original_.Initializer(node.input(2))) {
      o.fallback = "its bias is not a constant";
    }
    if (o.fallback.empty()) {
      const Counted counted{static_cast<int64_t>(result.layers.size()), static_cast<int64_t>(layers.size()), "layers"};
      if (absl::Status s = Tell(progress, node.name, counted); !s.ok()) return s;
      if (absl::Status s = Rewrite(*it->second, node, &nodes); !s.ok()) return s;
      o.method = "dynamic";
      o.bits = options_.reduce_range == ReduceRange::kAlways ? 7 : 8;
    } else {
      nodes.push_back(node);
    }
    result.layers.push_back(std::move(o));
  }
  graph_.nodes = std::move(nodes);
  graph_.RemoveUnused();
  if (absl::Status s = graph_.Validate(); !s.ok()) {
    return absl::InternalError(absl::StrCat("dynamically quantized graph: ", s.message()));
  }
  result.graph = std::move(graph_);
  return result;
}

}  // namespace

absl::StatusOr<QuantizedModel> QuantizeDynamic(const Graph& graph, const DynamicInt8Options& options,
                                               const ProgressFn& progress) {
  return DynamicQuantizer(graph, options).Run(progress);
}

}  // namespace quant

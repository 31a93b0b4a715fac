// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/lower.h"

#include "common/status_macros.h"

namespace quant::onednn {
namespace {

bool IsLow(DType dtype) { return LoweredType(dtype) != dtype; }

// TensorProto.DataType numbers of the ONNX standard.
constexpr int64_t kOnnxFloat = 1, kOnnxFloat16 = 10, kOnnxDouble = 11, kOnnxBFloat16 = 16;

bool IsLowOnnx(int64_t type) { return type == kOnnxFloat16 || type == kOnnxDouble || type == kOnnxBFloat16; }

bool NodeNeedsLowering(const Node& node) {
  for (const auto& [key, attribute] : node.attributes) {
    if (const Tensor* t = std::get_if<Tensor>(&attribute); t != nullptr && IsLow(t->dtype())) return true;
  }
  return node.op_type == "Cast" && IsLowOnnx(node.Int("to", kOnnxFloat));
}

bool IsCastToFloat32(const Node& node) {
  return node.domain.empty() && node.op_type == "Cast" && node.Int("to", 0) == kOnnxFloat;
}

bool OnlyCastToFloat32(const Graph& graph, const GraphIndex& index, const std::string& value) {
  if (graph.IsOutput(value)) return false;
  for (const int c : index.Consumers(value)) {
    if (!IsCastToFloat32(graph.nodes[static_cast<size_t>(c)])) return false;
  }
  return true;
}

// Whether the constant is read only through a Cast to float32, whole or by rows (an embedding's Gather): then the graph
// computes in float32 already, and the constant stays as it is, perhaps mapped from a file.
bool StaysAsStored(const Graph& graph, const GraphIndex& index, const std::string& name, const Tensor& tensor) {
  if (tensor.dtype() != DType::kFloat16 && tensor.dtype() != DType::kBFloat16) return false;
  if (graph.IsOutput(name) || index.Consumers(name).empty()) return false;
  for (const int c : index.Consumers(name)) {
    const Node& n = graph.nodes[static_cast<size_t>(c)];
    if (IsCastToFloat32(n)) continue;
    if (!n.domain.empty() || n.op_type != "Gather" || n.outputs.size() != 1) return false;
    if (!OnlyCastToFloat32(graph, index, n.outputs[0])) return false;
  }
  return true;
}

bool NeedsLowering(const Graph& graph, const GraphIndex& index) {
  for (const ValueInfo& v : graph.inputs) {
    if (IsLow(v.dtype)) return true;
  }
  for (const auto& [name, tensor] : graph.initializers) {
    if (IsLow(tensor.dtype()) && !StaysAsStored(graph, index, name, tensor)) return true;
  }
  for (const Node& node : graph.nodes) {
    if (NodeNeedsLowering(node)) return true;
  }
  return false;
}

}  // namespace

DType LoweredType(DType dtype) { return IsFloat(dtype) ? DType::kFloat32 : dtype; }

absl::StatusOr<std::shared_ptr<const Graph>> LowerToFloat32(std::shared_ptr<const Graph> graph) {
  const GraphIndex index(*graph);
  if (!NeedsLowering(*graph, index)) return graph;
  auto lowered = std::make_shared<Graph>(*graph);
  lowered->value_info.clear();
  for (ValueInfo& v : lowered->inputs) v.dtype = LoweredType(v.dtype);
  for (ValueInfo& v : lowered->outputs) v.dtype = LoweredType(v.dtype);
  for (auto& [name, tensor] : lowered->initializers) {
    if (!IsLow(tensor.dtype()) || StaysAsStored(*graph, index, name, tensor)) continue;
    ASSIGN_OR_RETURN(tensor, Cast(tensor, DType::kFloat32));
  }
  for (Node& node : lowered->nodes) {
    if (!NodeNeedsLowering(node)) continue;
    for (auto& [key, attribute] : node.attributes) {
      Tensor* t = std::get_if<Tensor>(&attribute);
      if (t == nullptr || !IsLow(t->dtype())) continue;
      ASSIGN_OR_RETURN(*t, Cast(*t, DType::kFloat32));
    }
    if (node.op_type == "Cast") node.attributes["to"] = kOnnxFloat;
  }
  return lowered;
}

}  // namespace quant::onednn

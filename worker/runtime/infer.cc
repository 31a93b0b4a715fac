// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/infer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

// "[batch,3,?,?]" of a declared shape.
std::string DeclaredShape(const ValueInfo& info) {
  if (!info.has_shape) return "any shape";
  std::string s = "[";
  for (size_t i = 0; i < info.shape.size(); ++i) {
    const Dim& d = info.shape[i];
    const std::string dim = d.known() ? absl::StrCat(d.value) : d.symbol.empty() ? "?" : d.symbol;
    absl::StrAppend(&s, i == 0 ? "" : ",", dim);
  }
  return s + "]";
}

bool Fits(const ValueInfo& info, const Shape& shape) {
  if (!info.has_shape) return true;
  if (info.shape.size() != shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (info.shape[i].known() && info.shape[i].value != shape[i]) return false;
  }
  return true;
}

// Bytes of a value; the shape is checked here, once for all operators.
absl::StatusOr<int64_t> CheckedBytes(const TensorDesc& desc) {
  ASSIGN_OR_RETURN(const int64_t elements, ElementCount(desc.shape));
  const std::optional<int64_t> bytes = DTypeBytes(desc.dtype, elements);
  if (!bytes) return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(desc.shape), " is too large"));
  return *bytes;
}

// The op, its outputs' descriptions, and the bytes of the present ones.
struct Inferred {
  const Op* op;
  std::vector<TensorDesc> out;
  int64_t bytes = 0;
};

absl::StatusOr<Inferred> InferNode(const Node& node, std::span<const TensorDesc* const> in) {
  Inferred r;
  r.op = FindOp(node.domain, node.op_type);
  if (r.op == nullptr) return absl::UnimplementedError("the operator is not supported");
  r.out.resize(node.outputs.size());
  RETURN_IF_ERROR(r.op->infer(node, in, std::span(r.out)));
  for (size_t i = 0; i < r.out.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    ASSIGN_OR_RETURN(const int64_t bytes, CheckedBytes(r.out[i]));
    r.bytes += std::min(bytes, kMaxElements);  // a node has few outputs: no overflow
  }
  return r;
}

absl::StatusOr<std::vector<Tensor>> ComputeNode(const Node& node, const Inferred& inferred,
                                                std::span<const Tensor* const> in) {
  std::vector<Tensor> out(node.outputs.size());
  for (size_t i = 0; i < out.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    ASSIGN_OR_RETURN(out[i], Tensor::Allocate(inferred.out[i].dtype, inferred.out[i].shape));
  }
  std::vector<Tensor> aligned(in.size());
  std::vector<const Tensor*> pointers(in.begin(), in.end());
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == nullptr) continue;
    ASSIGN_OR_RETURN(aligned[i], AlignedTensor(*in[i]));
    pointers[i] = &aligned[i];
  }
  RETURN_IF_ERROR(inferred.op->compute(node, pointers, std::span(out)));
  return out;
}

// Nodes whose result follows from the shape of their input, whatever its content.
bool ReadsShapeOnly(const Node& node) {
  return node.domain.empty() && (node.op_type == "Shape" || node.op_type == "Size");
}

// Cast and Transpose of a floating-point matrix stand before a linear layer's weights (worker/graph/linear.h), which
// may be mapped from a file: backends see through them, and a folded copy would take memory again.
bool IsWeightView(const Node& node, const TensorDesc& in, const TensorDesc& out) {
  return node.domain.empty() && (node.op_type == "Cast" || node.op_type == "Transpose") && in.shape.size() == 2 &&
         IsFloat(in.dtype) && IsFloat(out.dtype);
}

bool MayFold(const Node& node, std::span<const TensorDesc* const> in, std::span<const TensorDesc> out) {
  if (node.op_type == "QuantizeLinear" || node.op_type == "DequantizeLinear") return false;
  return in.empty() || in[0] == nullptr || out.empty() || !IsWeightView(node, *in[0], out[0]);
}

// What Shape or Size gives for an input of this shape.
absl::StatusOr<Tensor> EvaluateShapeOnly(const Node& node, const Shape& shape) {
  const int64_t rank = static_cast<int64_t>(shape.size());
  if (node.op_type == "Size") return Tensor::Scalar(*ElementCount(shape));
  const auto clamp = [rank](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
  const int64_t start = clamp(node.Int("start", 0)), end = std::max(start, clamp(node.Int("end", rank)));
  return Tensor::Of<int64_t>({end - start},
                             std::span(shape).subspan(static_cast<size_t>(start), static_cast<size_t>(end - start)));
}

// Adds one node's outputs to the plan; returns whether all of them are constants now.
absl::StatusOr<bool> AddNode(const Node& node, InferredPlan& plan) {
  const std::vector<const TensorDesc*> in = plan.Inputs(node);
  ASSIGN_OR_RETURN(const Inferred inferred, InferNode(node, in));
  std::vector<Tensor> folded;
  if (ReadsShapeOnly(node)) {
    ASSIGN_OR_RETURN(Tensor value, EvaluateShapeOnly(node, in[0]->shape));
    folded.push_back(std::move(value));
  } else if (MayFold(node, in, inferred.out) && inferred.bytes <= kMaxFoldedBytes &&
             std::all_of(in.begin(), in.end(),
                         [](const TensorDesc* d) { return d == nullptr || d->constant != nullptr; })) {
    std::vector<const Tensor*> content;
    content.reserve(in.size());
    for (const TensorDesc* d : in) content.push_back(d == nullptr ? nullptr : d->constant);
    ASSIGN_OR_RETURN(folded, ComputeNode(node, inferred, content));
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    TensorDesc desc = inferred.out[i];
    desc.constant = nullptr;
    if (!folded.empty()) desc.constant = &(plan.constants[node.outputs[i]] = std::move(folded[i]));
    plan.values[node.outputs[i]] = std::move(desc);
  }
  return !folded.empty();
}

}  // namespace

const TensorDesc& InferredPlan::Value(std::string_view name) const {
  const auto it = values.find(std::string(name));
  CHECK(it != values.end()) << "no value '" << AbslView(name) << "'";
  return it->second;
}

std::vector<const TensorDesc*> InferredPlan::Inputs(const Node& node) const {
  std::vector<const TensorDesc*> in;
  in.reserve(node.inputs.size());
  for (const std::string& name : node.inputs) in.push_back(name.empty() ? nullptr : &Value(name));
  return in;
}

absl::Status CheckInputs(const Graph& graph, std::span<const TensorDesc> inputs) {
  if (inputs.size() != graph.inputs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model has ", graph.inputs.size(), " inputs, ", inputs.size(), " are given"));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ValueInfo& want = graph.inputs[i];
    const TensorDesc& have = inputs[i];
    if (have.dtype != want.dtype || !Fits(want, have.shape)) {
      return absl::InvalidArgumentError(absl::StrCat("input '", want.name, "' is ", DTypeName(have.dtype), " ",
                                                     ShapeString(have.shape), "; the model wants ",
                                                     DTypeName(want.dtype), " ", DeclaredShape(want)));
    }
    if (const auto bytes = CheckedBytes(have); !bytes.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("input '", want.name, "': ", bytes.status().message()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<InferredPlan> InferShapes(const Graph& graph, std::span<const TensorDesc> inputs) {
  RETURN_IF_ERROR(CheckInputs(graph, inputs));
  InferredPlan plan;
  for (const auto& [name, tensor] : graph.initializers) {
    plan.values[name] = {tensor.dtype(), tensor.shape(), &tensor};
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    plan.values[graph.inputs[i].name] = {inputs[i].dtype, inputs[i].shape, nullptr};
  }
  plan.folded.reserve(graph.nodes.size());
  for (const Node& node : graph.nodes) {
    for (const std::string& name : node.inputs) {
      if (name.empty() || plan.values.contains(name)) continue;
      return AtNode(node,
                    absl::InvalidArgumentError(absl::StrCat("input '", name, "' is not defined before the node")));
    }
    const absl::StatusOr<bool> folded = AddNode(node, plan);
    if (!folded.ok()) return AtNode(node, folded.status());
    plan.folded.push_back(*folded);
  }
  for (const ValueInfo& output : graph.outputs) {
    if (!plan.values.contains(output.name)) {
      return absl::InvalidArgumentError(absl::StrCat("graph output '", output.name, "' is not defined"));
    }
  }
  return plan;
}

absl::StatusOr<std::vector<Tensor>> EvaluateNode(const Node& node, std::span<const Tensor* const> inputs,
                                                 int64_t max_bytes) {
  std::vector<TensorDesc> descs(inputs.size());
  std::vector<const TensorDesc*> in(inputs.size(), nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == nullptr) continue;
    descs[i] = {inputs[i]->dtype(), inputs[i]->shape(), inputs[i]};
    in[i] = &descs[i];
  }
  const absl::StatusOr<Inferred> inferred = InferNode(node, in);
  if (!inferred.ok()) return AtNode(node, inferred.status());
  if (inferred->bytes > max_bytes) {
    return AtNode(node, absl::ResourceExhaustedError(
                            absl::StrCat("the result has ", inferred->bytes, " bytes; at most ", max_bytes)));
  }
  absl::StatusOr<std::vector<Tensor>> out = ComputeNode(node, *inferred, inputs);
  if (!out.ok()) return AtNode(node, out.status());
  return out;
}

absl::StatusOr<Tensor> AlignedTensor(const Tensor& tensor) {
  const size_t size = static_cast<size_t>(std::max(DTypeBits(tensor.dtype()) / 8, 1));
  if (reinterpret_cast<uintptr_t>(tensor.bytes().data()) % size == 0) return tensor;
  return tensor.Clone();
}

absl::Status AtNode(const Node& node, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("node '", node.name, "' (", node.op_type, "): ", status.message()));
}

}  // namespace quant

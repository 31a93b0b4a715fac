// SPDX-License-Identifier: Apache-2.0
// The second half of reading an ONNX file: a checked ModelProto to a Graph.
#include <set>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "onnx/onnx_pb.h"
#include "worker/formats/onnx/lift.h"
#include "worker/formats/onnx/lower.h"
#include "worker/formats/onnx/model_proto.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/onnx/tensor_proto.h"

namespace quant {
namespace {

using onnx::AttributeProto;

constexpr char kProducer[] = "quantd";
// ConstantOfShape becomes an initializer up to this size; a larger one stays an instruction of a few bytes.
constexpr int64_t kMaxFilledBytes = 1 << 20;

// Names end up in reports and metrics, which are UTF-8.
absl::Status CheckName(std::string_view what, const std::string& name) {
  if (IsValidUtf8(name) && name.find('\0') == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the name of ", AbslView(what), " ", Quoted(name), " is not UTF-8 text"));
}

absl::StatusOr<ValueInfo> ToValueInfo(const onnx::ValueInfoProto& proto) {
  RETURN_IF_ERROR(CheckName("value", proto.name()));
  ValueInfo info;
  info.name = proto.name();
  if (!proto.type().has_tensor_type()) {
    return absl::UnimplementedError(absl::StrCat("value ", Quoted(proto.name()), " is not a tensor: not supported"));
  }
  const auto& type = proto.type().tensor_type();
  const absl::StatusOr<DType> dtype = FromOnnxType(type.elem_type());
  if (!dtype.ok()) {
    return absl::Status(dtype.status().code(),
                        absl::StrCat("value ", Quoted(proto.name()), ": ", dtype.status().message()));
  }
  info.dtype = *dtype;
  info.has_shape = type.has_shape();
  if (type.shape().dim_size() > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat("value ", Quoted(proto.name()), " has rank ", type.shape().dim_size(), "; at most ", kMaxRank));
  }
  for (const auto& d : type.shape().dim()) {
    Dim dim;
    if (d.has_dim_value()) {
      // Some exporters write -1 for "unknown".
      if (d.dim_value() < -1 || d.dim_value() > kMaxElements) {
        return absl::InvalidArgumentError(
            absl::StrCat("value ", Quoted(proto.name()), " has a dimension of ", d.dim_value()));
      }
      dim.value = d.dim_value();
    } else {
      RETURN_IF_ERROR(CheckName("dimension", d.dim_param()));
      dim.symbol = d.dim_param();
    }
    info.shape.push_back(std::move(dim));
  }
  return info;
}

absl::StatusOr<Attribute> ToAttribute(AttributeProto& a) {
  if (!a.ref_attr_name().empty()) return absl::InvalidArgumentError("refers to an attribute of a function");
  switch (a.type()) {
    case AttributeProto::INT:
      return Attribute(static_cast<int64_t>(a.i()));
    case AttributeProto::FLOAT:
      return Attribute(a.f());
    case AttributeProto::STRING:
      return Attribute(std::move(*a.mutable_s()));
    case AttributeProto::INTS:
      return Attribute(std::vector<int64_t>(a.ints().begin(), a.ints().end()));
    case AttributeProto::FLOATS:
      return Attribute(std::vector<float>(a.floats().begin(), a.floats().end()));
    case AttributeProto::STRINGS:
      return Attribute(std::vector<std::string>(a.strings().begin(), a.strings().end()));
    case AttributeProto::TENSOR: {
      ASSIGN_OR_RETURN(Tensor t, TakeTensor(*a.mutable_t()));
      return Attribute(std::move(t));
    }
    default:
      return absl::UnimplementedError(absl::StrCat("is of type ", AttributeProto::AttributeType_Name(a.type())));
  }
}

absl::StatusOr<Node> ToNode(onnx::NodeProto& proto) {
  Node node;
  node.name = proto.name();
  node.op_type = proto.op_type();
  node.domain = proto.domain() == "ai.onnx" ? "" : proto.domain();
  RETURN_IF_ERROR(CheckName("node", node.name));
  RETURN_IF_ERROR(CheckName("operator", node.op_type));
  node.inputs.assign(proto.input().begin(), proto.input().end());
  node.outputs.assign(proto.output().begin(), proto.output().end());
  for (const std::string& o : node.outputs) RETURN_IF_ERROR(CheckName("value", o));
  for (AttributeProto& a : *proto.mutable_attribute()) {
    absl::StatusOr<Attribute> value = ToAttribute(a);
    if (!value.ok()) {
      return absl::Status(value.status().code(),
                          absl::StrCat("node ", Quoted(node.name), " (", node.op_type, "): attribute ",
                                       Quoted(a.name()), ": ", value.status().message()));
    }
    node.attributes.insert_or_assign(a.name(), *std::move(value));
  }
  return node;
}

// The tensor a Constant node stands for, from any of its attributes.
absl::StatusOr<Tensor> ConstantValue(const Node& node) {
  for (const auto& [key, value] : node.attributes) {
    if (const Tensor* t = std::get_if<Tensor>(&value)) return *t;
    if (const int64_t* i = std::get_if<int64_t>(&value)) return Tensor::Scalar(*i);
    if (const float* f = std::get_if<float>(&value)) return Tensor::Scalar(*f);
    if (const auto* is = std::get_if<std::vector<int64_t>>(&value)) {
      return Tensor::Of<int64_t>({static_cast<int64_t>(is->size())}, *is);
    }
    if (const auto* fs = std::get_if<std::vector<float>>(&value)) {
      return Tensor::Of<float>({static_cast<int64_t>(fs->size())}, *fs);
    }
  }
  return absl::UnimplementedError(absl::StrCat("node ", Quoted(node.name), " (Constant) has no numeric value"));
}

// The tensor a ConstantOfShape stands for, or nullopt when its shape is not constant or the result is large.
absl::StatusOr<std::optional<Tensor>> FilledValue(const Graph& graph, const Node& node) {
  const Tensor* shape = graph.Initializer(node.input(0));
  if (shape == nullptr || shape->dtype() != DType::kInt64 || shape->rank() != 1) return std::optional<Tensor>();
  ASSIGN_OR_RETURN(const Shape dims, ToInt64(*shape));
  Tensor fill = Tensor::Scalar(0.0f);
  if (const auto it = node.attributes.find("value"); it != node.attributes.end()) {
    const Tensor* t = std::get_if<Tensor>(&it->second);
    if (t == nullptr || t->elements() != 1) return std::optional<Tensor>();
    fill = *t;
  }
  ASSIGN_OR_RETURN(const int64_t elements, ElementCount(dims));
  const size_t width = fill.bytes().size();
  if (DTypeBits(fill.dtype()) < 8 || elements > kMaxFilledBytes / static_cast<int64_t>(width))
    return std::optional<Tensor>();
  ASSIGN_OR_RETURN(Tensor out, Tensor::Allocate(fill.dtype(), dims));
  std::span<std::byte> bytes = out.mutable_bytes();
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = fill.bytes()[i % width];
  return std::optional<Tensor>(std::move(out));
}

// Gives every node a name of its own, keeping those there are.
void NameNodes(Graph& graph) {
  std::unordered_set<std::string> used;
  std::vector<size_t> nameless;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (graph.nodes[i].name.empty() || !used.insert(graph.nodes[i].name).second) nameless.push_back(i);
  }
  for (const size_t i : nameless) {
    Node& n = graph.nodes[i];
    const std::string base = absl::StrCat(n.name.empty() ? n.op_type : n.name, "_", i);
    std::string name = base;
    for (int k = 1; !used.insert(name).second; ++k) name = absl::StrCat(base, "_", k);
    n.name = std::move(name);
  }
}

absl::Status AddInitializer(std::string name, Tensor tensor, Graph& graph) {
  RETURN_IF_ERROR(CheckName("initializer", name));
  if (name.empty() || !graph.initializers.emplace(name, std::move(tensor)).second) {
    return absl::InvalidArgumentError(absl::StrCat("initializer ", Quoted(name), " is nameless or defined twice"));
  }
  return absl::OkStatus();
}

void ReadHeader(const onnx::ModelProto& proto, Graph& graph) {
  graph.name = proto.graph().name();
  graph.producer = proto.producer_name();
  for (const auto& import : proto.opset_import()) {
    if (!import.domain().empty() && import.domain() != "ai.onnx")
      graph.other_opsets[import.domain()] = import.version();
  }
  for (const auto& entry : proto.metadata_props()) graph.metadata[entry.key()] = entry.value();
  // The original producer of what we exported: see FillHeader in export.cc.
  if (const auto it = graph.metadata.find("original_producer");
      it != graph.metadata.end() && graph.producer == kProducer) {
    graph.producer = it->second;
    graph.metadata.erase(it);
  }
}

absl::StatusOr<Graph> BuildGraph(ParsedOnnx model) {
  Graph graph;
  onnx::GraphProto& proto = *model.proto->mutable_graph();
  graph.opset = model.opset;
  ReadHeader(*model.proto, graph);
  for (auto& t : *proto.mutable_initializer()) {
    std::string name = t.name();
    absl::StatusOr<Tensor> tensor = TakeTensor(t);
    if (!tensor.ok()) {
      return absl::Status(tensor.status().code(),
                          absl::StrCat("initializer ", Quoted(name), ": ", tensor.status().message()));
    }
    RETURN_IF_ERROR(AddInitializer(std::move(name), *std::move(tensor), graph));
  }
  for (auto& [name, tensor] : model.external) RETURN_IF_ERROR(AddInitializer(name, std::move(tensor), graph));

  // Before IR version 4 every initializer is listed as an input too; since then that makes it a default the caller may
  // override, which a quantized model cannot honour: both are constants here.
  for (const auto& v : proto.input()) {
    if (graph.Initializer(v.name()) != nullptr) continue;
    ASSIGN_OR_RETURN(ValueInfo info, ToValueInfo(v));
    graph.inputs.push_back(std::move(info));
  }
  std::set<std::string> outputs;
  for (const auto& v : proto.output()) {
    ASSIGN_OR_RETURN(ValueInfo info, ToValueInfo(v));
    if (!outputs.insert(info.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("graph output ", Quoted(info.name), " is listed twice"));
    }
    graph.outputs.push_back(std::move(info));
  }
  for (const auto& v : proto.value_info()) {
    if (graph.Initializer(v.name()) != nullptr) continue;
    absl::StatusOr<ValueInfo> info = ToValueInfo(v);
    if (info.ok()) graph.value_info.insert_or_assign(v.name(), *std::move(info));
  }
  for (onnx::NodeProto& n : *proto.mutable_node()) {
    ASSIGN_OR_RETURN(Node node, ToNode(n));
    n.Clear();
    std::optional<Tensor> constant;
    if (node.domain.empty() && node.op_type == "Constant" && node.outputs.size() == 1) {
      ASSIGN_OR_RETURN(constant, ConstantValue(node));
    } else if (node.domain.empty() && node.op_type == "ConstantOfShape" && node.outputs.size() == 1) {
      ASSIGN_OR_RETURN(constant, FilledValue(graph, node));
    }
    if (!constant.has_value()) {
      graph.nodes.push_back(std::move(node));
      continue;
    }
    graph.value_info.erase(node.outputs[0]);
    RETURN_IF_ERROR(AddInitializer(node.outputs[0], *std::move(constant), graph));
  }
  NameNodes(graph);
  return graph;
}

absl::StatusOr<Graph> Import(const std::filesystem::path& file, const OnnxImportOptions& options) {
  ASSIGN_OR_RETURN(ParsedOnnx model, ParseOnnx(file, options.max_weight_bytes));
  ASSIGN_OR_RETURN(Graph graph, BuildGraph(std::move(model)));
  RETURN_IF_ERROR(LiftToOpset13(graph));
  RaiseBnb4(graph);
  RETURN_IF_ERROR(graph.Validate());
  return graph;
}

}  // namespace

absl::StatusOr<Graph> ImportOnnx(const std::filesystem::path& file, const OnnxImportOptions& options) {
  absl::StatusOr<Graph> graph = Import(file, options);
  if (graph.ok() || graph.status().code() == absl::StatusCode::kNotFound) return graph;
  return absl::Status(graph.status().code(), absl::StrCat(file.filename().string(), ": ", graph.status().message()));
}

}  // namespace quant

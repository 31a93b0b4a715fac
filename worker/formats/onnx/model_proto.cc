// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/onnx/model_proto.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "onnx/checker.h"
#include "onnx/defs/schema.h"
#include "onnx/onnx_pb.h"
#include "onnx/shape_inference/implementation.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/onnx/external_data.h"
#include "worker/formats/onnx/tensor_proto.h"

namespace quant {
namespace {

using onnx::AttributeProto;
using onnx::ModelProto;
using onnx::NodeProto;
using onnx::TensorProto;

constexpr int64_t kMinOpset = 7;
constexpr int64_t kMaxOpset = 22;
// libonnx 1.17 knows IR versions to 10; 11 to 13 add nothing that a model of opset 22 or less can use.
constexpr int64_t kKnownIr = 10;
constexpr int64_t kMaxIr = 13;
// Protobuf spends some 200 bytes on a node of two; beyond this a file is not a model.
constexpr int kMaxNodes = 1'000'000;
// External tensors up to here are copied into the model, for shape inference to see axes, shapes and the like.
constexpr int64_t kInlineBytes = 4096;
constexpr size_t kMaxListed = 50;

// Operators libonnx still passes as "experimental" that lift.cc rewrites in standard ones.
bool IsRewrittenExperimental(const std::string& op) { return op == "ImageScaler" || op == "Crop" || op == "Affine"; }

bool IsStandard(const std::string& domain) { return domain.empty() || domain == "ai.onnx"; }

std::string NodeLabel(const NodeProto& node, int index) {
  return node.name().empty() ? absl::StrCat(Quoted(node.op_type()), " (node ", index, ")")
                             : absl::StrCat(Quoted(node.op_type()), " (node ", Quoted(node.name()), ")");
}

absl::StatusOr<std::shared_ptr<ModelProto>> Parse(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  const std::string name = Quoted(file.filename().string());
  const size_t size = mapped->bytes().size();
  if (size > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " has ", size, " bytes; an ONNX file cannot exceed 2147483647, keep the weights as external data"));
  }
  auto proto = std::make_shared<ModelProto>();
  if (!proto->ParseFromArray(mapped->bytes().data(), static_cast<int>(size)) || !proto->has_graph()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " (", size, " bytes) is not an ONNX model, or it is truncated or damaged"));
  }
  return proto;
}

absl::StatusOr<int64_t> StandardOpset(const ModelProto& proto) {
  if (proto.ir_version() > kMaxIr) {
    return absl::UnimplementedError(
        absl::StrCat("ONNX IR version ", proto.ir_version(), " is not supported; at most ", kMaxIr));
  }
  std::set<std::string> domains;
  int64_t opset = 0;
  for (const auto& import : proto.opset_import()) {
    const std::string domain = IsStandard(import.domain()) ? "" : import.domain();
    if (!domains.insert(domain).second) {
      return absl::InvalidArgumentError(absl::StrCat("operator set ", Quoted(domain), " is imported twice"));
    }
    if (domain.empty()) opset = import.version();
  }
  if (opset < kMinOpset || opset > kMaxOpset) {
    return absl::UnimplementedError(absl::StrCat("operator set version ", opset, " is not supported; ", kMinOpset,
                                                 " to ", kMaxOpset, " are: convert the model to one of these"));
  }
  return opset;
}

// What we cannot represent, all of it.
absl::Status CheckSupportedForm(const ModelProto& proto, int64_t opset) {
  const onnx::GraphProto& graph = proto.graph();
  if (graph.node_size() > kMaxNodes || graph.initializer_size() > kMaxNodes) {
    return absl::InvalidArgumentError(absl::StrCat("the model has ", graph.node_size(), " nodes and ",
                                                   graph.initializer_size(), " initializers; at most ", kMaxNodes));
  }
  std::vector<std::string> problems;
  if (proto.training_info_size() > 0) problems.push_back("training information");
  for (const auto& f : proto.functions()) problems.push_back(absl::StrCat("function ", Quoted(f.name())));
  if (graph.sparse_initializer_size() > 0) problems.push_back("sparse initializers");
  for (const TensorProto& t : graph.initializer()) {
    if (const auto dtype = FromOnnxType(t.data_type()); !dtype.ok()) {
      problems.push_back(absl::StrCat("initializer ", Quoted(t.name()), ": ", dtype.status().message()));
    }
  }
  for (int i = 0; i < graph.node_size(); ++i) {
    const NodeProto& node = graph.node(i);
    if (IsStandard(node.domain())) {
      const onnx::OpSchema* schema = onnx::OpSchemaRegistry::Schema(node.op_type(), static_cast<int>(opset), "");
      if (schema == nullptr && !IsRewrittenExperimental(node.op_type())) {
        problems.push_back(absl::StrCat("operator ", NodeLabel(node, i), " is not in ONNX operator set ", opset));
        continue;
      }
      if (schema != nullptr && schema->Deprecated()) {
        problems.push_back(absl::StrCat("operator ", NodeLabel(node, i), " was removed before operator set ", opset));
        continue;
      }
    }
    for (const AttributeProto& a : node.attribute()) {
      const char* what = nullptr;
      if (a.has_g() || a.graphs_size() > 0) what = "a sub-graph";
      if (a.has_sparse_tensor() || a.sparse_tensors_size() > 0) what = "a sparse tensor";
      if (a.tensors_size() > 0) what = "a list of tensors";
      if (a.has_tp() || a.type_protos_size() > 0) what = "a type";
      if (a.has_t() && !FromOnnxType(a.t().data_type()).ok()) what = "a tensor of an unsupported type";
      if (what != nullptr) {
        problems.push_back(
            absl::StrCat("operator ", NodeLabel(node, i), " has ", what, " in attribute ", Quoted(a.name())));
      }
    }
  }
  if (problems.empty()) return absl::OkStatus();
  const size_t total = problems.size();
  if (total > kMaxListed) problems.resize(kMaxListed);
  return absl::UnimplementedError(
      absl::StrCat("the model uses what is not supported: ", absl::StrJoin(problems, "; "),
                   total > kMaxListed ? absl::StrCat("; and ", total - kMaxListed, " more") : ""));
}

bool IsExternal(const TensorProto& t) {
  return (t.has_data_location() && t.data_location() == TensorProto::EXTERNAL) || t.external_data_size() > 0;
}

void Inline(const Tensor& tensor, TensorProto& proto) {
  proto.clear_external_data();
  proto.clear_data_location();
  proto.set_raw_data(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
}

// An input that stands for an external initializer while libonnx looks at the model.
void AddStandIn(const TensorProto& t, onnx::GraphProto& graph) {
  onnx::ValueInfoProto& v = *graph.add_input();
  v.set_name(t.name());
  auto* type = v.mutable_type()->mutable_tensor_type();
  type->set_elem_type(t.data_type());
  type->mutable_shape();
  for (const int64_t d : t.dims()) type->mutable_shape()->add_dim()->set_dim_value(d);
}

class WeightBudget {
 public:
  explicit WeightBudget(int64_t max) : max_(max) {}
  absl::Status Take(const TensorProto& t) {
    ASSIGN_OR_RETURN(const int64_t bytes, DeclaredBytes(t));
    if (bytes > max_ - used_) {
      return absl::InvalidArgumentError(absl::StrCat("the weights exceed the limit of ", max_, " bytes for a model"));
    }
    used_ += bytes;
    return absl::OkStatus();
  }

 private:
  int64_t max_;
  int64_t used_ = 0;
};

absl::Status InContext(const absl::Status& status, std::string_view what, const std::string& name) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(AbslView(what), " ", Quoted(name), ": ", status.message()));
}

// Sizes of all tensors, in total and against the data there is; external data is mapped or put in place.
absl::Status ResolveTensors(const std::filesystem::path& folder, int64_t max_bytes, ParsedOnnx& model) {
  onnx::GraphProto& graph = *model.proto->mutable_graph();
  WeightBudget budget(max_bytes);
  for (const TensorProto& t : graph.initializer()) RETURN_IF_ERROR(InContext(budget.Take(t), "initializer", t.name()));

  ExternalData files(folder);
  std::set<std::string> inputs;
  for (const auto& v : graph.input()) inputs.insert(v.name());
  google::protobuf::RepeatedPtrField<TensorProto> kept;
  for (TensorProto& t : *graph.mutable_initializer()) {
    if (!IsExternal(t)) {
      RETURN_IF_ERROR(InContext(CheckInlineData(t), "initializer", t.name()));
      kept.Add()->Swap(&t);
      continue;
    }
    absl::StatusOr<Tensor> tensor = files.Read(t);
    if (!tensor.ok()) return InContext(tensor.status(), "initializer", t.name());
    if (static_cast<int64_t>(tensor->bytes().size()) <= kInlineBytes) {
      Inline(*tensor, t);
      kept.Add()->Swap(&t);
      continue;
    }
    if (!inputs.contains(t.name())) AddStandIn(t, graph);
    if (!model.external.emplace(t.name(), *std::move(tensor)).second) {
      return absl::InvalidArgumentError(absl::StrCat("initializer ", Quoted(t.name()), " is defined twice"));
    }
  }
  graph.mutable_initializer()->Swap(&kept);

  for (NodeProto& node : *graph.mutable_node()) {
    for (AttributeProto& a : *node.mutable_attribute()) {
      if (!a.has_t()) continue;
      RETURN_IF_ERROR(InContext(budget.Take(a.t()), "node", node.name()));
      if (!IsExternal(a.t())) {
        RETURN_IF_ERROR(InContext(CheckInlineData(a.t()), "node", node.name()));
        continue;
      }
      absl::StatusOr<Tensor> tensor = files.Read(a.t());
      if (!tensor.ok()) return InContext(tensor.status(), "node", node.name());
      Inline(*tensor, *a.mutable_t());
    }
  }
  return absl::OkStatus();
}

// What libonnx says, on one line and fit to be sent.
std::string OneLine(const char* what) {
  std::string text;
  for (const char* c = what; *c != '\0'; ++c) {
    if (*c != '\n') {
      text += *c;
    } else if (!text.empty() && text.back() != ' ') {
      text += ' ';
    }
  }
  return IsValidUtf8(text) ? text : Quoted(text, 1000);
}

absl::Status RunChecker(ModelProto& proto) {
  // The checker insists on a graph name and on shapes of inputs and outputs, which many exporters leave out and
  // nothing depends on: it is shown placeholders.
  onnx::GraphProto& graph = *proto.mutable_graph();
  if (graph.name().empty()) graph.set_name("graph");
  if (proto.ir_version() > kKnownIr) proto.set_ir_version(kKnownIr);
  std::vector<onnx::TypeProto_Tensor*> shapeless;
  for (auto* values : {graph.mutable_input(), graph.mutable_output()}) {
    for (auto& v : *values) {
      if (v.type().has_tensor_type() && !v.type().tensor_type().has_shape()) {
        shapeless.push_back(v.mutable_type()->mutable_tensor_type());
        shapeless.back()->mutable_shape();
      }
    }
  }
  try {
    onnx::checker::check_model(proto);
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("the model fails ONNX's checker: ", OneLine(e.what())));
  }
  for (onnx::TypeProto_Tensor* t : shapeless) t->clear_shape();
  return absl::OkStatus();
}

// The input that holds a convolution's kernel; 0: it is none.
int KernelInput(const NodeProto& node) {
  if (!IsStandard(node.domain())) return 0;
  const std::string& op = node.op_type();
  if (op == "QLinearConv") return 3;
  return op == "Conv" || op == "ConvTranspose" || op == "ConvInteger" || op == "DeformConv" ? 1 : 0;
}

// Names the kernel's shape in every convolution that leaves it to its weights, for as long as it lives. libonnx 1.17
// compares the input's rank with that of a kernel_shape, but not with that of weights: it then reads what is not there.
class KernelShapes {
 public:
  explicit KernelShapes(onnx::GraphProto& graph) {
    std::map<std::string, std::vector<int64_t>> dims;
    for (const TensorProto& t : graph.initializer()) dims[t.name()] = {t.dims().begin(), t.dims().end()};
    for (const auto& input : graph.input()) {
      std::vector<int64_t>& of_input = dims[input.name()];
      of_input.clear();
      for (const auto& d : input.type().tensor_type().shape().dim()) of_input.push_back(d.dim_value());
    }
    for (NodeProto& node : *graph.mutable_node()) {
      const std::string& op = node.op_type();
      if ((op == "QuantizeLinear" || op == "DequantizeLinear" || op == "Cast" || op == "Identity") &&
          node.input_size() > 0 && node.output_size() > 0) {
        if (const auto from = dims.find(node.input(0)); from != dims.end()) dims[node.output(0)] = from->second;
      }
      const int kernel = KernelInput(node);
      const bool told = std::any_of(node.attribute().begin(), node.attribute().end(),
                                    [](const AttributeProto& a) { return a.name() == "kernel_shape"; });
      if (kernel == 0 || told) continue;
      const auto shape = kernel < node.input_size() ? dims.find(node.input(kernel)) : dims.end();
      if (shape == dims.end() || shape->second.size() < 2 ||
          std::any_of(shape->second.begin() + 2, shape->second.end(), [](int64_t d) { return d <= 0; })) {
        complete_ = false;
        continue;
      }
      AttributeProto& attribute = *node.add_attribute();
      attribute.set_name("kernel_shape");
      attribute.set_type(AttributeProto::INTS);
      for (size_t i = 2; i < shape->second.size(); ++i) attribute.add_ints(shape->second[i]);
      named_.push_back(&node);
    }
  }
  ~KernelShapes() {
    for (NodeProto* node : named_) node->mutable_attribute()->RemoveLast();
  }
  KernelShapes(const KernelShapes&) = delete;
  KernelShapes& operator=(const KernelShapes&) = delete;
  // Whether every convolution has one now.
  bool complete() const { return complete_; }

 private:
  std::vector<NodeProto*> named_;
  bool complete_ = true;
};

// Types of inner values are a help, not a need: where libonnx finds no answer the runtime derives them itself.
void InferTypes(ModelProto& proto) {
  const KernelShapes shapes(*proto.mutable_graph());
  if (!shapes.complete()) {
    LOG(INFO) << "no ONNX shape inference: a convolution has neither kernel_shape nor weights of a known shape";
    return;
  }
  try {
    onnx::shape_inference::InferShapes(proto, onnx::OpSchemaRegistry::Instance(),
                                       onnx::ShapeInferenceOptions(false, 0, true));
  } catch (const std::exception& e) {
    LOG(INFO) << "ONNX shape inference gives up: " << OneLine(e.what());
  }
}

}  // namespace

absl::StatusOr<ParsedOnnx> ParseOnnx(const std::filesystem::path& file, int64_t max_weight_bytes) {
  ParsedOnnx model;
  ASSIGN_OR_RETURN(model.proto, Parse(file));
  ASSIGN_OR_RETURN(model.opset, StandardOpset(*model.proto));
  RETURN_IF_ERROR(CheckSupportedForm(*model.proto, model.opset));
  RETURN_IF_ERROR(ResolveTensors(file.parent_path(), max_weight_bytes, model));
  RETURN_IF_ERROR(RunChecker(*model.proto));
  InferTypes(*model.proto);
  return model;
}

}  // namespace quant

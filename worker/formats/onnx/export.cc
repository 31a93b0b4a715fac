// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "onnx/onnx_pb.h"
#include "worker/formats/file/atomic_file.h"
#include "worker/formats/onnx/lift.h"
#include "worker/formats/onnx/lower.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/onnx/tensor_proto.h"

namespace quant {
namespace {

constexpr char kProducer[] = "quantd";
constexpr size_t kMinExternalBytes = 1024;
constexpr int64_t kExternalAlignment = 4096;

// onnx/onnx docs/Versioning.md: the first IR version released with an operator set.
int64_t IrVersionFor(int64_t opset) {
  if (opset >= 23) return 11;
  if (opset >= 21) return 10;
  if (opset >= 19) return 9;
  if (opset >= 15) return 8;
  return 7;
}

bool Is16Bit(const Tensor* t) { return t != nullptr && (t->dtype() == DType::kInt16 || t->dtype() == DType::kUInt16); }

// Whether the graph holds what operator set 21 brought: 4-bit tensors, 16-bit or blocked Q/DQ.
bool NeedsOpset21(const Graph& graph) {
  for (const auto& [name, t] : graph.initializers) {
    if (DTypeBits(t.dtype()) == 4) return true;
  }
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const Node& n) {
    if (!n.domain.empty() || (n.op_type != "QuantizeLinear" && n.op_type != "DequantizeLinear")) return false;
    return n.Int("block_size", 0) != 0 || Is16Bit(graph.Initializer(n.input(0))) ||
           Is16Bit(graph.Initializer(n.input(2)));
  });
}

// Sends protobuf's output to an AtomicFile in pieces.
class AtomicFileStream : public google::protobuf::io::CopyingOutputStream {
 public:
  explicit AtomicFileStream(AtomicFile& file) : file_(file) {}
  bool Write(const void* data, int size) override {
    if (status_.ok()) status_ = file_.Write({static_cast<const char*>(data), static_cast<size_t>(size)});
    return status_.ok();
  }
  const absl::Status& status() const { return status_; }

 private:
  AtomicFile& file_;
  absl::Status status_;
};

absl::Status WriteProto(const onnx::ModelProto& proto, const std::filesystem::path& file) {
  if (proto.ByteSizeLong() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError("the model exceeds 2 GiB as one file");
  }
  ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::Create(file));
  AtomicFileStream stream(out);
  bool written = false;
  {
    google::protobuf::io::CopyingOutputStreamAdaptor adaptor(&stream);
    google::protobuf::io::CodedOutputStream coded(&adaptor);
    coded.SetSerializationDeterministic(true);
    written = proto.SerializeToCodedStream(&coded);
    coded.Trim();
    written = adaptor.Flush() && written;
  }
  RETURN_IF_ERROR(stream.status());
  if (!written) return absl::InternalError("protobuf could not serialize the model");
  return out.Commit();
}

void FillValueInfo(const ValueInfo& info, onnx::ValueInfoProto* proto) {
  proto->set_name(info.name);
  auto* type = proto->mutable_type()->mutable_tensor_type();
  type->set_elem_type(ToOnnxType(info.dtype));
  if (!info.has_shape) return;
  type->mutable_shape();
  for (const Dim& d : info.shape) {
    auto* dim = type->mutable_shape()->add_dim();
    if (!d.symbol.empty()) {
      dim->set_dim_param(d.symbol);
    } else if (d.known()) {
      dim->set_dim_value(d.value);
    }
  }
}

void FillAttribute(const std::string& name, const Attribute& value, onnx::AttributeProto* proto) {
  using onnx::AttributeProto;
  proto->set_name(name);
  if (const auto* i = std::get_if<int64_t>(&value)) {
    proto->set_type(AttributeProto::INT);
    proto->set_i(*i);
  } else if (const auto* f = std::get_if<float>(&value)) {
    proto->set_type(AttributeProto::FLOAT);
    proto->set_f(*f);
  } else if (const auto* s = std::get_if<std::string>(&value)) {
    proto->set_type(AttributeProto::STRING);
    proto->set_s(*s);
  } else if (const auto* is = std::get_if<std::vector<int64_t>>(&value)) {
    proto->set_type(AttributeProto::INTS);
    for (const int64_t v : *is) proto->add_ints(v);
  } else if (const auto* fs = std::get_if<std::vector<float>>(&value)) {
    proto->set_type(AttributeProto::FLOATS);
    for (const float v : *fs) proto->add_floats(v);
  } else if (const auto* ss = std::get_if<std::vector<std::string>>(&value)) {
    proto->set_type(AttributeProto::STRINGS);
    for (const std::string& v : *ss) proto->add_strings(v);
  } else if (const auto* t = std::get_if<Tensor>(&value)) {
    proto->set_type(AttributeProto::TENSOR);
    FillTensorProto("", *t, true, proto->mutable_t());
  }
}

void FillNode(const Node& node, onnx::NodeProto* proto) {
  proto->set_name(node.name);
  proto->set_op_type(node.op_type);
  proto->set_domain(node.domain);
  for (const std::string& in : node.inputs) proto->add_input(in);
  for (const std::string& out : node.outputs) proto->add_output(out);
  for (const auto& [name, value] : node.attributes) FillAttribute(name, value, proto->add_attribute());
}

void FillHeader(const Graph& graph, onnx::ModelProto* proto) {
  proto->set_ir_version(IrVersionFor(graph.opset));
  proto->set_producer_name(kProducer);
  auto* standard = proto->add_opset_import();
  standard->set_domain("");
  standard->set_version(graph.opset);
  for (const auto& [domain, version] : graph.other_opsets) {
    auto* import = proto->add_opset_import();
    import->set_domain(domain);
    import->set_version(version);
  }
  std::map<std::string, std::string> metadata = graph.metadata;
  if (!graph.producer.empty() && graph.producer != kProducer) metadata["original_producer"] = graph.producer;
  for (const auto& [key, value] : metadata) {
    auto* entry = proto->add_metadata_props();
    entry->set_key(key);
    entry->set_value(value);
  }
}

void SetExternal(const std::string& location, int64_t offset, int64_t length, onnx::TensorProto* proto) {
  proto->set_data_location(onnx::TensorProto::EXTERNAL);
  const std::pair<const char*, std::string> entries[] = {
      {"location", location}, {"offset", absl::StrCat(offset)}, {"length", absl::StrCat(length)}};
  for (const auto& [key, value] : entries) {
    auto* entry = proto->add_external_data();
    entry->set_key(key);
    entry->set_value(value);
  }
}

absl::Status FillInitializers(const Graph& graph, const std::filesystem::path& file, const OnnxExportOptions& options,
                              onnx::GraphProto* proto) {
  if (graph.InitializerBytes() <= options.max_inline_bytes) {
    for (const auto& [name, t] : graph.initializers) FillTensorProto(name, t, true, proto->add_initializer());
    return absl::OkStatus();
  }
  std::filesystem::path data_file = file;
  data_file += ".data";
  ASSIGN_OR_RETURN(AtomicFile data, AtomicFile::Create(data_file));
  for (const auto& [name, t] : graph.initializers) {
    const bool external = t.bytes().size() >= kMinExternalBytes;
    onnx::TensorProto* p = proto->add_initializer();
    FillTensorProto(name, t, !external, p);
    if (!external) continue;
    RETURN_IF_ERROR(data.Pad(kExternalAlignment));
    SetExternal(data_file.filename().string(), data.size(), static_cast<int64_t>(t.bytes().size()), p);
    RETURN_IF_ERROR(data.Write({reinterpret_cast<const char*>(t.bytes().data()), t.bytes().size()}));
  }
  return data.Commit();
}

absl::Status Export(const Graph& graph, const std::filesystem::path& file, const OnnxExportOptions& options) {
  RETURN_IF_ERROR(graph.Validate());
  if (options.portable && NeedsLowering(graph)) {
    Graph lowered = graph;  // weights are shared, not copied
    RETURN_IF_ERROR(LowerToOpset21(lowered));
    RETURN_IF_ERROR(LowerQuantizedLinears(lowered));
    return Export(lowered, file, {.max_inline_bytes = options.max_inline_bytes, .portable = false});
  }
  if (graph.opset < 21 && NeedsOpset21(graph)) {
    Graph raised = graph;  // weights are shared, not copied
    RETURN_IF_ERROR(RaiseOpset(raised, 21));
    return Export(raised, file, options);
  }
  onnx::ModelProto proto;
  FillHeader(graph, &proto);
  onnx::GraphProto* g = proto.mutable_graph();
  g->set_name(graph.name.empty() ? "graph" : graph.name);
  for (const ValueInfo& v : graph.inputs) FillValueInfo(v, g->add_input());
  for (const ValueInfo& v : graph.outputs) FillValueInfo(v, g->add_output());
  for (const Node& n : graph.nodes) {
    FillNode(n, g->add_node());
    if (n.domain.empty()) continue;
    // Shape inference of a reader cannot know operators of other domains; the rest it finds by itself.
    for (const std::string& out : n.outputs) {
      const auto it = graph.value_info.find(out);
      if (it != graph.value_info.end()) FillValueInfo(it->second, g->add_value_info());
    }
  }
  RETURN_IF_ERROR(FillInitializers(graph, file, options, g));
  return WriteProto(proto, file);
}

}  // namespace

absl::Status ExportOnnx(const Graph& graph, const std::filesystem::path& file, const OnnxExportOptions& options) {
  absl::Status status = Export(graph, file, options);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("cannot write ", Quoted(file.filename().string()), ": ", status.message()));
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// ModelBuilder: small ONNX files for tests, valid or not, written with ONNX's own messages so that nothing of what is
// tested has a part in making them.
#ifndef QUANT_WORKER_FORMATS_ONNX_MODEL_BUILDER_H_
#define QUANT_WORKER_FORMATS_ONNX_MODEL_BUILDER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "onnx/onnx_pb.h"
#include "worker/formats/testing.h"

namespace quant {

class ModelBuilder {
 public:
  explicit ModelBuilder(int64_t opset, int64_t ir_version = 8) {
    model_.set_ir_version(ir_version);
    model_.add_opset_import()->set_version(opset);
    model_.mutable_graph()->set_name("test");
  }

  onnx::ModelProto& model() { return model_; }
  onnx::GraphProto& graph() { return *model_.mutable_graph(); }

  ModelBuilder& Input(const std::string& name, const std::vector<int64_t>& shape, int type = onnx::TensorProto::FLOAT) {
    return Value(*graph().add_input(), name, shape, type);
  }
  ModelBuilder& Output(const std::string& name, const std::vector<int64_t>& shape,
                       int type = onnx::TensorProto::FLOAT) {
    return Value(*graph().add_output(), name, shape, type);
  }
  ModelBuilder& Floats(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    onnx::TensorProto& t = AddTensor(name, shape, onnx::TensorProto::FLOAT);
    for (const float v : values) t.add_float_data(v);
    return *this;
  }
  ModelBuilder& Ints(const std::string& name, const std::vector<int64_t>& shape, const std::vector<int64_t>& values) {
    onnx::TensorProto& t = AddTensor(name, shape, onnx::TensorProto::INT64);
    for (const int64_t v : values) t.add_int64_data(v);
    return *this;
  }
  ModelBuilder& Node(const std::string& op, const std::vector<std::string>& in, const std::vector<std::string>& out,
                     const std::string& name = "") {
    onnx::NodeProto& n = *graph().add_node();
    n.set_op_type(op);
    n.set_name(name);
    for (const std::string& v : in) n.add_input(v);
    for (const std::string& v : out) n.add_output(v);
    return *this;
  }
  // Attributes of the newest node.
  ModelBuilder& Attribute(const std::string& key, int64_t v) {
    onnx::AttributeProto& a = AddAttribute(key, onnx::AttributeProto::INT);
    a.set_i(v);
    return *this;
  }
  ModelBuilder& Attribute(const std::string& key, float v) {
    AddAttribute(key, onnx::AttributeProto::FLOAT).set_f(v);
    return *this;
  }
  ModelBuilder& Attribute(const std::string& key, const std::string& v) {
    AddAttribute(key, onnx::AttributeProto::STRING).set_s(v);
    return *this;
  }
  ModelBuilder& Attribute(const std::string& key, const std::vector<int64_t>& values) {
    onnx::AttributeProto& a = AddAttribute(key, onnx::AttributeProto::INTS);
    for (const int64_t v : values) a.add_ints(v);
    return *this;
  }
  ModelBuilder& Attribute(const std::string& key, const std::vector<float>& values) {
    onnx::AttributeProto& a = AddAttribute(key, onnx::AttributeProto::FLOATS);
    for (const float v : values) a.add_floats(v);
    return *this;
  }

  onnx::TensorProto& AddTensor(const std::string& name, const std::vector<int64_t>& shape, int type) {
    onnx::TensorProto& t = *graph().add_initializer();
    t.set_name(name);
    t.set_data_type(type);
    for (const int64_t d : shape) t.add_dims(d);
    return t;
  }

  std::string Serialize() const { return model_.SerializeAsString(); }
  void Write(const std::filesystem::path& file) const { testing::WriteFile(file, Serialize()); }

 private:
  ModelBuilder& Value(onnx::ValueInfoProto& v, const std::string& name, const std::vector<int64_t>& shape, int type) {
    v.set_name(name);
    v.mutable_type()->mutable_tensor_type()->set_elem_type(type);
    auto* s = v.mutable_type()->mutable_tensor_type()->mutable_shape();
    for (const int64_t d : shape) s->add_dim()->set_dim_value(d);
    return *this;
  }
  onnx::AttributeProto& AddAttribute(const std::string& key, onnx::AttributeProto::AttributeType type) {
    onnx::AttributeProto& a = *graph().mutable_node(graph().node_size() - 1)->add_attribute();
    a.set_name(key);
    a.set_type(type);
    return a;
  }

  onnx::ModelProto model_;
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_MODEL_BUILDER_H_

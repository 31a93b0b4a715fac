// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/testing/test_graph.h"

#include <algorithm>
#include <cmath>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quant::testing {

std::string TestGraph::Input(Shape shape, DType dtype) {
  ValueInfo info;
  info.name = Name();
  info.dtype = dtype;
  info.has_shape = true;
  for (size_t i = 0; i < shape.size(); ++i) info.shape.push_back(i == 0 ? Dim{-1, "batch"} : Dim{shape[i], ""});
  graph_.inputs.push_back(info);
  input_shapes_.push_back(std::move(shape));
  return info.name;
}

std::string TestGraph::Constant(const Tensor& tensor) {
  const std::string name = Name();
  graph_.initializers[name] = tensor;
  return name;
}

std::string TestGraph::Random(Shape shape, float low, float high) {
  absl::StatusOr<Tensor> t = Tensor::Allocate(DType::kFloat32, std::move(shape));
  CHECK_OK(t.status());
  std::uniform_real_distribution<float> value(low, high);
  for (float& v : t->mutable_data<float>()) v = value(random_);
  return Constant(*t);
}

std::string TestGraph::RandomCodes(DType dtype, Shape shape, int low, int high) {
  absl::StatusOr<Tensor> t = Tensor::Allocate(DType::kInt32, std::move(shape));
  CHECK_OK(t.status());
  std::uniform_int_distribution<int> value(low, high);
  for (int32_t& v : t->mutable_data<int32_t>()) v = value(random_);
  return Constant(*Cast(*t, dtype));
}

std::string TestGraph::Op(std::string type, std::vector<std::string> inputs,
                          std::map<std::string, Attribute> attributes, size_t outputs) {
  Node n;
  n.name = absl::StrCat(type, "_", graph_.nodes.size());
  n.op_type = std::move(type);
  n.inputs = std::move(inputs);
  n.attributes = std::move(attributes);
  const std::string first = Name();
  n.outputs.push_back(first);
  for (size_t i = 1; i < outputs; ++i) n.outputs.push_back(absl::StrCat(first, ".", i));
  graph_.nodes.push_back(std::move(n));
  return first;
}

void TestGraph::Output(const std::string& value, DType dtype) {
  ValueInfo info;
  info.name = value;
  info.dtype = dtype;
  graph_.outputs.push_back(info);
}

namespace {
Tensor ZeroPoint(int zero_point, DType dtype) {
  return *Cast(Tensor::Of<int32_t>({}, std::vector<int32_t>{zero_point}), dtype);
}
}  // namespace

std::string TestGraph::Quantize(const std::string& x, float scale, int zero_point, DType dtype) {
  return Op("QuantizeLinear", {x, Constant(Tensor::Scalar(scale)), Constant(ZeroPoint(zero_point, dtype))});
}

std::string TestGraph::Dequantize(const std::string& q, float scale, int zero_point, DType dtype) {
  return Op("DequantizeLinear", {q, Constant(Tensor::Scalar(scale)), Constant(ZeroPoint(zero_point, dtype))});
}

std::string TestGraph::Weights(Shape shape, int axis, int limit) {
  const std::string codes = RandomCodes(DType::kInt8, shape, -limit, limit);
  std::vector<float> scales(axis < 0 ? 1 : static_cast<size_t>(shape[static_cast<size_t>(axis)]));
  std::uniform_real_distribution<float> value(0.5f / 127, 2.0f / 127);
  for (float& s : scales) s = value(random_);
  Shape scale_shape;
  if (axis >= 0) scale_shape.push_back(shape[static_cast<size_t>(axis)]);
  return Op("DequantizeLinear", {codes, Constant(Tensor::Of<float>(scale_shape, scales))},
            {{"axis", int64_t{std::max(axis, 0)}}});
}

std::shared_ptr<const Graph> TestGraph::Build() { return std::make_shared<const Graph>(graph_); }

std::vector<Tensor> TestGraph::Inputs(int64_t batch) {
  std::vector<Tensor> inputs;
  std::normal_distribution<float> value;
  for (size_t i = 0; i < input_shapes_.size(); ++i) {
    Shape shape = input_shapes_[i];
    shape[0] = batch;
    absl::StatusOr<Tensor> t = Tensor::Allocate(DType::kFloat32, shape);
    CHECK_OK(t.status());
    for (float& v : t->mutable_data<float>()) v = value(random_);
    inputs.push_back(*Cast(*t, graph_.inputs[i].dtype));
  }
  return inputs;
}

Comparison Compare(const std::shared_ptr<const Graph>& graph, const std::vector<Tensor>& inputs, int threads) {
  Comparison c;
  auto reference = Compile(graph, {.backend = Backend::kReference});
  auto fast = Compile(graph, {.threads = threads});
  EXPECT_TRUE(reference.ok()) << reference.status();
  EXPECT_TRUE(fast.ok()) << fast.status();
  if (!reference.ok() || !fast.ok()) return c;
  const auto want = (*reference)->Run(inputs);
  const auto have = (*fast)->Run(inputs);
  EXPECT_TRUE(want.ok()) << want.status();
  EXPECT_TRUE(have.ok()) << have.status();
  if (!want.ok() || !have.ok()) return c;
  c.plan = (*fast)->DescribePlan();
  EXPECT_EQ(want->size(), have->size());
  for (size_t i = 0; i < want->size(); ++i) {
    const Tensor& w = (*want)[i];
    const Tensor& h = (*have)[i];
    EXPECT_EQ(w.dtype(), h.dtype());
    EXPECT_EQ(w.shape(), h.shape());
    const std::vector<float> wf = *ToFloat(w), hf = *ToFloat(h);
    for (size_t k = 0; k < std::min(wf.size(), hf.size()); ++k) {
      if (std::isnan(wf[k]) && std::isnan(hf[k])) continue;
      const double d = std::abs(static_cast<double>(wf[k]) - hf[k]);
      c.greatest = std::max(c.greatest, std::isnan(d) ? 1e30 : d);
      c.magnitude = std::max(c.magnitude, std::abs(static_cast<double>(wf[k])));
    }
  }
  return c;
}

std::string ExpectNear(TestGraph& graph, int64_t batch, double relative, int threads) {
  const Comparison c = Compare(graph.Build(), graph.Inputs(batch), threads);
  EXPECT_GT(c.magnitude, 0.0) << "dull data proves nothing";
  EXPECT_LE(c.greatest, relative * c.magnitude) << c.plan;
  return c.plan;
}

std::string ExpectCodes(TestGraph& graph, int64_t batch, int steps, double share) {
  const std::shared_ptr<const Graph> built = graph.Build();
  const std::vector<Tensor> inputs = graph.Inputs(batch);
  auto reference = Compile(built, {.backend = Backend::kReference});
  auto fast = Compile(built, {.threads = 2});
  EXPECT_TRUE(reference.ok()) << reference.status();
  EXPECT_TRUE(fast.ok()) << fast.status();
  if (!reference.ok() || !fast.ok()) return "";
  const auto want = (*reference)->Run(inputs);
  const auto have = (*fast)->Run(inputs);
  EXPECT_TRUE(want.ok()) << want.status();
  EXPECT_TRUE(have.ok()) << have.status();
  if (!want.ok() || !have.ok()) return "";
  const std::string plan = (*fast)->DescribePlan();
  for (size_t i = 0; i < want->size(); ++i) {
    EXPECT_EQ((*want)[i].dtype(), (*have)[i].dtype());
    EXPECT_EQ((*want)[i].shape(), (*have)[i].shape());
    const std::vector<int64_t> w = *ToInt64((*want)[i]), h = *ToInt64((*have)[i]);
    int64_t different = 0, greatest = 0, low = w[0], high = w[0];
    for (size_t k = 0; k < w.size(); ++k) {
      different += w[k] != h[k];
      greatest = std::max(greatest, std::abs(w[k] - h[k]));
      low = std::min(low, w[k]);
      high = std::max(high, w[k]);
    }
    EXPECT_LT(low, high) << "dull data proves nothing";
    EXPECT_LE(greatest, steps) << plan;
    EXPECT_LE(static_cast<double>(different), share * static_cast<double>(w.size())) << plan;
  }
  return plan;
}

}  // namespace quant::testing

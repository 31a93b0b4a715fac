// SPDX-License-Identifier: Apache-2.0
// Shorthand for tests of operators: build a node, evaluate it, look at the numbers.
#ifndef QUANT_WORKER_RUNTIME_TESTING_EVALUATE_H_
#define QUANT_WORKER_RUNTIME_TESTING_EVALUATE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/statusor.h"
#include "worker/runtime/infer.h"

namespace quant::testing {

using Attributes = std::map<std::string, Attribute>;
using Longs = std::vector<int64_t>;
using Floats = std::vector<float>;

inline Tensor F(Shape shape, const Floats& values) { return Tensor::Of<float>(std::move(shape), values); }
inline Tensor L(Shape shape, const Longs& values) { return Tensor::Of<int64_t>(std::move(shape), values); }
inline Tensor L(const Longs& values) { return L({static_cast<int64_t>(values.size())}, values); }
template <typename T>
Tensor Of(Shape shape, const std::vector<T>& values) {
  return Tensor::Of<T>(std::move(shape), values);
}
inline Tensor B(Shape shape, const std::vector<uint8_t>& values) {
  absl::StatusOr<Tensor> t = Cast(Of<uint8_t>(std::move(shape), values), DType::kBool);
  CHECK_OK(t.status());
  return *std::move(t);
}

// first, first + step, ...
inline Tensor Ramp(Shape shape, float first = 0, float step = 1) {
  const absl::StatusOr<int64_t> n = ElementCount(shape);
  CHECK_OK(n.status());
  Floats values;
  for (int64_t i = 0; i < *n; ++i) values.push_back(first + step * static_cast<float>(i));
  return F(std::move(shape), values);
}

// Evaluates one node; an input of nullopt is absent.
inline absl::StatusOr<std::vector<Tensor>> EvaluateAll(const std::string& op,
                                                       const std::vector<std::optional<Tensor>>& inputs,
                                                       Attributes attributes = {}, int outputs = 1,
                                                       const std::string& domain = "") {
  Node node{"n", op, domain, {}, {}, std::move(attributes)};
  std::vector<const Tensor*> pointers;
  for (size_t i = 0; i < inputs.size(); ++i) {
    node.inputs.push_back(inputs[i] ? "in" + std::to_string(i) : "");
    pointers.push_back(inputs[i] ? &*inputs[i] : nullptr);
  }
  for (int i = 0; i < outputs; ++i) node.outputs.push_back("out" + std::to_string(i));
  return EvaluateNode(node, pointers);
}

// The single output; an empty tensor and a test failure on error.
inline Tensor Evaluate(const std::string& op, const std::vector<std::optional<Tensor>>& inputs,
                       Attributes attributes = {}, const std::string& domain = "") {
  absl::StatusOr<std::vector<Tensor>> out = EvaluateAll(op, inputs, std::move(attributes), 1, domain);
  EXPECT_TRUE(out.ok()) << op << ": " << out.status();
  return out.ok() ? (*out)[0] : Tensor();
}

template <typename T>
std::vector<T> Values(const Tensor& t) {
  return std::vector<T>(t.data<T>().begin(), t.data<T>().end());
}
inline std::vector<int64_t> Integers(const Tensor& t) { return *ToInt64(t); }
inline Floats AsFloats(const Tensor& t) { return *ToFloat(t); }

}  // namespace quant::testing

#endif  // QUANT_WORKER_RUNTIME_TESTING_EVALUATE_H_

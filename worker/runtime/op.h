// SPDX-License-Identifier: Apache-2.0
// The table of operators: for each its shape rule and a plain-loop implementation. Both backends stand on it: the
// reference backend runs the implementations, the oneDNN plan uses the shape rules and falls back to an implementation
// where it has nothing better (shape arithmetic, rare operators). Constant folding uses it too.
//
// Formula and attributes of each operator: the ONNX operator specification, opset 13 to 23 (see graph.h).
#ifndef QUANT_WORKER_RUNTIME_OP_H_
#define QUANT_WORKER_RUNTIME_OP_H_

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "worker/graph/graph.h"

namespace quant {

// What is known of a value when a plan is made: dtype and full shape always, the content when it is constant.
struct TensorDesc {
  DType dtype = DType::kFloat32;
  Shape shape;
  const Tensor* constant = nullptr;
};

struct Op {
  // Derives dtype and shape of each output (`out` has node.outputs.size() entries). `in[i]` is null for an absent
  // input. INVALID_ARGUMENT (without the node's name: the caller adds it) when the inputs do not fit the operator;
  // UNIMPLEMENTED when the shape depends on an input that is not constant, or for a mode that is not supported.
  using Infer = absl::Status (*)(const Node& node, std::span<const TensorDesc* const> in, std::span<TensorDesc> out);

  // Computes the outputs, which have the inferred dtype and shape and do not overlap the inputs. Accumulates in double
  // (floats) or int32/int64 (integers). Allocates nothing that grows with the tensors. `in[i]` is null when absent.
  using Compute = absl::Status (*)(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out);

  Infer infer;
  Compute compute;
};

// The operator, or null when there is none.
const Op* FindOp(std::string_view domain, std::string_view op_type);

}  // namespace quant

#endif  // QUANT_WORKER_RUNTIME_OP_H_

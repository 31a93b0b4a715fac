// SPDX-License-Identifier: Apache-2.0
// Which nodes after a convolution or matrix product run inside its primitive:
//
//   conv -> [per-channel scale and shift] -> [+ residual] -> activation(s) -> [QuantizeLinear]
//
// Nodes are taken while the value between them is read by nobody else, is no graph output and is not tapped, and while
// the other operand of a sum or product is computed already. So of two branches that meet in an Add, the later one
// takes it.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_FUSION_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_FUSION_H_

#include <string>
#include <vector>

#include "worker/runtime/onednn/builder.h"

namespace quant::onednn {

struct PostOp {
  enum class Kind {
    kEltwise,     // algorithm(alpha, beta)
    kAddValue,    // + value of the same shape
    kMulVector,   // * a float per channel (or one)
    kAddVector,   // + a float per channel (or one)
    kPrelu,       // x < 0 ? x * a float per channel (or one) : x
    kRequantize,  // dequantize(quantize(x)): a QuantizeLinear, DequantizeLinear pair before a residual sum
  };
  Kind kind;
  dnnl::algorithm algorithm = dnnl::algorithm::undef;
  float alpha = 0, beta = 0;
  int operand = -1;           // kAddValue
  std::vector<float> vector;  // kMulVector, kAddVector, kPrelu: 1 or `channels` values
  Grid grid;                  // kRequantize
  DType codes = DType::kUInt8;
};

struct Chain {
  std::vector<PostOp> ops;
  std::vector<int> nodes;  // taken, in order
  int out = -1;            // the value that the last of them defines
  bool quantized = false;  // the last is a QuantizeLinear onto `grid`
  Grid grid;
  std::string name;  // "+relu+add"
};

struct ChainOptions {
  int channel_axis = 1;   // of the value, for per-channel vectors
  bool quantize = false;  // a QuantizeLinear may be taken
  bool binary = true;     // sums and per-channel vectors may be taken
};

// The activation that `node` is, as a oneDNN eltwise on its first input; false when it is none.
bool EltwiseOf(PlanBuilder& builder, int node_index, PostOp* op);

// Follows the graph from `value`, which the caller's primitive computes in float32.
Chain MatchChain(PlanBuilder& builder, int value, const ChainOptions& options);

// The constant behind `id` as one value, or one per channel of `shape`, when that is how it broadcasts; else empty.
std::vector<float> ChannelVector(PlanBuilder& builder, int id, const Shape& shape, int channel_axis);

// What AppendPostOps needs to know of the primitive's destination.
struct Destination {
  Shape shape;  // as the primitive sees it
  Layout layout = Layout::kPlain;
  DType dtype = DType::kFloat32;
  int channel_axis = 1;
  bool allow_sum = true;  // the residual's buffer may become the destination
};

// Adds the chain (its QuantizeLinear aside) to the post-ops and arguments of a primitive. Returns the buffer that must
// be the destination (a residual summed in place), or -1 for a new one.
absl::StatusOr<int> AppendPostOps(PlanBuilder& builder, const Chain& chain, const Destination& dst, dnnl::post_ops* ops,
                                  std::vector<Arg>* args);

// Claims the chain's nodes and defines its output: in `buffer`, or a new buffer when it is -1. Returns the buffer.
int DefineChainOutput(PlanBuilder& builder, const Chain& chain, Layout layout, int buffer);

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_FUSION_H_

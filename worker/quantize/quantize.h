// SPDX-License-Identifier: Apache-2.0
// What all quantization methods share: which layers they may touch, what they tell about each, and what they return.
// Every method is  graph x statistics x options -> graph  and lives in a file of its own.
#ifndef QUANT_WORKER_QUANTIZE_QUANTIZE_H_
#define QUANT_WORKER_QUANTIZE_QUANTIZE_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

// A layer left in floating point by name or operator type; the last rule that matches decides, so a rule with skip =
// false takes back an earlier one.
struct LayerRule {
  std::string name;     // glob ("*" any run, "?" one character) or "re:" and an ECMAScript regular expression
  std::string op_type;  // empty: any
  bool skip = true;
};

// Which layers a method may quantize.
struct LayerSelection {
  std::vector<LayerRule> rules;
  std::set<std::string> op_types;  // empty: all the method knows
  bool skip_first = false;         // the first Conv/ConvTranspose/Gemm/MatMul with constant weights, in graph order
  bool skip_last = false;          // the last one
};

// When 8-bit weights are narrowed to 7 bits, so that u8 x s8 pair sums cannot exceed 16 bits on CPUs without VNNI.
enum class ReduceRange { kAuto, kNever, kAlways };

// What became of one layer.
struct LayerOutcome {
  std::string name;  // the node's
  std::string op;
  std::string method;  // "static", "dynamic", ..., "fp32" where it was left alone
  int bits = 32;       // of the weights
  int group_size = 0;  // 0: per channel or per tensor
  std::string fallback;
  int64_t parameters = 0;
  int64_t routed_tokens = -1;  // of a mixture's expert: calibration tokens routed to it; -1: not counted
  std::string output;  // the value to compare with the original's for the error profile: after a fused activation
};

struct QuantizedModel {
  Graph graph;
  std::vector<LayerOutcome> layers;  // every Conv/ConvTranspose/Gemm/MatMul with constant weights, in graph order
  std::vector<std::string> notes;    // for the reader of the report
};

// Stored bits of all weights (initializers of the layers' weights with their scales and zero points) per weight.
double BitsPerWeight(const Graph& graph, int64_t parameters);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_QUANTIZE_H_

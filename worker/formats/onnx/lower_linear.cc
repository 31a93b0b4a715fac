// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/onnx/lift.h"
#include "worker/formats/onnx/lower.h"
#include "worker/graph/linear.h"
#include "worker/tensor/codebooks.h"
#include "worker/tensor/packing.h"

namespace quant {
namespace {

constexpr int64_t kInt32 = 6;  // TensorProto.DataType
constexpr int64_t kBlocks[] = {256, 128, 64, 32, 16};

bool IsBlock(int64_t size) { return std::find(std::begin(kBlocks), std::end(kBlocks), size) != std::end(kBlocks); }

bool IsGrouped(const Node& n) { return n.domain == kMicrosoftDomain && n.op_type == "MatMulNBits"; }
bool IsCodebook(const Node& n) { return n.domain == kQuantdDomain && n.op_type == "MatMulCodebook"; }

// As ONNX Runtime 1.21 runs it.
bool IsPortable(const Node& n) {
  return n.Int("bits", 4) == 4 && !n.Has("quant_bits") && IsBlock(n.Int("block_size", 0));
}

// The largest block that lies within one group wherever it starts, or 0.
int64_t BlockFor(const GroupedMatrix& w) {
  for (const int64_t b : kBlocks) {
    if (b <= w.cols && (w.group_size >= w.cols || w.group_size % b == 0)) return b;
  }
  return 0;
}

// The same weights with 4-bit codes in groups of `block`.
GroupedMatrix InBlocks(const GroupedMatrix& w, int64_t block) {
  GroupedMatrix out{.rows = w.rows, .cols = w.cols, .bits = 4, .group_size = block, .codes = w.codes};
  const int64_t blocks = out.groups();
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t g = b * block / w.group_size;
      out.scales.push_back(w.scales[static_cast<size_t>(r * w.groups() + g)]);
      if (!w.zeros.empty() || w.bits != 4) out.zeros.push_back(w.zero(r, g));
    }
  }
  return out;
}

class LinearLowering {
 public:
  LinearLowering(Graph& graph, const Node& node, std::vector<Node>* out) : graph_(graph), node_(node), out_(out) {}

  absl::Status Grouped() {
    ASSIGN_OR_RETURN(const WeightMatrix weights, QuantizedWeightsOf(graph_, node_));
    const auto& w = std::get<GroupedMatrix>(weights);
    if (const int64_t block = BlockFor(w); w.bits <= 4 && block != 0) {
      Graph scratch;
      RETURN_IF_ERROR(AppendQuantizedLinear(&scratch, node_.name, node_.input(0), InBlocks(w, block)).status());
      Node product = std::move(scratch.nodes.back());
      // Under new names: other nodes may read the old constants.
      for (size_t i = 1; i < product.inputs.size(); ++i) {
        const std::string name = graph_.UniqueName(product.inputs[i]);
        graph_.initializers[name] = scratch.initializers.at(product.inputs[i]);
        product.inputs[i] = name;
      }
      product.outputs = node_.outputs;
      if (!node_.input(5).empty()) {
        product.inputs.resize(6);
        product.inputs[5] = node_.input(5);
      }
      out_->push_back(std::move(product));
      return absl::OkStatus();
    }
    for (const float z : w.zeros) {
      if (z == std::nearbyint(z)) continue;
      return absl::UnimplementedError(absl::StrCat(
          "layer ", Quoted(node_.name), ": zero points such as ", z, " with ", w.bits, " bits in groups of ",
          w.group_size, " have no ONNX form; with 4 bits or less a group size divisible by 16 has one"));
    }
    return Dequantized(w);
  }

  // NF4, FP4: ONNX Runtime's own operator where it fits, else standard ones.
  absl::Status Codebook() {
    ASSIGN_OR_RETURN(const WeightMatrix weights, QuantizedWeightsOf(graph_, node_));
    const auto& w = std::get<CodebookMatrix>(weights);
    const auto is = [&](std::span<const float> table) {
      return std::equal(table.begin(), table.end(), w.codebook.begin());
    };
    const bool nf4 = is(Nf4Table());
    if (!nf4 && !is(Fp4Table())) return Gathered(w);
    // Blocks of the flattened matrix: larger ones are several of the largest there is.
    const int64_t block = std::min(w.block_size, kBlocks[0]);
    if (!IsBlock(block)) return Gathered(w);
    std::string absmax = node_.input(2);
    if (block != w.block_size) {
      std::vector<float> repeated;
      for (int64_t at = 0; at < w.rows * w.cols; at += block) {
        repeated.push_back(w.absmax[static_cast<size_t>(at / w.block_size)]);
      }
      absmax = Constant("absmax", Tensor::Of<float>({static_cast<int64_t>(repeated.size())}, repeated));
    }
    out_->push_back(
        {.name = node_.name,
         .op_type = "MatMulBnb4",
         .domain = kMicrosoftDomain,
         .inputs = {node_.input(0), node_.input(1), absmax},
         .outputs = node_.outputs,
         .attributes = {{"K", w.cols}, {"N", w.rows}, {"block_size", block}, {"quant_type", int64_t{nf4 ? 1 : 0}}}});
    graph_.other_opsets[kMicrosoftDomain] = 1;
    return absl::OkStatus();
  }

 private:
  std::string Constant(std::string_view what, Tensor value) {
    const std::string name = graph_.UniqueName(absl::StrCat(node_.name, ".", AbslView(what)));
    graph_.initializers[name] = std::move(value);
    return name;
  }
  std::string Ints(std::string_view what, const std::vector<int64_t>& values) {
    return Constant(what, Tensor::Of<int64_t>({static_cast<int64_t>(values.size())}, values));
  }
  std::string Add(std::string_view what, const std::string& op, std::vector<std::string> inputs,
                  std::map<std::string, Attribute> attributes = {}) {
    const std::string name = graph_.UniqueName(absl::StrCat(node_.name, ".", AbslView(what)));
    out_->push_back({.name = name,
                     .op_type = op,
                     .inputs = std::move(inputs),
                     .outputs = {name},
                     .attributes = std::move(attributes)});
    return name;
  }

  // x W^T [+ bias] with W of shape [N, K], a value.
  void Product(const std::string& w) {
    const std::string t = Add("transposed", "Transpose", {w}, {{"perm", std::vector<int64_t>{1, 0}}});
    const bool biased = !node_.input(5).empty();
    Node product{.name = node_.name, .op_type = "MatMul", .inputs = {node_.input(0), t}};
    product.outputs = {biased ? graph_.UniqueName(absl::StrCat(node_.name, ".unbiased")) : node_.outputs[0]};
    const std::string y = product.outputs[0];
    out_->push_back(std::move(product));
    if (!biased) return;
    Add("biased", "Add", {y, node_.input(5)});
    out_->back().outputs = node_.outputs;
  }

  absl::Status Dequantized(const GroupedMatrix& w) {
    const DType dtype = w.bits <= 4 ? DType::kUInt4 : DType::kUInt8;
    const int stored = w.bits <= 4 ? 4 : 8;
    ASSIGN_OR_RETURN(Tensor codes, Tensor::Allocate(dtype, {w.rows, w.cols}));
    const auto bytes = [](Tensor& t) {
      return std::span(reinterpret_cast<uint8_t*>(t.mutable_bytes().data()), t.bytes().size());
    };
    PackBits(w.codes, stored, bytes(codes));
    const int64_t groups = w.groups();
    std::vector<uint8_t> zero_codes;
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) zero_codes.push_back(static_cast<uint8_t>(w.zero(r, g)));
    }
    const Shape shape = groups == 1 ? Shape{w.rows} : Shape{w.rows, groups};
    ASSIGN_OR_RETURN(Tensor zeros, Tensor::Allocate(dtype, shape));
    PackBits(zero_codes, stored, bytes(zeros));
    std::map<std::string, Attribute> attributes = {{"axis", int64_t{0}}};
    if (groups > 1) attributes = {{"axis", int64_t{1}}, {"block_size", w.group_size}};
    const std::string q = Constant("q", std::move(codes)), s = Constant("s", Tensor::Of<float>(shape, w.scales)),
                      z = Constant("z", std::move(zeros));
    Product(Add("weight", "DequantizeLinear", {q, s, z}, std::move(attributes)));
    return absl::OkStatus();
  }

  absl::Status Gathered(const CodebookMatrix& w) {
    const int64_t count = w.rows * w.cols, padded = w.blocks() * w.block_size;
    ASSIGN_OR_RETURN(Tensor bytes, Tensor::Allocate(DType::kUInt8, {padded / 2}));
    PackHighFirst(w.codes, bytes.mutable_data<uint8_t>());
    const std::string q = Constant("q", std::move(bytes));
    const std::string four = Constant("four", Tensor::Of<uint8_t>({1}, std::vector<uint8_t>{4}));
    const std::string mask = Constant("mask", Tensor::Of<uint8_t>({1}, std::vector<uint8_t>{15}));
    const std::string last = Ints("last", {-1});
    const std::string high = Add("high", "BitShift", {q, four}, {{"direction", std::string("RIGHT")}});
    const std::string low = Add("low", "BitwiseAnd", {q, mask});
    const std::string pairs = Add(
        "pairs", "Concat", {Add("high.column", "Unsqueeze", {high, last}), Add("low.column", "Unsqueeze", {low, last})},
        {{"axis", int64_t{-1}}});
    const std::string blocks = Add("blocks", "Reshape", {pairs, Ints("block", {-1, w.block_size})});
    const std::string index = Add("index", "Cast", {blocks}, {{"to", kInt32}});
    const std::string table = Constant("table", Tensor::Of<float>({16}, w.codebook));
    const std::string unit = Add("unit", "Gather", {table, index});
    const std::string absmax = Constant("magnitude", Tensor::Of<float>({w.blocks(), 1}, w.absmax));
    std::string value = Add("value", "Mul", {unit, absmax});
    if (padded != count) {
      value = Add("flat", "Reshape", {value, last});
      value = Add("cut", "Slice", {value, Ints("begin", {0}), Ints("end", {count})});
    }
    Product(Add("weight", "Reshape", {value, Ints("shape", {w.rows, w.cols})}));
    return absl::OkStatus();
  }

  Graph& graph_;
  const Node& node_;
  std::vector<Node>* out_;
};

}  // namespace

bool NeedsLowering(const Graph& graph) {
  return graph.opset >= 23 || std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) {
           return IsCodebook(n) || (IsGrouped(n) && !IsPortable(n));
         });
}

void RaiseBnb4(Graph& graph) {
  bool others = false;
  std::string tables[2];  // FP4, NF4
  for (Node& node : graph.nodes) {
    if (node.domain != kMicrosoftDomain) continue;
    const bool constant = graph.Initializer(node.input(1)) != nullptr && graph.Initializer(node.input(2)) != nullptr;
    const int64_t type = node.Int("quant_type", -1);  // 0 FP4, 1 NF4
    if (node.op_type != "MatMulBnb4" || node.inputs.size() != 3 || !constant || (type != 0 && type != 1)) {
      others = true;
      continue;
    }
    std::string& table = tables[type];
    if (table.empty()) {
      table = graph.UniqueName(type == 1 ? "codebook.nf4" : "codebook.fp4");
      graph.initializers[table] = Tensor::Of<float>({16}, type == 1 ? Nf4Table() : Fp4Table());
    }
    node.op_type = "MatMulCodebook";
    node.domain = kQuantdDomain;
    node.inputs.push_back(table);
    node.attributes = {{"K", node.Int("K", 0)}, {"N", node.Int("N", 0)}, {"block_size", node.Int("block_size", 0)}};
    graph.other_opsets[kQuantdDomain] = 1;
  }
  if (!others) graph.other_opsets.erase(kMicrosoftDomain);
}

absl::Status LowerQuantizedLinears(Graph& graph) {
  std::vector<Node> lowered;
  for (const Node& node : graph.nodes) {
    LinearLowering l(graph, node, &lowered);
    if (IsGrouped(node) && !IsPortable(node)) {
      RETURN_IF_ERROR(l.Grouped());
    } else if (IsCodebook(node)) {
      RETURN_IF_ERROR(l.Codebook());
    } else {
      lowered.push_back(node);
    }
  }
  graph.nodes = std::move(lowered);
  graph.other_opsets.erase(kQuantdDomain);
  graph.RemoveUnused();
  // 4-bit tensors, blocks of DequantizeLinear and BitwiseAnd came by then.
  const bool standard = std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) {
    return n.domain.empty() && (n.op_type == "DequantizeLinear" || n.op_type == "BitwiseAnd");
  });
  if (standard) RETURN_IF_ERROR(RaiseOpset(graph, 21));
  return graph.Validate();
}

}  // namespace quant

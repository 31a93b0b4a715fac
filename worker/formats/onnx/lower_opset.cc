// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/onnx/lower.h"

namespace quant {
namespace {

constexpr int64_t kFloat = 1;  // TensorProto.DataType
using Ints = std::vector<int64_t>;
using Attributes = std::map<std::string, Attribute>;

// Nodes in place of one node. Their names and values begin with its name.
class Lowering {
 public:
  Lowering(Graph& graph, const Node& node, std::vector<Node>* out) : graph_(graph), node_(node), out_(out) {}

  absl::Status Unimplemented(std::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat("node ", Quoted(node_.name), " (", node_.op_type, "): ", AbslView(what)));
  }

  std::string Add(std::string_view what, const std::string& op, std::vector<std::string> inputs,
                  Attributes attributes = {}) {
    const std::string name = graph_.UniqueName(absl::StrCat(node_.name, ".", AbslView(what), ".", counter_++));
    out_->push_back({.name = name,
                     .op_type = op,
                     .inputs = std::move(inputs),
                     .outputs = {name},
                     .attributes = std::move(attributes)});
    return name;
  }
  // The last node takes the name of the node it stands for, and its output `output`.
  void Finish(const std::string& output, size_t node_at, bool named) {
    (*out_)[node_at].outputs[0] = output;
    if (named) (*out_)[node_at].name = node_.name;
  }
  size_t last() const { return out_->size() - 1; }

  std::string Vector(const Ints& values) {
    std::string name = "lowered.ints";
    for (const int64_t v : values) absl::StrAppend(&name, ".", v);
    graph_.initializers.try_emplace(name, Tensor::Of<int64_t>({static_cast<int64_t>(values.size())}, values));
    return name;
  }
  std::string Scalar(float value) {
    std::string name = absl::StrCat("lowered.float.", value);
    // Names of numbers that print alike differ by their number.
    auto it = graph_.initializers.find(name);
    if (it == graph_.initializers.end() || it->second.data<float>()[0] == value) {
      graph_.initializers.try_emplace(name, Tensor::Scalar(value));
      return name;
    }
    const std::string other = graph_.UniqueName(name);
    graph_.initializers.emplace(other, Tensor::Scalar(value));
    return other;
  }
  std::string Index(int64_t value) {
    const std::string name = absl::StrCat("lowered.index.", value);
    graph_.initializers.try_emplace(name, Tensor::Scalar(value));
    return name;
  }
  std::string Reshape(std::string_view what, const std::string& x, const Ints& shape) {
    return Add(what, "Reshape", {x, Vector(shape)});
  }
  std::string Transpose(std::string_view what, const std::string& x, const Ints& perm) {
    return Add(what, "Transpose", {x}, {{"perm", perm}});
  }
  std::string Slice(std::string_view what, const std::string& x, int64_t begin, int64_t end, int64_t step = 1) {
    return Add(what, "Slice", {x, Vector({begin}), Vector({end}), Vector({-1}), Vector({step})});
  }
  // Dimension `axis` of x as an int64 vector of one.
  std::string Length(std::string_view what, const std::string& x, int64_t axis) {
    Attributes range = {{"start", axis}};
    if (axis != -1) range["end"] = axis + 1;
    return Add(what, "Shape", {x}, std::move(range));
  }

  absl::Status RmsNormalization();
  absl::Status RotaryEmbedding();
  absl::Status Attention();

 private:
  // Keys or values as [batch, kv_heads, tokens, size], after the past, which also gives output `present`.
  std::string KeysOrValues(std::string_view what, size_t input, size_t past, size_t present, bool flat,
                           int64_t kv_heads);
  std::string Mask(const std::string& scores, const std::string& q, const std::string& k, int64_t kv_heads, int64_t rep,
                   bool causal, const std::string& mask);

  Graph& graph_;
  const Node& node_;
  std::vector<Node>* out_;
  int counter_ = 0;
};

// Y = X / sqrt(mean(X^2) + epsilon) * scale.
absl::Status Lowering::RmsNormalization() {
  if (node_.Int("axis", -1) != -1) return Unimplemented("only the last axis can be written for operator set 21");
  const std::string& x = node_.input(0);
  const std::string square = Add("square", "Mul", {x, x});
  const std::string mean = Add("mean", "ReduceMean", {square, Vector({-1})}, {{"keepdims", int64_t{1}}});
  const std::string sum = Add("sum", "Add", {mean, Scalar(node_.Float("epsilon", 1e-5f))});
  const std::string unit = Add("unit", "Div", {x, Add("root", "Sqrt", {sum})});
  Add("scaled", "Mul", {unit, node_.input(1)});
  Finish(node_.outputs[0], last(), true);
  return absl::OkStatus();
}

// The first rotary_embedding_dim features of each head, as pairs (i, i + half) or (2i, 2i + 1), turned by the angles.
absl::Status Lowering::RotaryEmbedding() {
  const int64_t heads = node_.Int("num_heads", 0), rotary = node_.Int("rotary_embedding_dim", 0);
  const bool interleaved = node_.Int("interleaved", 0) != 0, flat = heads > 0;
  // [batch, tokens, heads, size] within.
  const std::string x =
      flat ? Reshape("heads", node_.input(0), {0, 0, heads, -1}) : Transpose("heads", node_.input(0), {0, 2, 1, 3});
  std::string cos = node_.input(1), sin = node_.input(2);
  if (const std::string& ids = node_.input(3); !ids.empty()) {
    cos = Add("cos", "Gather", {cos, ids});
    sin = Add("sin", "Gather", {sin, ids});
  }
  cos = Add("cos", "Unsqueeze", {cos, Vector({-2})});
  sin = Add("sin", "Unsqueeze", {sin, Vector({-2})});
  constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
  const std::string part = rotary > 0 ? Slice("rotary", x, 0, rotary) : x;
  std::string first, second;
  if (interleaved) {
    first = Slice("even", part, 0, kEnd, 2);
    second = Slice("odd", part, 1, kEnd, 2);
  } else {
    const std::string split = graph_.UniqueName(absl::StrCat(node_.name, ".halves"));
    first = absl::StrCat(split, ".0");
    second = absl::StrCat(split, ".1");
    out_->push_back({.name = split,
                     .op_type = "Split",
                     .inputs = {part},
                     .outputs = {first, second},
                     .attributes = {{"axis", int64_t{-1}}, {"num_outputs", int64_t{2}}}});
  }
  std::string a = Add("first", "Sub", {Add("p", "Mul", {first, cos}), Add("p", "Mul", {second, sin})});
  std::string b = Add("second", "Add", {Add("p", "Mul", {second, cos}), Add("p", "Mul", {first, sin})});
  std::string turned;
  if (interleaved) {
    a = Add("a", "Unsqueeze", {a, Vector({-1})});
    b = Add("b", "Unsqueeze", {b, Vector({-1})});
    turned = Reshape("turned", Add("pairs", "Concat", {a, b}, {{"axis", int64_t{-1}}}), {0, 0, 0, -1});
  } else {
    turned = Add("turned", "Concat", {a, b}, {{"axis", int64_t{-1}}});
  }
  if (rotary > 0) {
    turned = Add("whole", "Concat", {turned, Slice("rest", x, rotary, kEnd)}, {{"axis", int64_t{-1}}});
  }
  if (flat) {
    Reshape("flat", turned, {0, 0, -1});
  } else {
    Transpose("back", turned, {0, 2, 1, 3});
  }
  Finish(node_.outputs[0], last(), true);
  return absl::OkStatus();
}

std::string Lowering::KeysOrValues(std::string_view what, size_t input, size_t past, size_t present, bool flat,
                                   int64_t kv_heads) {
  std::string x = node_.input(input);
  bool fresh = false;  // x is made here, by the last node
  if (flat) {
    x = Transpose(what, Reshape(what, x, {0, 0, kv_heads, -1}), {0, 2, 1, 3});
    fresh = true;
  }
  if (!node_.input(past).empty()) {
    x = Add(what, "Concat", {node_.input(past), x}, {{"axis", int64_t{2}}});
    fresh = true;
  }
  if (node_.outputs.size() > present && !node_.outputs[present].empty()) {
    if (!fresh) Add(what, "Identity", {x});
    x = node_.outputs[present];
    Finish(x, last(), false);
  }
  return x;
}

// scores [batch, kv_heads, rep, queries, keys] with what may not be seen at -infinity.
std::string Lowering::Mask(const std::string& scores, const std::string& q, const std::string& k, int64_t kv_heads,
                           int64_t rep, bool causal, const std::string& mask) {
  const std::string never = Scalar(-std::numeric_limits<float>::infinity());
  std::string out = scores;
  if (causal) {
    const std::string queries = Length("queries", q, 3), keys = Length("keys", k, 2);
    const auto range = [&](std::string_view what, const std::string& length) {
      return Add(what, "Range", {Index(0), Add("n", "Squeeze", {length}), Index(1)});
    };
    const std::string row = Add("row", "Add", {range("rows", queries), Add("past", "Sub", {keys, queries})});
    const std::string column = Add("row", "Unsqueeze", {row, Vector({1})});
    out = Add("causal", "Where", {Add("seen", "LessOrEqual", {range("cols", keys), column}), out, never});
  }
  if (mask.empty()) return out;
  // The mask broadcasts to [batch, heads, queries, keys].
  if (rep > 1) {
    const std::string shape =
        Add("shape", "Concat",
            {Length("batch", q, 0), Vector({kv_heads * rep}), Length("queries", q, 3), Length("keys", k, 2)},
            {{"axis", int64_t{0}}});
    out = Add("scores", "Reshape", {out, shape});
  } else {
    out = Add("scores", "Squeeze", {out, Vector({2})});
  }
  bool is_bool = false;
  if (const auto it = graph_.value_info.find(mask); it != graph_.value_info.end()) {
    is_bool = it->second.dtype == DType::kBool;
  } else if (const Tensor* t = graph_.Initializer(mask); t != nullptr) {
    is_bool = t->dtype() == DType::kBool;
  } else {
    for (const ValueInfo& v : graph_.inputs) is_bool = is_bool || (v.name == mask && v.dtype == DType::kBool);
    for (const Node& n : graph_.nodes) {
      static constexpr const char* kLogical[] = {
          "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Not", "Xor"};
      if (n.outputs.empty() || n.outputs[0] != mask) continue;
      for (const char* op : kLogical) is_bool = is_bool || n.op_type == op;
      is_bool = is_bool || (n.op_type == "Cast" && n.Int("to", 0) == 9);
    }
  }
  out = is_bool ? Add("masked", "Where", {mask, out, never}) : Add("masked", "Add", {out, mask});
  if (rep == 1) return Add("scores", "Unsqueeze", {out, Vector({2})});
  const std::string shape =
      Add("shape", "Concat",
          {Length("batch", q, 0), Vector({kv_heads, rep}), Length("queries", q, 3), Length("keys", k, 2)},
          {{"axis", int64_t{0}}});
  return Add("scores", "Reshape", {out, shape});
}

absl::Status Lowering::Attention() {
  int64_t heads = node_.Int("q_num_heads", 0), kv_heads = node_.Int("kv_num_heads", 0);
  const bool flat = heads > 0;
  if (!flat) {
    // Rank 4: the numbers of heads are dimensions, which must be known.
    const auto known = [&](const std::string& value) -> int64_t {
      for (const ValueInfo& v : graph_.inputs) {
        if (v.name == value && v.shape.size() == 4) return v.shape[1].value;
      }
      const auto it = graph_.value_info.find(value);
      return it != graph_.value_info.end() && it->second.shape.size() == 4 ? it->second.shape[1].value : -1;
    };
    heads = known(node_.input(0));
    kv_heads = known(node_.input(1));
  }
  if (heads <= 0 || kv_heads <= 0 || heads % kv_heads != 0) {
    return Unimplemented("its numbers of heads are not known: give q_num_heads and kv_num_heads");
  }
  if (node_.outputs.size() > 3 && !node_.outputs[3].empty()) return Unimplemented("its fourth output is not supported");
  const int64_t rep = heads / kv_heads;
  // q [batch, kv_heads, rep, queries, size]: the queries that share keys stand together, and products broadcast.
  std::string q = flat ? node_.input(0) : Transpose("q", node_.input(0), {0, 2, 1, 3});
  q = Transpose("q", Reshape("q", q, {0, 0, kv_heads, rep, -1}), {0, 2, 3, 1, 4});
  const std::string k = KeysOrValues("k", 1, 4, 1, flat, kv_heads);
  const std::string v = KeysOrValues("v", 2, 5, 2, flat, kv_heads);
  const std::string columns = Transpose("k", Add("k", "Unsqueeze", {k, Vector({2})}), {0, 1, 2, 4, 3});
  std::string scale;
  if (const float given = node_.Float("scale", 0); given != 0) {
    scale = Scalar(given);
  } else {
    const std::string size = Add("size", "Cast", {Length("size", k, 3)}, {{"to", kFloat}});
    scale = Add("scale", "Reciprocal", {Add("root", "Sqrt", {size})});
  }
  std::string scores = Add("scores", "MatMul", {Add("q", "Mul", {q, scale}), columns});
  if (const float cap = node_.Float("softcap", 0); cap != 0) {
    const std::string c = Scalar(cap);
    scores = Add("capped", "Mul", {Add("tanh", "Tanh", {Add("share", "Div", {scores, c})}), c});
  }
  scores = Mask(scores, q, k, kv_heads, rep, node_.Int("is_causal", 0) != 0, node_.input(3));
  const std::string weights = Add("weights", "Softmax", {scores}, {{"axis", int64_t{-1}}});
  const std::string sum = Add("sum", "MatMul", {weights, Add("v", "Unsqueeze", {v, Vector({2})})});
  const std::string tokens = Transpose("tokens", sum, {0, 3, 1, 2, 4});
  if (flat) {
    Reshape("out", tokens, {0, 0, -1});
  } else {
    Transpose("out", Reshape("out", tokens, {0, 0, heads, -1}), {0, 2, 1, 3});
  }
  Finish(node_.outputs[0], last(), true);
  return absl::OkStatus();
}

}  // namespace

absl::Status LowerToOpset21(Graph& graph) {
  if (graph.opset < 23) return absl::OkStatus();
  std::vector<Node> lowered;
  for (const Node& node : graph.nodes) {
    Lowering l(graph, node, &lowered);
    absl::Status status;
    if (!node.domain.empty()) {
      lowered.push_back(node);
    } else if (node.op_type == "RMSNormalization") {
      status = l.RmsNormalization();
    } else if (node.op_type == "RotaryEmbedding") {
      status = l.RotaryEmbedding();
    } else if (node.op_type == "Attention") {
      status = l.Attention();
    } else {
      lowered.push_back(node);
    }
    RETURN_IF_ERROR(status);
  }
  graph.nodes = std::move(lowered);
  graph.opset = 21;
  return graph.Validate();
}

}  // namespace quant

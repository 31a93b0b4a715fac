// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/decoder.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/huggingface/quantized.h"
#include "worker/graph/linear.h"

namespace quant::huggingface {
namespace {

constexpr int64_t kOnnxFloat = 1;  // TensorProto.DataType

ValueInfo Value(std::string name, DType dtype, std::vector<Dim> shape) {
  return {.name = std::move(name), .dtype = dtype, .has_shape = true, .shape = std::move(shape)};
}

Dim Known(int64_t value) { return {.value = value}; }
Dim Symbol(std::string symbol) { return {.symbol = std::move(symbol)}; }

}  // namespace

absl::StatusOr<int64_t> Size(const Checkpoint& checkpoint, std::string_view key, int64_t greatest) {
  if (!checkpoint.Has(key)) return absl::InvalidArgumentError(absl::StrCat("config.json has no ", AbslView(key)));
  return checkpoint.Int(key, 0, 1, greatest);
}

absl::StatusOr<double> NonNegative(const Checkpoint& checkpoint, std::string_view key, double otherwise) {
  ASSIGN_OR_RETURN(const double value, checkpoint.Float(key, otherwise));
  if (value >= 0) return value;
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", AbslView(key), " is ", value, ", below 0"));
}

absl::StatusOr<Sizes> ReadSizes(const Checkpoint& checkpoint, int64_t default_max_positions, int64_t head_dim) {
  Sizes s;
  ASSIGN_OR_RETURN(s.vocab, Size(checkpoint, "vocab_size", kMaxVocab));
  ASSIGN_OR_RETURN(s.hidden, Size(checkpoint, "hidden_size", kMaxHidden));
  ASSIGN_OR_RETURN(s.layers, Size(checkpoint, "num_hidden_layers", kMaxLayers));
  ASSIGN_OR_RETURN(s.heads, Size(checkpoint, "num_attention_heads", kMaxHeads));
  ASSIGN_OR_RETURN(s.kv_heads, checkpoint.Int("num_key_value_heads", s.heads, 1, kMaxHeads));
  if (s.heads % s.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: num_key_value_heads, ", s.kv_heads,
                                                   ", does not divide num_attention_heads, ", s.heads));
  }
  if (head_dim == 0 && !checkpoint.Has("head_dim") && s.hidden % s.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: num_attention_heads, ", s.heads,
                                                   ", does not divide hidden_size, ", s.hidden,
                                                   ", and there is no head_dim"));
  }
  ASSIGN_OR_RETURN(s.head_dim,
                   checkpoint.Int("head_dim", head_dim == 0 ? s.hidden / s.heads : head_dim, 1, kMaxHeadDim));
  if (s.heads * s.head_dim > kMaxHidden) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: ", s.heads, " heads of ", s.head_dim, " are more than ", kMaxHidden, " features"));
  }
  ASSIGN_OR_RETURN(s.max_positions, checkpoint.Int("max_position_embeddings", default_max_positions, 1, kMaxPositions));
  return s;
}

absl::StatusOr<Decoder> Decoder::Create(const Checkpoint& checkpoint, const BuildOptions& options, const Sizes& sizes,
                                        const std::vector<std::string>& prefixes, const std::string& probe) {
  Decoder d(checkpoint, options, sizes);
  const auto found = std::find_if(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) {
    return checkpoint.Find(absl::StrCat(prefix, probe)) != nullptr;
  });
  if (found == prefixes.end()) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint has no tensor ", prefixes[0], probe));
  }
  d.prefix_ = *found;
  d.MakeInputs();
  return d;
}

// ---------------------------------------------------------------- tensors and single nodes

std::string Decoder::Add(std::string_view name, const std::string& op, std::vector<std::string> inputs,
                         std::map<std::string, Attribute> attributes) {
  graph_.nodes.push_back({.name = std::string(name),
                          .op_type = op,
                          .inputs = std::move(inputs),
                          .outputs = {std::string(name)},
                          .attributes = std::move(attributes)});
  return std::string(name);
}

std::string Decoder::Constant(std::string_view name, Tensor value) {
  graph_.initializers[std::string(name)] = std::move(value);
  return std::string(name);
}

std::string Decoder::Scalar(float value) {
  return Constant(absl::StrFormat("scalar.%.9g", value), Tensor::Scalar(value));  // 9 digits tell all floats apart
}

absl::Status Decoder::Take(const std::string& tensor, const Shape& shape) {
  const Tensor* found = checkpoint_->Find(tensor);
  if (found == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint has no tensor ", tensor, "; it should have the shape ", ShapeString(shape)));
  }
  if (found->shape() != shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor, " has the shape ", ShapeString(found->shape()),
                                                   "; by config.json it should be ", ShapeString(shape)));
  }
  if (!IsFloat(found->dtype())) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", tensor, " is ", DTypeName(found->dtype()), "; weights are read in floating point"));
  }
  graph_.initializers[tensor] = *found;
  read_.insert(tensor);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Decoder::Weight(const std::string& tensor, const Shape& shape) {
  RETURN_IF_ERROR(Take(tensor, shape));
  if (graph_.Initializer(tensor)->dtype() == DType::kFloat32) return tensor;
  return Add(absl::StrCat(tensor, ".f32"), "Cast", {tensor}, {{"to", kOnnxFloat}});
}

// ---------------------------------------------------------------- layers

absl::StatusOr<std::string> Decoder::Linear(const std::string& module, const std::string& x, int64_t rows, int64_t cols,
                                            Bias bias, bool conv1d) {
  std::string b = absl::StrCat(module, ".bias");
  if (bias == Bias::kWhereStored && checkpoint_->Find(b) == nullptr) {
    b.clear();
  } else {
    RETURN_IF_ERROR(Take(b, {rows}));
  }
  ASSIGN_OR_RETURN(const std::optional<WeightMatrix> quantized, ReadQuantizedLinear(*checkpoint_, module));
  if (quantized.has_value()) {
    if (Rows(*quantized) != rows || Cols(*quantized) != cols) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", module, " holds quantized weights ",
                                                     ShapeString(Shape{Rows(*quantized), Cols(*quantized)}),
                                                     "; by config.json it should be ", ShapeString(Shape{rows, cols})));
    }
    modules_.insert(absl::StrCat(module, "."));
    return AppendQuantizedLinear(&graph_, module, x, *quantized, b);
  }
  const std::string weight = absl::StrCat(module, ".weight");
  if (!conv1d) {
    RETURN_IF_ERROR(Take(weight, {rows, cols}));
    return AppendLinear(&graph_, module, x, weight, b);
  }
  ASSIGN_OR_RETURN(const std::string w, Weight(weight, {cols, rows}));
  Append({.name = module, .op_type = "MatMul", .inputs = {x, w}, .outputs = {absl::StrCat(module, ".out")}});
  if (b.empty()) return absl::StrCat(module, ".out");
  ASSIGN_OR_RETURN(b, Weight(b, {rows}));
  return Add(absl::StrCat(module, ".biased"), "Add", {absl::StrCat(module, ".out"), b});
}

std::vector<std::string> Decoder::Split(std::string_view name, const std::string& x,
                                        const std::vector<int64_t>& sizes) {
  std::vector<std::string> parts;
  parts.reserve(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) parts.push_back(absl::StrCat(AbslView(name), ".", i));
  const std::string lengths = Constant(absl::StrCat(AbslView(name), ".sizes"),
                                       Tensor::Of<int64_t>({static_cast<int64_t>(sizes.size())}, sizes));
  Append({.name = std::string(name),
          .op_type = "Split",
          .inputs = {x, lengths},
          .outputs = parts,
          .attributes = {{"axis", int64_t{-1}}}});
  return parts;
}

std::string Decoder::Reshape(std::string_view name, const std::string& x, std::vector<int64_t> last) {
  last.insert(last.begin(), {0, 0});  // as in x
  const std::string shape =
      Constant(absl::StrCat(AbslView(name), ".shape"), Tensor::Of<int64_t>({static_cast<int64_t>(last.size())}, last));
  return Add(name, "Reshape", {x, shape});
}

absl::StatusOr<std::string> Decoder::Norm(const std::string& module, const std::string& x, int64_t features,
                                          NormKind kind, double eps) {
  ASSIGN_OR_RETURN(std::string weight, Weight(absl::StrCat(module, ".weight"), {features}));
  const std::map<std::string, Attribute> attributes = {{"axis", int64_t{-1}}, {"epsilon", static_cast<float>(eps)}};
  if (kind == NormKind::kLayer) {
    ASSIGN_OR_RETURN(const std::string bias, Weight(absl::StrCat(module, ".bias"), {features}));
    return Add(module, "LayerNormalization", {x, weight, bias}, attributes);
  }
  if (kind == NormKind::kRmsPlusOne) weight = Add(absl::StrCat(module, ".weight.plus_one"), "Add", {weight, Scalar(1)});
  return Add(module, "RMSNormalization", {x, weight}, attributes);
}

absl::StatusOr<std::string> Decoder::Activation(std::string_view name, const std::string& act, const std::string& x) {
  if (act == "silu" || act == "swish") {
    return Add(name, "Mul", {x, Add(absl::StrCat(AbslView(name), ".sigmoid"), "Sigmoid", {x})});
  }
  if (act == "gelu") return Add(name, "Gelu", {x});
  if (act == "gelu_new" || act == "gelu_pytorch_tanh" || act == "gelu_fast") {
    return Add(name, "Gelu", {x}, {{"approximate", "tanh"}});
  }
  if (act == "relu") return Add(name, "Relu", {x});
  return absl::UnimplementedError(
      absl::StrCat("config.json: the activation ", Quoted(act),
                   " is not known; known are silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast and relu"));
}

std::string Decoder::SoftCap(std::string_view name, const std::string& x, double cap) {
  const std::string c = Scalar(static_cast<float>(cap));
  const std::string small = Add(absl::StrCat(AbslView(name), ".scaled"), "Div", {x, c});
  return Add(name, "Mul", {Add(absl::StrCat(AbslView(name), ".tanh"), "Tanh", {small}), c});
}

std::string Decoder::Attention(int64_t layer, const std::string& module, const std::string& q, const std::string& k,
                               const std::string& v, const AttentionOptions& options) {
  Node node{.name = absl::StrCat(module, ".attention"), .op_type = "Attention", .inputs = {q, k, v}};
  node.outputs = {node.name};
  // Causal: new token i sees the past and new tokens up to itself.
  node.attributes = {{"is_causal", int64_t{1}}, {"kv_num_heads", sizes_.kv_heads}, {"q_num_heads", sizes_.heads}};
  if (options.scale != 0) node.attributes["scale"] = static_cast<float>(options.scale);
  if (options.softcap != 0) node.attributes["softcap"] = static_cast<float>(options.softcap);
  const std::string mask = Mask(options.window >= sizes_.max_positions ? 0 : options.window);
  if (!mask.empty() || options_.kv_cache) node.inputs.push_back(mask);
  if (options_.kv_cache) {
    node.inputs.insert(node.inputs.end(), {absl::StrCat("past_key.", layer), absl::StrCat("past_value.", layer)});
    node.outputs.insert(node.outputs.end(),
                        {absl::StrCat("present_key.", layer), absl::StrCat("present_value.", layer)});
  }
  Append(node);
  return node.name;
}

// ---------------------------------------------------------------- ends

void Decoder::MakeInputs() {
  graph_.opset = 23;
  graph_.name = "main";
  graph_.inputs = {Value("input_ids", DType::kInt64, {Symbol("batch"), Symbol("sequence")})};
  graph_.outputs = {Value("logits", DType::kFloat32, {Symbol("batch"), Symbol("sequence"), Known(sizes_.vocab)})};
  for (int64_t i = 0; options_.kv_cache && i < sizes_.layers; ++i) {
    for (const char* what : {"key", "value"}) {
      const auto shape = [&](const char* length) -> std::vector<Dim> {
        return {Symbol("batch"), Known(sizes_.kv_heads), Symbol(length), Known(sizes_.head_dim)};
      };
      graph_.inputs.push_back(Value(absl::StrCat("past_", what, ".", i), DType::kFloat32, shape("past")));
      graph_.outputs.push_back(Value(absl::StrCat("present_", what, ".", i), DType::kFloat32, shape("total")));
    }
  }
}

absl::StatusOr<std::string> Decoder::Embed(const std::string& module, int64_t features) {
  const std::string table = absl::StrCat(module, ".weight");
  RETURN_IF_ERROR(Take(table, {sizes_.vocab, features}));
  const bool is_float32 = graph_.Initializer(table)->dtype() == DType::kFloat32;
  const std::string rows = Add(is_float32 ? module : absl::StrCat(module, ".rows"), "Gather", {table, "input_ids"});
  return is_float32 ? rows : Add(module, "Cast", {rows}, {{"to", kOnnxFloat}});
}

absl::Status Decoder::CheckAllRead(const std::string& blocks) const {
  // Constants that older Transformers saved as buffers.
  constexpr const char* kBuffers[] = {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"};
  std::vector<std::string> unread;
  size_t count = 0;
  const auto& tensors = checkpoint_->tensors();
  for (auto it = tensors.lower_bound(blocks); it != tensors.end() && it->first.starts_with(blocks); ++it) {
    const std::string& name = it->first;
    if (read_.contains(name)) continue;
    if (std::any_of(std::begin(kBuffers), std::end(kBuffers), [&](const char* b) { return name.ends_with(b); }))
      continue;
    const auto module = modules_.upper_bound(name);  // the one after what may be a prefix of `name`
    if (module != modules_.begin() && name.starts_with(*std::prev(module))) continue;
    if (++count <= 3) unread.push_back(Quoted(name));
  }
  if (count == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the checkpoint holds ", count, count == 1 ? " tensor" : " tensors", " that a model of this type with ",
      sizes_.layers, " layers does not have: ", absl::StrJoin(unread, ", "), count > unread.size() ? ", ..." : ""));
}

absl::StatusOr<LanguageModel> Decoder::Finish(const std::string& x, const std::string& embedding, int64_t features,
                                              bool tied, double softcap) && {
  std::string logits;
  if (tied) {
    logits = AppendLinear(&graph_, "lm_head", x, absl::StrCat(embedding, ".weight"));
  } else {
    ASSIGN_OR_RETURN(logits, Linear("lm_head", x, sizes_.vocab, features));
  }
  if (softcap != 0) SoftCap("lm_head.capped", logits, softcap);
  graph_.nodes.back().outputs[0] = "logits";
  RETURN_IF_ERROR(graph_.Validate());
  return LanguageModel{.graph = std::move(graph_),
                       .cuts = std::move(cuts_),
                       .vocab_size = sizes_.vocab,
                       .hidden_size = sizes_.hidden,
                       .layers = sizes_.layers,
                       .max_positions = sizes_.max_positions};
}

}  // namespace quant::huggingface

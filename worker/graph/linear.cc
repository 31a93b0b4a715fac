// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/linear.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "worker/tensor/packing.h"

namespace quant {
namespace {

using Perm = std::vector<int64_t>;

// The float initializer of rank 2 behind Transpose and Cast nodes, and whether it is seen transposed.
struct Source {
  std::string name;
  bool transposed = false;
};

std::optional<Source> WeightSource(const Graph& graph, const GraphIndex& index, std::string_view value) {
  Source s{.name = std::string(value)};
  while (graph.Initializer(s.name) == nullptr) {
    const int producer = index.Producer(s.name);
    if (producer < 0) return std::nullopt;
    const Node& n = graph.nodes[static_cast<size_t>(producer)];
    if (!n.domain.empty()) return std::nullopt;
    if (n.op_type == "Transpose") {
      const Perm perm = n.Ints("perm", {1, 0});
      if (perm == Perm{1, 0}) s.transposed = !s.transposed;
    } else if (n.op_type != "Cast" || n.Int("to", 0) != 1) {  // 1: FLOAT
      return std::nullopt;
    }
    s.name = n.input(0);
  }
  const Tensor& w = *graph.Initializer(s.name);
  if (w.rank() != 2 || !IsFloat(w.dtype())) return std::nullopt;
  return s;
}

void AddNode(Graph* graph, Node node) { graph->nodes.push_back(std::move(node)); }

std::string AddBias(Graph* graph, const std::string& name, std::string y, const std::string& bias) {
  if (bias.empty()) return y;
  std::string b = bias;
  if (graph->Initializer(bias)->dtype() != DType::kFloat32) {
    b = absl::StrCat(name, ".bias.f32");
    AddNode(graph,
            {.name = b, .op_type = "Cast", .inputs = {bias}, .outputs = {b}, .attributes = {{"to", int64_t{1}}}});
  }
  const std::string out = absl::StrCat(name, ".biased");
  AddNode(graph, {.name = out, .op_type = "Add", .inputs = {std::move(y), b}, .outputs = {out}});
  return out;
}

// Columns in the order of their groups, and the codes so. Empty when groups are runs of columns already.
std::vector<int64_t> GroupOrder(const GroupedMatrix& w) {
  std::vector<int64_t> order;
  if (w.group_of.empty()) return order;
  for (int64_t c = 0; c < w.cols; ++c) order.push_back(c);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return w.group(a) < w.group(b); });
  bool sorted = true;
  for (int64_t c = 0; c < w.cols; ++c) {
    sorted = sorted && order[static_cast<size_t>(c)] == c && w.group(c) == c / w.group_size;
  }
  if (sorted) order.clear();
  return order;
}

struct Form {
  std::vector<Node> nodes;  // the last one is the product; its output is not set
  std::map<std::string, Tensor> constants;
};

absl::StatusOr<Form> GroupedForm(const std::string& name, const std::string& x, const GroupedMatrix& w) {
  Form form;
  const std::vector<int64_t> order = GroupOrder(w);
  std::string a = x;
  if (!order.empty()) {
    // After the permutation group g must be columns [g * group_size, (g + 1) * group_size).
    for (size_t c = 0; c < order.size(); ++c) {
      if (w.group(order[c]) != static_cast<int64_t>(c) / w.group_size) {
        return absl::InvalidArgumentError(
            absl::StrCat("layer '", name, "': g_idx does not put ", w.group_size, " columns into each group"));
      }
    }
    const std::string perm = absl::StrCat(name, ".order");
    a = absl::StrCat(name, ".ordered");
    form.constants[perm] = Tensor::Of<int64_t>({w.cols}, order);
    form.nodes.push_back(
        {.name = a, .op_type = "Gather", .inputs = {x, perm}, .outputs = {a}, .attributes = {{"axis", int64_t{-1}}}});
  }
  const int bits = w.bits == 3 ? 4 : w.bits;
  const int64_t groups = w.groups();
  const int64_t block_bytes = static_cast<int64_t>(PackedBytes(static_cast<size_t>(w.group_size), bits));
  absl::StatusOr<Tensor> packed = Tensor::Allocate(DType::kUInt8, {w.rows, groups, block_bytes});
  if (!packed.ok()) return packed.status();
  const std::span<uint8_t> bytes = packed->mutable_data<uint8_t>();
  std::vector<uint8_t> row(static_cast<size_t>(w.cols));
  for (int64_t r = 0; r < w.rows; ++r) {
    const uint8_t* codes = w.codes.data() + r * w.cols;
    for (int64_t c = 0; c < w.cols; ++c) {
      row[static_cast<size_t>(c)] = codes[order.empty() ? c : order[static_cast<size_t>(c)]];
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * w.group_size, count = std::min(w.group_size, w.cols - begin);
      PackBits(std::span(row).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), bits,
               bytes.subspan(static_cast<size_t>((r * groups + g) * block_bytes), static_cast<size_t>(block_bytes)));
    }
  }
  Node product{.name = name, .op_type = "MatMulNBits", .domain = kMicrosoftDomain};
  product.inputs = {a, absl::StrCat(name, ".codes"), absl::StrCat(name, ".scales")};
  form.constants[product.inputs[1]] = *std::move(packed);
  form.constants[product.inputs[2]] = Tensor::Of<float>({w.rows, groups}, w.scales);
  const bool whole = std::all_of(w.zeros.begin(), w.zeros.end(), [](float z) { return z == std::nearbyint(z); });
  // 3-bit codes in 4 bits: their middle is 4, not the default 8.
  if (!w.zeros.empty() || w.bits == 3) {
    product.inputs.push_back(absl::StrCat(name, ".zeros"));
    if (whole) {
      const size_t zero_bytes = PackedBytes(static_cast<size_t>(groups), bits);
      std::vector<uint8_t> zeros(static_cast<size_t>(w.rows) * zero_bytes), one(static_cast<size_t>(groups));
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t g = 0; g < groups; ++g) one[static_cast<size_t>(g)] = static_cast<uint8_t>(w.zero(r, g));
        PackBits(one, bits, std::span(zeros).subspan(static_cast<size_t>(r) * zero_bytes, zero_bytes));
      }
      form.constants[product.inputs[3]] = Tensor::Of<uint8_t>({w.rows, static_cast<int64_t>(zero_bytes)}, zeros);
    } else {
      form.constants[product.inputs[3]] = Tensor::Of<float>({w.rows, groups}, w.zeros);
    }
  }
  product.attributes = {{"K", w.cols}, {"N", w.rows}, {"bits", int64_t{bits}}, {"block_size", w.group_size}};
  if (w.bits == 3) product.attributes["quant_bits"] = int64_t{3};
  form.nodes.push_back(std::move(product));
  return form;
}

absl::StatusOr<Form> CodebookForm(const std::string& name, const std::string& x, const CodebookMatrix& w) {
  Form form;
  std::vector<uint8_t> bytes((w.codes.size() + 1) / 2);
  PackHighFirst(w.codes, bytes);
  Node product{.name = name, .op_type = "MatMulCodebook", .domain = kQuantdDomain};
  product.inputs = {x, absl::StrCat(name, ".codes"), absl::StrCat(name, ".absmax"), absl::StrCat(name, ".codebook")};
  form.constants[product.inputs[1]] = Tensor::Of<uint8_t>({static_cast<int64_t>(bytes.size())}, bytes);
  form.constants[product.inputs[2]] = Tensor::Of<float>({w.blocks()}, w.absmax);
  form.constants[product.inputs[3]] = Tensor::Of<float>({16}, w.codebook);
  product.attributes = {{"K", w.cols}, {"N", w.rows}, {"block_size", w.block_size}};
  form.nodes.push_back(std::move(product));
  return form;
}

absl::StatusOr<Form> MakeForm(const std::string& name, const std::string& x, const WeightMatrix& weights) {
  if (absl::Status s = Validate(weights); !s.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("layer '", name, "': ", s.message()));
  }
  if (const auto* grouped = std::get_if<GroupedMatrix>(&weights)) return GroupedForm(name, x, *grouped);
  return CodebookForm(name, x, std::get<CodebookMatrix>(weights));
}

void AddConstants(Graph* graph, const Form& form) {
  for (const auto& [name, tensor] : form.constants) graph->initializers[name] = tensor;
  graph->other_opsets[form.nodes.back().domain] = 1;
}

absl::Status BadNode(const Node& node, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(node.op_type, " '", node.name, "': ", what));
}

absl::StatusOr<WeightMatrix> GroupedOf(const Graph& graph, const Node& node) {
  GroupedMatrix w;
  w.rows = node.Int("N", 0);
  w.cols = node.Int("K", 0);
  const int64_t bits = node.Int("bits", 4), block = node.Int("block_size", 0);
  if (bits != 2 && bits != 4 && bits != 8)
    return BadNode(node, absl::StrCat("bits is ", bits, "; there are 2, 4 and 8"));
  constexpr int64_t kMaxBlock = int64_t{1} << 30;
  if (w.rows <= 0 || w.cols <= 0 || block <= 0 || block > kMaxBlock || w.cols > kMaxElements ||
      !ElementCount(std::vector<int64_t>{w.rows, (w.cols + block - 1) / block * block}).ok()) {
    return BadNode(node, absl::StrCat("N ", w.rows, ", K ", w.cols, ", block_size ", block, " make no matrix"));
  }
  if (!node.input(4).empty()) return BadNode(node, "g_idx is not supported; a Gather in front does the same");
  w.bits = node.Int("quant_bits", 0) == 3 ? 3 : static_cast<int>(bits);
  w.group_size = std::min(block, w.cols);
  const int64_t groups = (w.cols + block - 1) / block;
  const int64_t block_bytes = static_cast<int64_t>(PackedBytes(static_cast<size_t>(block), static_cast<int>(bits)));
  const Tensor* codes = graph.Initializer(node.input(1));
  const Tensor* scales = graph.Initializer(node.input(2));
  if (codes == nullptr || codes->dtype() != DType::kUInt8 || codes->elements() != w.rows * groups * block_bytes) {
    return BadNode(node,
                   absl::StrCat("its codes are not a constant uint8 [", w.rows, ", ", groups, ", ", block_bytes, "]"));
  }
  if (scales == nullptr || !IsFloat(scales->dtype()) || scales->elements() != w.rows * groups) {
    return BadNode(node, absl::StrCat("its scales are not a constant float [", w.rows, ", ", groups, "]"));
  }
  absl::StatusOr<std::vector<float>> s = ToFloat(*scales);
  if (!s.ok()) return s.status();
  w.scales = *std::move(s);
  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(codes->bytes().data()), codes->bytes().size());
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * block, count = std::min(block, w.cols - begin);
      UnpackBits(bytes.subspan(static_cast<size_t>((r * groups + g) * block_bytes), static_cast<size_t>(block_bytes)),
                 static_cast<int>(bits),
                 std::span(w.codes).subspan(static_cast<size_t>(r * w.cols + begin), static_cast<size_t>(count)));
    }
  }
  if (!node.input(3).empty()) {
    const Tensor* zeros = graph.Initializer(node.input(3));
    if (zeros == nullptr) return BadNode(node, "its zero points are not constant");
    w.zeros.resize(static_cast<size_t>(w.rows * groups));
    if (IsFloat(zeros->dtype())) {
      if (zeros->elements() != w.rows * groups) return BadNode(node, "its zero points do not fit its scales");
      absl::StatusOr<std::vector<float>> z = ToFloat(*zeros);
      if (!z.ok()) return z.status();
      w.zeros = *std::move(z);
    } else {
      const size_t row_bytes = PackedBytes(static_cast<size_t>(groups), static_cast<int>(bits));
      if (zeros->dtype() != DType::kUInt8 || zeros->bytes().size() != static_cast<size_t>(w.rows) * row_bytes) {
        return BadNode(node, absl::StrCat("its zero points are not uint8 [", w.rows, ", ", row_bytes, "]"));
      }
      const std::span<const uint8_t> packed(reinterpret_cast<const uint8_t*>(zeros->bytes().data()),
                                            zeros->bytes().size());
      std::vector<uint8_t> row(static_cast<size_t>(groups));
      for (int64_t r = 0; r < w.rows; ++r) {
        UnpackBits(packed.subspan(static_cast<size_t>(r) * row_bytes, row_bytes), static_cast<int>(bits), row);
        std::copy(row.begin(), row.end(), w.zeros.begin() + r * groups);
      }
    }
  }
  if (!w.zeros.empty()) {
    const float middle = static_cast<float>(1 << (w.bits - 1));
    if (std::all_of(w.zeros.begin(), w.zeros.end(), [&](float z) { return z == middle; })) w.zeros.clear();
  }
  return w;
}

absl::StatusOr<WeightMatrix> CodebookOf(const Graph& graph, const Node& node) {
  CodebookMatrix w;
  w.rows = node.Int("N", 0);
  w.cols = node.Int("K", 0);
  w.block_size = node.Int("block_size", 0);
  if (w.rows <= 0 || w.cols <= 0 || w.block_size <= 0 || !ElementCount(std::vector<int64_t>{w.rows, w.cols}).ok()) {
    return BadNode(node, "N, K and block_size make no matrix");
  }
  const Tensor* codes = graph.Initializer(node.input(1));
  const int64_t count = w.rows * w.cols;
  if (codes == nullptr || codes->dtype() != DType::kUInt8 || codes->elements() != (count + 1) / 2) {
    return BadNode(node, absl::StrCat("its codes are not a constant uint8 [", (count + 1) / 2, "]"));
  }
  const auto floats = [&](size_t i, int64_t want) -> absl::StatusOr<std::vector<float>> {
    const Tensor* t = graph.Initializer(node.input(i));
    if (t == nullptr || !IsFloat(t->dtype()) || t->elements() != want) {
      return BadNode(node, absl::StrCat("input ", i, " is not a constant float [", want, "]"));
    }
    return ToFloat(*t);
  };
  absl::StatusOr<std::vector<float>> absmax = floats(2, w.blocks());
  if (!absmax.ok()) return absmax.status();
  absl::StatusOr<std::vector<float>> codebook = floats(3, 16);
  if (!codebook.ok()) return codebook.status();
  w.absmax = *std::move(absmax);
  w.codebook = *std::move(codebook);
  w.codes.resize(static_cast<size_t>(count));
  UnpackHighFirst({reinterpret_cast<const uint8_t*>(codes->bytes().data()), codes->bytes().size()}, w.codes);
  return w;
}

// Rows [begin, end) of a matrix that stands as its transpose, [cols, rows].
void ReadTransposed(const Tensor& w, const Linear& linear, int64_t begin, int64_t end, std::span<float> dst) {
  std::vector<float> column(static_cast<size_t>(end - begin));
  for (int64_t c = 0; c < linear.cols; ++c) {
    ToFloat(w, c * linear.rows + begin, column);
    for (int64_t r = 0; r < end - begin; ++r) {
      dst[static_cast<size_t>(r * linear.cols + c)] = column[static_cast<size_t>(r)];
    }
  }
}

bool AllFinite(std::span<const float> values) {
  int bad = 0;
  for (const float v : values) bad |= static_cast<int>(!(std::fabs(v) <= FLT_MAX));
  return bad == 0;
}

}  // namespace

std::vector<Linear> FindLinears(const Graph& graph) {
  const GraphIndex index(graph);
  std::vector<Linear> found;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    if (n.op_type != "MatMul" || !n.domain.empty()) continue;
    const std::optional<Source> source = WeightSource(graph, index, n.input(1));
    if (!source.has_value()) continue;
    const Tensor& w = *graph.Initializer(source->name);
    found.push_back({.name = n.name,
                     .node = static_cast<int>(i),
                     .input = n.input(0),
                     .output = n.outputs[0],
                     .weight = source->name,
                     .transposed = source->transposed,
                     .rows = w.dim(source->transposed ? 0 : 1),
                     .cols = w.dim(source->transposed ? 1 : 0)});
  }
  return found;
}

absl::Status ReadLinearWeights(const Graph& graph, const Linear& linear, int64_t begin, int64_t end,
                               std::span<float> dst) {
  CHECK_EQ(static_cast<int64_t>(dst.size()), (end - begin) * linear.cols);
  const Tensor& w = *graph.Initializer(linear.weight);
  const int64_t rows = end - begin;
  const auto row = [&](int64_t r) {
    return dst.subspan(static_cast<size_t>(r * linear.cols), static_cast<size_t>(linear.cols));
  };
  if (!linear.transposed) ReadTransposed(w, linear, begin, end, dst);
  bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
  for (int64_t r = 0; r < rows; ++r) {
    if (linear.transposed) ToFloat(w, (begin + r) * linear.cols, row(r));
    finite = AllFinite(row(r)) && finite;
  }
  if (finite) return absl::OkStatus();
  for (int64_t i = 0;; ++i) {
    const float v = dst[static_cast<size_t>(i)];
    if (std::isfinite(v)) continue;
    return absl::InvalidArgumentError(absl::StrCat("layer '", linear.name, "': weight [", begin + i / linear.cols, ", ",
                                                   i % linear.cols, "] is ", v));
  }
}

absl::StatusOr<std::vector<float>> LinearWeights(const Graph& graph, const Linear& linear, int64_t begin, int64_t end) {
  std::vector<float> out(static_cast<size_t>((end - begin) * linear.cols));
  if (absl::Status s = ReadLinearWeights(graph, linear, begin, end, out); !s.ok()) return s;
  return out;
}

std::string AppendLinear(Graph* graph, const std::string& name, const std::string& x, const std::string& weight,
                         const std::string& bias) {
  std::string w = weight;
  if (graph->Initializer(weight)->dtype() != DType::kFloat32) {
    w = absl::StrCat(name, ".f32");
    AddNode(graph,
            {.name = w, .op_type = "Cast", .inputs = {weight}, .outputs = {w}, .attributes = {{"to", int64_t{1}}}});
  }
  const std::string t = absl::StrCat(name, ".t");
  AddNode(graph,
          {.name = t, .op_type = "Transpose", .inputs = {w}, .outputs = {t}, .attributes = {{"perm", Perm{1, 0}}}});
  const std::string y = absl::StrCat(name, ".out");
  AddNode(graph, {.name = name, .op_type = "MatMul", .inputs = {x, t}, .outputs = {y}});
  return AddBias(graph, name, y, bias);
}

absl::StatusOr<std::string> AppendQuantizedLinear(Graph* graph, const std::string& name, const std::string& x,
                                                  const WeightMatrix& weights, const std::string& bias) {
  absl::StatusOr<Form> form = MakeForm(name, x, weights);
  if (!form.ok()) return form.status();
  AddConstants(graph, *form);
  const std::string y = absl::StrCat(name, ".out");
  form->nodes.back().outputs = {y};
  for (Node& n : form->nodes) AddNode(graph, std::move(n));
  return AddBias(graph, name, y, bias);
}

absl::Status ReplaceLinear(Graph* graph, std::string_view name, const WeightMatrix& weights) {
  const auto it = std::find_if(graph->nodes.begin(), graph->nodes.end(), [&](const Node& n) { return n.name == name; });
  if (it == graph->nodes.end() || it->op_type != "MatMul") {
    return absl::NotFoundError(absl::StrCat("there is no float linear layer '", std::string(name), "'"));
  }
  absl::StatusOr<Form> form = MakeForm(it->name, it->inputs[0], weights);
  if (!form.ok()) return form.status();
  AddConstants(graph, *form);
  form->nodes.back().outputs = it->outputs;
  *it = std::move(form->nodes.back());
  form->nodes.pop_back();
  graph->nodes.insert(it, form->nodes.begin(), form->nodes.end());
  graph->RemoveUnused();
  return absl::OkStatus();
}

absl::StatusOr<WeightMatrix> QuantizedWeightsOf(const Graph& graph, const Node& node) {
  absl::StatusOr<WeightMatrix> w = BadNode(node, "is not a quantized linear layer");
  if (node.domain == kMicrosoftDomain && node.op_type == "MatMulNBits") w = GroupedOf(graph, node);
  if (node.domain == kQuantdDomain && node.op_type == "MatMulCodebook") w = CodebookOf(graph, node);
  if (!w.ok()) return w.status();
  if (absl::Status s = Validate(*w); !s.ok()) return BadNode(node, s.message());
  return w;
}

}  // namespace quant

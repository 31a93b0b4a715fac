// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/awq_block.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/graph/linear.h"

namespace quant {
namespace {

// What is divided by the scales.
struct Producer {
  std::string gamma, beta;     // initializers of a norm
  float gamma_offset = 0;      // the norm multiplies by offset + gamma (Gemma)
  std::optional<Linear> rows;  // or a linear layer's rows
  std::string bias;            // its bias, an initializer
};

class ProducerFinder {
 public:
  ProducerFinder(const Graph& graph, const InputGroup& group) : graph_(graph), index_(graph), group_(group) {}

  // Null, with why_not() set, when there is none.
  std::optional<Producer> Find() {
    const std::string& x = group_.input;
    if (index_.Consumers(x).size() != group_.linears.size() || graph_.IsOutput(x)) {
      return No("its input has other readers");
    }
    const Node* p = NodeOf(x);
    if (p == nullptr) return No("its input is the block's");
    if (p->op_type == "RMSNormalization" || p->op_type == "LayerNormalization") return Norm(*p);
    if (p->op_type == "Mul") {
      for (size_t i = 0; i < 2; ++i) {
        if (std::optional<Producer> rows = Rows(p->input(i)); rows.has_value()) return rows;
      }
      return No("neither factor of its input is a linear layer's output");
    }
    if (p->op_type == "Attention") {
      if (p->Int("q_num_heads", 0) == 0 || p->Int("q_num_heads", 0) != p->Int("kv_num_heads", 0)) {
        return No("several heads share a value head");
      }
      if (std::optional<Producer> rows = Rows(p->input(2)); rows.has_value()) return rows;
      return No("the values are no linear layer's output");
    }
    return No(absl::StrCat("nothing before it (", p->op_type, ") can take the scales"));
  }
  const std::string& why_not() const { return why_not_; }

 private:
  std::optional<Producer> No(std::string why) {
    why_not_ = std::move(why);
    return std::nullopt;
  }
  const Node* NodeOf(const std::string& value) const {
    const int producer = index_.Producer(value);
    return producer < 0 ? nullptr : &graph_.nodes[static_cast<size_t>(producer)];
  }
  bool ReadOnce(const std::string& value) const {
    return index_.Consumers(value).size() == 1 && !graph_.IsOutput(value);
  }

  // The initializer behind Cast nodes (and Add of one number, which goes into `offset`), read by nobody else.
  std::string Parameter(std::string value, float* offset) const {
    while (ReadOnce(value)) {
      if (graph_.Initializer(value) != nullptr) return value;
      const Node* n = NodeOf(value);
      if (n == nullptr) return "";
      if (n->op_type == "Cast") {
        value = n->input(0);
      } else if (n->op_type == "Add" && offset != nullptr) {
        const Tensor* number = graph_.Initializer(n->input(1));
        if (number == nullptr || number->elements() != 1 || number->dtype() != DType::kFloat32) return "";
        *offset += number->data<float>()[0];
        value = n->input(0);
      } else {
        return "";
      }
    }
    return "";
  }

  std::optional<Producer> Norm(const Node& n) {
    Producer p;
    p.gamma = Parameter(n.input(1), &p.gamma_offset);
    if (p.gamma.empty()) return No("its norm's weight is not a constant of its own");
    if (n.input(2).empty()) return p;
    p.beta = Parameter(n.input(2), nullptr);
    if (p.beta.empty()) return No("its norm's bias is not a constant of its own");
    return p;
  }

  // `value` as the output of a linear layer, with or without a bias.
  std::optional<Producer> Rows(const std::string& value) {
    Producer p;
    std::string output = value;
    if (!ReadOnce(output)) return std::nullopt;
    if (const Node* add = NodeOf(output); add != nullptr && add->op_type == "Add") {
      p.bias = Parameter(add->input(1), nullptr);
      if (p.bias.empty() || graph_.Initializer(p.bias)->rank() != 1) return std::nullopt;
      output = add->input(0);
      if (!ReadOnce(output)) return std::nullopt;
    }
    for (const Linear& l : FindLinears(graph_)) {
      if (l.output == output && l.rows == group_.linears[0].cols) {
        p.rows = l;
        return p;
      }
    }
    return std::nullopt;
  }

  const Graph& graph_;
  const GraphIndex index_;
  const InputGroup& group_;
  std::string why_not_;
};

// A norm's parameter divided by s, in its own type; `real` becomes what it then is.
absl::StatusOr<Tensor> Divided(const Tensor& parameter, float offset, const std::vector<float>& s,
                               std::vector<float>* before, std::vector<float>* after) {
  ASSIGN_OR_RETURN(std::vector<float> values, ToFloat(parameter));
  if (values.size() != s.size())
    return absl::InvalidArgumentError("a norm's parameter has another width than its readers");
  before->clear();
  for (size_t i = 0; i < values.size(); ++i) {
    before->push_back(values[i] + offset);
    values[i] = (values[i] + offset) / s[i] - offset;
  }
  ASSIGN_OR_RETURN(Tensor rounded, Cast(Tensor::Of<float>(parameter.shape(), values), parameter.dtype()));
  ASSIGN_OR_RETURN(*after, ToFloat(rounded));
  for (float& v : *after) v += offset;
  return rounded;
}

// The layer's weights, in the graph's orientation, from [rows, cols].
Tensor AsStored(const Linear& linear, const std::vector<float>& weights) {
  if (linear.transposed) return Tensor::Of<float>({linear.rows, linear.cols}, weights);
  std::vector<float> t(weights.size());
  for (int64_t r = 0; r < linear.rows; ++r) {
    for (int64_t c = 0; c < linear.cols; ++c) {
      t[static_cast<size_t>(c * linear.rows + r)] = weights[static_cast<size_t>(r * linear.cols + c)];
    }
  }
  return Tensor::Of<float>({linear.cols, linear.rows}, t);
}

// Divides the producer; `s` becomes the scales that make up for what was really divided.
absl::Status Divide(Graph* graph, const Producer& p, std::vector<float>* s, std::map<std::string, Tensor>* changed) {
  const auto replace = [&](const std::string& name, Tensor tensor) {
    graph->initializers[name] = tensor;
    (*changed)[name] = std::move(tensor);
  };
  if (p.rows.has_value()) {
    ASSIGN_OR_RETURN(std::vector<float> weights, LinearWeights(*graph, *p.rows));
    for (int64_t r = 0; r < p.rows->rows; ++r) {
      for (int64_t c = 0; c < p.rows->cols; ++c) {
        weights[static_cast<size_t>(r * p.rows->cols + c)] /= (*s)[static_cast<size_t>(r)];
      }
    }
    replace(p.rows->weight, AsStored(*p.rows, weights));
    if (p.bias.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(std::vector<float> bias, ToFloat(*graph->Initializer(p.bias)));
    for (size_t i = 0; i < bias.size(); ++i) bias[i] /= (*s)[i];
    replace(p.bias, Tensor::Of<float>({static_cast<int64_t>(bias.size())}, bias));
    return absl::OkStatus();
  }
  std::vector<float> before, after;
  ASSIGN_OR_RETURN(Tensor gamma, Divided(*graph->Initializer(p.gamma), p.gamma_offset, *s, &before, &after));
  if (!p.beta.empty()) {
    // One scale serves both: a bias is kept in float32, so that it needs no making up.
    ASSIGN_OR_RETURN(const std::vector<float> beta, ToFloat(*graph->Initializer(p.beta)));
    std::vector<float> divided(beta.size());
    for (size_t i = 0; i < beta.size(); ++i) {
      const float real = after[i] != 0 ? before[i] / after[i] : (*s)[i];
      divided[i] = beta[i] / real;
    }
    replace(p.beta, Tensor::Of<float>({static_cast<int64_t>(divided.size())}, divided));
  }
  for (size_t i = 0; i < s->size(); ++i) {
    if (after[i] != 0) (*s)[i] = before[i] / after[i];
  }
  replace(p.gamma, std::move(gamma));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ScaleGroup(Graph* graph, const InputGroup& group, const HessianMatrix& hessian,
                                       const LinearMethod& method, int threads,
                                       std::map<std::string, Tensor>* changed) {
  ProducerFinder finder(*graph, group);
  const std::optional<Producer> producer = finder.Find();
  if (!producer.has_value()) {
    return absl::StrCat(group.linears[0].name, ": not scaled, ", finder.why_not());
  }
  std::vector<std::vector<float>> weights;
  weights.reserve(group.linears.size());
  std::vector<weight_only::MatrixView> views;
  views.reserve(group.linears.size());
  for (const Linear& l : group.linears) {
    ASSIGN_OR_RETURN(std::vector<float> w, LinearWeights(*graph, l));
    weights.push_back(std::move(w));
  }
  for (size_t i = 0; i < weights.size(); ++i)
    views.push_back({weights[i], group.linears[i].rows, group.linears[i].cols});
  weight_only::AwqOptions options = method.awq;
  options.grid = method.grid;
  options.grid.search = weight_only::ScaleSearch::kMinMax;  // what is searched for here is the scale of columns
  options.threads = threads;
  ASSIGN_OR_RETURN(weight_only::AwqResult found, weight_only::SearchAwqScales(views, hessian, options));
  if (found.identity()) return std::string();
  std::vector<float> s = std::move(found.scales);
  RETURN_IF_ERROR(Divide(graph, *producer, &s, changed));
  for (size_t i = 0; i < weights.size(); ++i) {
    const Linear& l = group.linears[i];
    for (int64_t r = 0; r < l.rows; ++r) {
      for (int64_t c = 0; c < l.cols; ++c) weights[i][static_cast<size_t>(r * l.cols + c)] *= s[static_cast<size_t>(c)];
    }
    graph->initializers[l.weight] = AsStored(l, weights[i]);
  }
  return std::string();
}

}  // namespace quant

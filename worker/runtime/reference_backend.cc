// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/reference_backend.h"

#include <algorithm>
#include <list>
#include <set>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/runtime/infer.h"

namespace quant {
namespace {

// One node with its tensors bound.
struct Step {
  const Node* node;
  const Op* op;
  std::vector<const Tensor*> in;
  std::vector<Tensor> out;        // handles that share storage with the plan's values
  std::vector<std::string> taps;  // outputs to show
};

// A graph laid out for one combination of input shapes.
struct Plan {
  std::vector<Shape> input_shapes;
  InferredPlan inferred;
  std::map<std::string, Tensor> values;  // inputs and computed values; a map: pointers into it stay
  std::vector<Step> steps;
  std::vector<Tensor> outputs;
  int64_t bytes = 0;
};

class ReferenceExecutable : public Executable {
 public:
  ReferenceExecutable(std::shared_ptr<const Graph> graph, CompileOptions options)
      : graph_(std::move(graph)), options_(std::move(options)) {}

  // Copies the weights that are not aligned for their type.
  absl::Status Prepare() {
    std::set<std::string> names(options_.taps.begin(), options_.taps.end());
    for (const ValueInfo& input : graph_->inputs) names.erase(input.name);
    for (const Node& node : graph_->nodes) {
      for (const std::string& output : node.outputs) names.erase(output);
    }
    if (!names.empty())
      return absl::InvalidArgumentError(absl::StrCat("the tapped value '", *names.begin(), "' is not in the graph"));
    for (const auto& [name, tensor] : graph_->initializers) {
      ASSIGN_OR_RETURN(weights_[name], AlignedTensor(tensor));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::span<const Tensor>> Run(std::span<const Tensor> inputs) override {
    std::vector<Shape> shapes;
    std::vector<TensorDesc> descs;
    for (const Tensor& t : inputs) {
      shapes.push_back(t.shape());
      descs.push_back({t.dtype(), t.shape(), nullptr});
    }
    RETURN_IF_ERROR(CheckInputs(*graph_, descs));
    auto it = std::find_if(plans_.begin(), plans_.end(), [&](const Plan& p) { return p.input_shapes == shapes; });
    if (it == plans_.end()) {
      const size_t keep = static_cast<size_t>(std::max(options_.max_plans, 1)) - 1;
      while (plans_.size() > keep) plans_.pop_back();
      plans_.emplace_front();
      if (absl::Status status = MakePlan(descs, plans_.front()); !status.ok()) {
        plans_.pop_front();
        return status;
      }
      plans_.front().input_shapes = std::move(shapes);
    } else {
      plans_.splice(plans_.begin(), plans_, it);
    }
    return RunPlan(plans_.front(), inputs);
  }

  int64_t MemoryBytes() const override {
    int64_t bytes = plans_.empty() ? 0 : plans_.front().bytes;
    for (const auto& [name, tensor] : weights_) bytes += static_cast<int64_t>(tensor.bytes().size());
    return bytes;
  }

  std::string DescribePlan() const override {
    std::string text;
    if (plans_.empty()) return text;
    for (const Step& step : plans_.front().steps) {
      absl::StrAppend(&text, step.node->name, " ", step.node->op_type, " reference");
      for (const Tensor& t : step.out) absl::StrAppend(&text, " ", DTypeName(t.dtype()), ShapeString(t.shape()));
      absl::StrAppend(&text, "\n");
    }
    return text;
  }

 private:
  // The tensor a value is in: a weight, a folded constant, or memory of the plan.
  const Tensor* Find(const Plan& plan, const std::string& name) const {
    if (name.empty()) return nullptr;
    if (const auto w = weights_.find(name); w != weights_.end()) return &w->second;
    if (const auto c = plan.inferred.constants.find(name); c != plan.inferred.constants.end()) return &c->second;
    return &plan.values.at(name);
  }

  absl::Status MakePlan(std::span<const TensorDesc> inputs, Plan& plan) const {
    ASSIGN_OR_RETURN(plan.inferred, InferShapes(*graph_, inputs));
    std::vector<std::string> computed;
    for (size_t i = 0; i < graph_->nodes.size(); ++i) {
      if (plan.inferred.folded[i]) continue;
      for (const std::string& name : graph_->nodes[i].outputs) {
        if (!name.empty()) computed.push_back(name);
      }
    }
    for (const std::string& name : computed) {
      const TensorDesc& desc = plan.inferred.Value(name);
      ASSIGN_OR_RETURN(const int64_t elements, ElementCount(desc.shape));
      plan.bytes += DTypeBytes(desc.dtype, elements).value_or(options_.max_plan_bytes);
      if (plan.bytes > options_.max_plan_bytes) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "the model's inner values need more than the limit of ", options_.max_plan_bytes, " bytes; '", name,
            "' alone is ", DTypeName(desc.dtype), " ", ShapeString(desc.shape), ": run a smaller batch"));
      }
    }
    for (const std::string& name : computed) {
      const TensorDesc& desc = plan.inferred.Value(name);
      ASSIGN_OR_RETURN(plan.values[name], Tensor::Allocate(desc.dtype, desc.shape));
    }
    for (const ValueInfo& input : graph_->inputs) plan.values[input.name] = Tensor();
    const std::set<std::string> taps(options_.taps.begin(), options_.taps.end());
    for (size_t i = 0; i < graph_->nodes.size(); ++i) {
      const Node& node = graph_->nodes[i];
      Step step{&node, FindOp(node.domain, node.op_type), {}, {}, {}};
      for (const std::string& name : node.outputs) {
        if (taps.contains(name)) step.taps.push_back(name);
      }
      if (plan.inferred.folded[i]) {
        step.op = nullptr;
        if (step.taps.empty()) continue;
      } else {
        for (const std::string& name : node.inputs) step.in.push_back(Find(plan, name));
        for (const std::string& name : node.outputs) step.out.push_back(name.empty() ? Tensor() : plan.values[name]);
      }
      plan.steps.push_back(std::move(step));
    }
    return absl::OkStatus();
  }

  absl::Status Show(const Plan& plan, const std::string& name) const {
    return options_.tap ? options_.tap(name, *Find(plan, name)) : absl::OkStatus();
  }

  absl::StatusOr<std::span<const Tensor>> RunPlan(Plan& plan, std::span<const Tensor> inputs) const {
    for (size_t i = 0; i < inputs.size(); ++i) {
      ASSIGN_OR_RETURN(plan.values[graph_->inputs[i].name], AlignedTensor(inputs[i]));
    }
    for (const ValueInfo& input : graph_->inputs) {
      if (std::find(options_.taps.begin(), options_.taps.end(), input.name) != options_.taps.end()) {
        RETURN_IF_ERROR(Show(plan, input.name));
      }
    }
    for (Step& step : plan.steps) {
      if (step.op != nullptr)
        RETURN_IF_ERROR(AtNode(*step.node, step.op->compute(*step.node, step.in, std::span(step.out))));
      for (const std::string& name : step.taps) RETURN_IF_ERROR(Show(plan, name));
    }
    plan.outputs.clear();
    for (const ValueInfo& output : graph_->outputs) plan.outputs.push_back(*Find(plan, output.name));
    return std::span<const Tensor>(plan.outputs);
  }

  const std::shared_ptr<const Graph> graph_;  // shared: see Compile
  const CompileOptions options_;
  std::map<std::string, Tensor> weights_;
  std::list<Plan> plans_;  // newest first
};

}  // namespace

absl::StatusOr<std::unique_ptr<Executable>> CompileReference(std::shared_ptr<const Graph> graph,
                                                             const CompileOptions& options) {
  RETURN_IF_ERROR(graph->Validate());
  RETURN_IF_ERROR(CheckSupported(*graph));
  auto executable = std::make_unique<ReferenceExecutable>(std::move(graph), options);
  RETURN_IF_ERROR(executable->Prepare());
  return executable;
}

}  // namespace quant

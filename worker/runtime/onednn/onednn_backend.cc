// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/onednn_backend.h"

#include <algorithm>
#include <list>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/runtime/infer.h"
#include "worker/runtime/onednn/builder.h"
#include "worker/runtime/onednn/lower.h"
#include "worker/runtime/onednn/plan.h"

namespace quant {
namespace {

using onednn::LoweredType;
using onednn::Plan;
using onednn::PlanBuilder;
using onednn::WeightCache;

std::vector<TensorDesc> DescsOf(std::span<const Tensor> tensors) {
  std::vector<TensorDesc> descs;
  for (const Tensor& t : tensors) descs.push_back({t.dtype(), t.shape(), nullptr});
  return descs;
}

bool IsAligned(const Tensor& t) {
  const size_t size = std::max<size_t>(1, static_cast<size_t>(DTypeBits(t.dtype())) / 8);
  return reinterpret_cast<uintptr_t>(t.bytes().data()) % size == 0;
}

class OneDnnExecutable : public Executable {
 public:
  OneDnnExecutable(std::shared_ptr<const Graph> graph, std::shared_ptr<const Graph> lowered, CompileOptions options)
      : original_(std::move(graph)), graph_(std::move(lowered)), index_(*graph_), options_(std::move(options)) {
    if (options_.threads <= 0) options_.threads = omp_get_num_procs();
    if (options_.tap) {
      options_.tap = [this, tap = options_.tap](std::string_view value, const Tensor& tensor) -> absl::Status {
        const auto it = tap_types_.find(value);
        if (it == tap_types_.end() || it->second == tensor.dtype()) return tap(value, tensor);
        ASSIGN_OR_RETURN(const Tensor converted, Cast(tensor, it->second));
        return tap(value, converted);
      };
    }
  }

  absl::StatusOr<std::span<const Tensor>> Run(std::span<const Tensor> inputs) override {
    auto it = std::find_if(plans_.begin(), plans_.end(), [&](const Kept& k) { return Fits(k, inputs); });
    if (it == plans_.end()) {
      RETURN_IF_ERROR(MakePlan(inputs));
      it = plans_.begin();
    } else {
      plans_.splice(plans_.begin(), plans_, it);
    }
    RETURN_IF_ERROR(RunPlan(*it->plan, inputs));
    if (!is_lowered()) return it->plan->outputs();
    outputs_.clear();
    for (size_t i = 0; i < it->plan->outputs().size(); ++i) {
      ASSIGN_OR_RETURN(Tensor t, Cast(it->plan->outputs()[i], it->output_types[i]));
      outputs_.push_back(std::move(t));
    }
    return outputs_;
  }

  int64_t MemoryBytes() const override {
    return weights_.bytes() + (plans_.empty() ? 0 : plans_.front().plan->bytes());
  }

  std::string DescribePlan() const override { return plans_.empty() ? "" : plans_.front().plan->Describe(); }

 private:
  struct Kept {
    std::vector<TensorDesc> inputs;
    std::vector<DType> output_types;  // of the original graph, when lowered
    std::unique_ptr<Plan> plan;
  };

  bool is_lowered() const { return original_ != graph_; }

  static bool Fits(const Kept& kept, std::span<const Tensor> inputs) {
    return std::equal(
        kept.inputs.begin(), kept.inputs.end(), inputs.begin(), inputs.end(),
        [](const TensorDesc& d, const Tensor& t) { return d.dtype == t.dtype() && d.shape == t.shape(); });
  }

  absl::Status MakePlan(std::span<const Tensor> inputs) {
    Kept kept;
    kept.inputs = DescsOf(inputs);
    RETURN_IF_ERROR(CheckInputs(*original_, kept.inputs));
    std::vector<TensorDesc> descs = kept.inputs;
    if (is_lowered()) {
      ASSIGN_OR_RETURN(const InferredPlan original, InferShapes(*original_, descs));
      for (const ValueInfo& v : original_->outputs) kept.output_types.push_back(original.Value(v.name).dtype);
      for (const std::string& v : options_.taps) tap_types_[v] = original.Value(v).dtype;
      for (TensorDesc& d : descs) d.dtype = LoweredType(d.dtype);
    }
    ASSIGN_OR_RETURN(InferredPlan shapes, InferShapes(*graph_, descs));
    // Shared: the plan keeps the folded constants alive that its steps point to.
    auto shared = std::make_shared<const InferredPlan>(std::move(shapes));
    while (!plans_.empty() && plans_.size() >= static_cast<size_t>(std::max(options_.max_plans, 1))) plans_.pop_back();
    ASSIGN_OR_RETURN(kept.plan, PlanBuilder(*graph_, index_, std::move(shared), weights_, options_).Build());
    plans_.push_front(std::move(kept));
    return absl::OkStatus();
  }

  absl::Status RunPlan(Plan& plan, std::span<const Tensor> inputs) {
    if (!is_lowered() && std::all_of(inputs.begin(), inputs.end(), IsAligned)) return plan.Run(inputs);
    converted_.clear();
    for (const Tensor& t : inputs) {
      if (LoweredType(t.dtype()) != t.dtype()) {
        ASSIGN_OR_RETURN(Tensor lowered, Cast(t, LoweredType(t.dtype())));
        converted_.push_back(std::move(lowered));
      } else {
        ASSIGN_OR_RETURN(Tensor aligned, AlignedTensor(t));
        converted_.push_back(std::move(aligned));
      }
    }
    return plan.Run(converted_);
  }

  // Shared with the caller: weights are read from them while the executable lives. The same graph twice unless it had
  // to be rewritten to float32.
  const std::shared_ptr<const Graph> original_, graph_;
  const GraphIndex index_;
  CompileOptions options_;
  WeightCache weights_;
  std::list<Kept> plans_;  // newest first
  std::map<std::string, DType, std::less<>> tap_types_;
  std::vector<Tensor> converted_, outputs_;
};

absl::Status CheckTaps(const Graph& graph, const CompileOptions& options) {
  std::set<std::string> names(options.taps.begin(), options.taps.end());
  for (const ValueInfo& input : graph.inputs) names.erase(input.name);
  for (const Node& node : graph.nodes) {
    for (const std::string& output : node.outputs) names.erase(output);
  }
  if (names.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the tapped value '", *names.begin(), "' is not in the graph"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Executable>> CompileOneDnn(std::shared_ptr<const Graph> graph,
                                                          const CompileOptions& options) {
  RETURN_IF_ERROR(graph->Validate());
  RETURN_IF_ERROR(CheckSupported(*graph));
  RETURN_IF_ERROR(CheckTaps(*graph, options));
  ASSIGN_OR_RETURN(std::shared_ptr<const Graph> lowered, onednn::LowerToFloat32(graph));
  return std::make_unique<OneDnnExecutable>(std::move(graph), std::move(lowered), options);
}

}  // namespace quant

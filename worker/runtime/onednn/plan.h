// SPDX-License-Identifier: Apache-2.0
// Plan: the steps of a graph for one set of input shapes, with every buffer placed and every primitive made. Running it
// executes the steps in order; nothing is allocated but what oneDNN itself allocates inside a call (a small table of
// arguments), which does not grow with the tensors.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_PLAN_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_PLAN_H_

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "worker/runtime/executable.h"
#include "worker/runtime/onednn/dnnl_util.h"

namespace quant::onednn {

// Buffers are numbered; the table holds where each is during a run.
using Pointers = std::span<std::byte* const>;

struct Step {
  std::string node;  // for error messages
  std::string what;  // "conv+relu u8s8u8 jit_int8:avx512_core_vnni"
  int threads = 1;
  std::function<absl::Status(Pointers)> run;
};

// Weights in the layout a primitive wants, shared by the plans of an executable: plans for other batch sizes mostly
// choose the same layouts.
class WeightCache {
 public:
  // The memory called `key` in layout `desc`; made by reordering what `plain` returns. Throws dnnl::error.
  dnnl::memory Get(const std::string& key, const dnnl::memory::desc& desc, const std::function<dnnl::memory()>& plain);
  // Floats called `key`, made by `make` when they are asked for first; they stay as long as the cache.
  std::span<const float> Floats(const std::string& key, const std::function<std::vector<float>()>& make);
  int64_t bytes() const { return bytes_; }

 private:
  std::map<std::string, std::vector<dnnl::memory>> memories_;
  std::map<std::string, std::vector<float>> floats_;  // a map: its elements do not move
  int64_t bytes_ = 0;
};

class Plan {
 public:
  // Inputs are of the shapes and dtypes the plan was made for. Outputs are in outputs() afterwards.
  absl::Status Run(std::span<const Tensor> inputs);

  std::span<const Tensor> outputs() const { return outputs_; }
  int64_t bytes() const { return bytes_; }
  std::string Describe() const;

 private:
  friend class PlanBuilder;

  struct InputUse {
    int buffer;
    size_t input;
  };

  std::vector<Step> steps_;
  std::vector<std::byte*> pointers_;  // by buffer
  std::vector<InputUse> inputs_;      // buffers that are the caller's tensors: set anew by each run
  std::vector<std::pair<dnnl::memory, int>> input_memories_;
  std::vector<std::pair<dnnl::memory, int>> memories_;  // descriptors over buffers, alive as long as the steps
  std::vector<Tensor> outputs_;
  std::vector<Tensor> storage_;       // the arena first, then outputs
  std::shared_ptr<const void> keep_;  // constants that the steps point to
  int64_t bytes_ = 0;
};

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_PLAN_H_

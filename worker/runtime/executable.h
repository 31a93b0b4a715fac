// SPDX-License-Identifier: Apache-2.0
// Executable: a compiled graph. The seam between the backends:
//
//   kReference  plain loops, one operator at a time, double or int32 accumulation: the oracle of tests;
//   kOneDnn     a plan over oneDNN primitives: operators fused, weights prepacked, memory laid out once.
//
//   ASSIGN_OR_RETURN(auto exe, Compile(graph, {.threads = 2}));
//   ASSIGN_OR_RETURN(std::span<const Tensor> out, exe->Run({image}));
//
// Dynamic shapes: a plan is made for each combination of input shapes the first time it is seen; the newest few are
// kept. Running a shape again allocates nothing.
#ifndef QUANT_WORKER_RUNTIME_EXECUTABLE_H_
#define QUANT_WORKER_RUNTIME_EXECUTABLE_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

enum class Backend { kOneDnn, kReference };

struct CompileOptions {
  Backend backend = Backend::kOneDnn;
  int threads = 0;  // 0: all cores
  // Values to show to `tap` while running: names of inputs or node outputs. A tapped value is not fused away and is
  // shown in plain row-major layout, in its own dtype, as soon as it is computed; its memory is reused afterwards.
  std::vector<std::string> taps;
  // Called once per tapped value and run, in topological order, on the running thread. An error ends the run with it.
  std::function<absl::Status(std::string_view value, const Tensor& tensor)> tap;
  // Plans kept for different input shapes.
  int max_plans = 4;
  // Bytes of intermediate values a plan may need; RESOURCE_EXHAUSTED beyond it, before anything is allocated.
  int64_t max_plan_bytes = int64_t{8} << 30;
};

// Thread-compatible: one Run at a time.
class Executable {
 public:
  virtual ~Executable() = default;

  // Runs on inputs in the order of graph.inputs; returns the outputs in the order of graph.outputs, valid until the
  // next Run or destruction. INVALID_ARGUMENT when count, dtype or shape of an input does not fit the graph (the
  // message names input, value and what is wanted) or shapes do not fit an operator (names the node).
  virtual absl::StatusOr<std::span<const Tensor>> Run(std::span<const Tensor> inputs) = 0;

  // Bytes of prepacked weights and of the newest plan's intermediate values.
  virtual int64_t MemoryBytes() const = 0;

  // One line per step of the newest plan (node, primitive, implementation): for logs, tests and `bench/`.
  virtual std::string DescribePlan() const = 0;
};

// Compiles `graph` (shared: the executable reads its weights while it lives). UNIMPLEMENTED listing every operator the
// backend does not have, with its nodes' names.
absl::StatusOr<std::unique_ptr<Executable>> Compile(std::shared_ptr<const Graph> graph, const CompileOptions& options);

// The same check alone: OK, or UNIMPLEMENTED with one message listing all unsupported operators and their nodes.
absl::Status CheckSupported(const Graph& graph);

}  // namespace quant

#endif  // QUANT_WORKER_RUNTIME_EXECUTABLE_H_

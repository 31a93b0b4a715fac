// SPDX-License-Identifier: Apache-2.0
// The oneDNN backend: an Executable that makes a plan per combination of input shapes; see executable.h for the
// contract and builder.h for how a plan is made.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_ONEDNN_BACKEND_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_ONEDNN_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/runtime/executable.h"

namespace quant {

// Compiles `graph` for this backend. Plans are made by the first Run with each combination of shapes, so errors of
// shapes and of memory come from there. UNIMPLEMENTED as CheckSupported; INVALID_ARGUMENT for a graph that is not valid
// or a tap that names no value.
absl::StatusOr<std::unique_ptr<Executable>> CompileOneDnn(std::shared_ptr<const Graph> graph,
                                                          const CompileOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_ONEDNN_BACKEND_H_

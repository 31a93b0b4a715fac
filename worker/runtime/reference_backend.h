// SPDX-License-Identifier: Apache-2.0
// The reference backend: an Executable that runs the operator table's plain loops one node at a time, every value in
// memory of its own. Slow, obvious, and the oracle of tests; see executable.h for the contract.
#ifndef QUANT_WORKER_RUNTIME_REFERENCE_BACKEND_H_
#define QUANT_WORKER_RUNTIME_REFERENCE_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/runtime/executable.h"

namespace quant {

// Compiles `graph` for this backend (options.backend and options.threads are ignored: it runs on the calling thread).
// UNIMPLEMENTED as CheckSupported; INVALID_ARGUMENT for a graph that is not valid or a tap that names no value.
absl::StatusOr<std::unique_ptr<Executable>> CompileReference(std::shared_ptr<const Graph> graph,
                                                             const CompileOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_RUNTIME_REFERENCE_BACKEND_H_

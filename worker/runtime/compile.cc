// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/executable.h"
#include "worker/runtime/onednn/onednn_backend.h"
#include "worker/runtime/reference_backend.h"

namespace quant {

absl::StatusOr<std::unique_ptr<Executable>> Compile(std::shared_ptr<const Graph> graph, const CompileOptions& options) {
  return options.backend == Backend::kReference ? CompileReference(std::move(graph), options)
                                                : CompileOneDnn(std::move(graph), options);
}

}  // namespace quant

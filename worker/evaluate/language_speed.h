// SPDX-License-Identifier: Apache-2.0
// Speed of language models: reading a prompt (prefill) and writing token after token (decode), original and quantized
// in turn, so that a change of the machine's speed reaches both.
#ifndef QUANT_WORKER_EVALUATE_LANGUAGE_SPEED_H_
#define QUANT_WORKER_EVALUATE_LANGUAGE_SPEED_H_

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "worker/calibrate/progress.h"
#include "worker/evaluate/evaluate.h"
#include "worker/graph/graph.h"

namespace quant {

// Tokens per second of one run over `prompt` (batch 1), the median of as many runs of each model as fit into about
// `seconds` for both, at least 3 of each after one to warm up. Graphs as in language.h. `batch` is the prompt's length.
absl::StatusOr<ThroughputResult> MeasurePrefill(std::shared_ptr<const Graph> original,
                                                std::shared_ptr<const Graph> quantized, std::span<const int32_t> prompt,
                                                double seconds, int threads, const ProgressFn& progress);

// Milliseconds per token: the models, with a key/value cache (huggingface/builder.h, kv_cache), read the prompt and
// then predict `tokens` more (at least 2), the likeliest each, taking turns. The first step of each is not counted.
// INVALID_ARGUMENT: a graph without a cache.
absl::StatusOr<LatencyPairResult> MeasureDecode(std::shared_ptr<const Graph> original,
                                                std::shared_ptr<const Graph> quantized, std::span<const int32_t> prompt,
                                                int tokens, int threads, const ProgressFn& progress);

}  // namespace quant

#endif  // QUANT_WORKER_EVALUATE_LANGUAGE_SPEED_H_

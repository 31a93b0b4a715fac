// SPDX-License-Identifier: Apache-2.0
// Measures a quantized language model against its original: perplexity, divergence of the next-token distributions, and
// tokens per second. A model is a graph with input input_ids int64 [batch, sequence] and output logits float32
// [batch, sequence, vocabulary]. One window of tokens is in memory at a time.
#ifndef QUANT_WORKER_EVALUATE_LANGUAGE_H_
#define QUANT_WORKER_EVALUATE_LANGUAGE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/progress.h"
#include "worker/evaluate/evaluate.h"
#include "worker/graph/graph.h"

namespace quant {

using TokenWindows = std::span<const std::vector<int32_t>>;

// The sums of one window's targets, in double: position i predicts token i + 1, so a window of n tokens has n - 1.
struct WindowSums {
  double nll_original = 0;  // sum of -log p(target), natural logarithm
  double nll_quantized = 0;
  double divergence = 0;  // sum of KL(original || quantized), natural logarithm
  int64_t same_top = 0;   // positions with the same arg max (the lowest index on ties)
  int64_t targets = 0;
};

// Sums over the first `tokens.size() - 1` rows of two logit matrices [rows, vocabulary]. Softmax in double with the
// maximum taken off. A row of the quantized model with NaN or infinity counts as: uniform for the likelihood and the
// divergence, another arg max; `broken` counts such rows.
WindowSums SumWindow(std::span<const float> original, std::span<const float> quantized, int64_t vocabulary,
                     std::span<const int32_t> tokens, int64_t* broken);

// From windows' sums, with 95 % intervals from the windows as clusters (tokens of a text are not independent): for a
// ratio R = sum a_w / sum n_w over W windows, se^2 = W / (W - 1) * sum (a_w - R n_w)^2 / (sum n_w)^2.
//   perplexity     exp(mean NLL) of both; low and high bound the difference through that of the mean NLLs
//   kl_divergence  mean over targets; original 0
//   same_top       percent; original 100
std::vector<MetricResult> LanguageMetrics(std::span<const WindowSums> windows);

// Runs both models over `windows` (each at least 2 tokens) and returns the metrics above; `samples` counts targets.
// Where it goes on from an earlier run, `done` counts windows.
// INVALID_ARGUMENT: no windows, a token outside the vocabulary, NaN in the original's logits.
absl::StatusOr<Evaluation> EvaluateLanguage(std::shared_ptr<const Graph> original,
                                            std::shared_ptr<const Graph> quantized, TokenWindows windows, int threads,
                                            const EvaluationResume& resume, const ProgressFn& progress);

}  // namespace quant

#endif  // QUANT_WORKER_EVALUATE_LANGUAGE_H_

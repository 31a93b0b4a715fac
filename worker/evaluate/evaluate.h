// SPDX-License-Identifier: Apache-2.0
// Measures a quantized graph against its original: accuracy, fidelity, per-layer error, latency, throughput, memory.
// Everything streams over the dataset, one batch in memory at a time.
#ifndef QUANT_WORKER_EVALUATE_EVALUATE_H_
#define QUANT_WORKER_EVALUATE_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/calibrate.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/graph/graph.h"

namespace quant {

// A number before and after; low and high bound the 95 % interval of delta = quantized - original, from paired samples.
struct MetricResult {
  std::string name;
  double original = 0;
  double quantized = 0;
  double delta = 0;
  double low = 0;
  double high = 0;
  int64_t samples = 0;
};

// How far an evaluation has come: samples or windows done from the start, and their sums in an order that only the
// evaluation knows. Counts are exact: they stay below 2^53.
struct EvaluationState {
  int64_t done = 0;
  std::vector<double> sums;
};

struct EvaluationResume {
  // What `checkpoint` was given in a run before, of the same models, data and options: what is done in it is not run
  // again, and the result is the same, bit by bit. What does not fit is not used. Null: from the start.
  const EvaluationState* from = nullptr;
  // Called after each batch or window; may be empty.
  std::function<void(const EvaluationState& so_far)> checkpoint;
};

struct EvaluateOptions {
  int64_t skip = 0;     // samples left out at the start
  int64_t samples = 0;  // 0: all that remain
  int64_t batch_size = 32;
  int threads = 0;
  EvaluationResume resume;
};

// With labels and a first output that has one score per class (all axes but batch and class of size 1): top1, top5 (in
// percent; top5 only with more than 5 classes; ties count for the lower index). Always: sqnr_db (all outputs together:
// 10 log10 of the original's energy over the difference's), cosine (mean over samples, first output) and, for such a
// first output of a model with labels or with no other output, same_top (percent of samples with the same arg max).
// With several outputs also "sqnr_db/<output>". A metric that compares the two models has the ideal value as `original`
// (same_top 100, cosine 1; sqnr_db 200, the cap used for "no difference"). INVALID_ARGUMENT: no samples left after
// skip; a label outside the classes; NaN or infinity in the *original's* outputs. NaN in the quantized outputs is
// counted as wrong and noted in `notes`.
struct Evaluation {
  std::vector<MetricResult> metrics;
  std::vector<std::string> notes;
};
absl::StatusOr<Evaluation> Evaluate(const std::shared_ptr<const Graph>& original,
                                    std::shared_ptr<const Graph> quantized, Dataset& data,
                                    const EvaluateOptions& options, const ProgressFn& progress);

// Error of one value of the quantized graph against the same-named value of the original, over all elements seen.
struct LayerError {
  std::string value;
  double mse = 0;
  double mae = 0;
  double relative_error = 0;  // sqrt(mse / mean square of the original); 0 for an all-zero original without error
  double sqnr_db = 0;         // -20 log10(relative_error), capped to [-200, 200]
};
// `values` that either graph lacks are left out of the result. Uses at most `samples` samples (default 16).
absl::StatusOr<std::vector<LayerError>> ErrorProfile(std::shared_ptr<const Graph> original,
                                                     std::shared_ptr<const Graph> quantized,
                                                     std::span<const std::string> values, Dataset& data,
                                                     int64_t samples, int threads, const ProgressFn& progress);

struct LatencyResult {
  double mean_ms = 0;
  double std_ms = 0;  // n - 1
  double p50_ms = 0;  // percentiles by nearest rank
  double p95_ms = 0;
  double p99_ms = 0;
};
struct LatencyPairResult {
  LatencyResult original;
  LatencyResult quantized;
  int runs = 0;
  int64_t batch = 1;
};
// Times batch 1 (or the model's fixed batch) of both graphs, one run of each in turn, after a warm-up of at least 10
// runs of each that ends when the median of a window of 10 changes by less than 2 %, or after 100. Inputs: the
// dataset's first samples, or, without one, seeded normal random numbers (integers: zeros) of the inputs' shapes with
// unknown dimensions set to 1 (spatial dimensions of 4-D inputs to 224).
absl::StatusOr<LatencyPairResult> MeasureLatency(std::shared_ptr<const Graph> original,
                                                 std::shared_ptr<const Graph> quantized, Dataset* data, int runs,
                                                 int threads, const ProgressFn& progress);

struct ThroughputResult {
  double original = 0;  // samples per second
  double quantized = 0;
  int64_t batch = 0;
};
// Runs each graph at `batch` (or its fixed one), interleaved, for about `seconds` each, at least 3 runs.
absl::StatusOr<ThroughputResult> MeasureThroughput(std::shared_ptr<const Graph> original,
                                                   std::shared_ptr<const Graph> quantized, Dataset* data, int64_t batch,
                                                   double seconds, int threads, const ProgressFn& progress);

// Random or dataset inputs for one run, as MeasureLatency uses them.
absl::StatusOr<std::vector<Tensor>> SampleInputs(const Graph& graph, Dataset* data, int64_t batch, uint64_t seed);

// Largest resident set of this process so far in bytes (VmHWM); 0 where /proc does not tell.
int64_t PeakMemoryBytes();

}  // namespace quant

#endif  // QUANT_WORKER_EVALUATE_EVALUATE_H_

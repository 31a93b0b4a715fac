// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/language.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/evaluate/fidelity.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

// log sum exp(row), in double.
double LogSumExp(std::span<const float> row) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(static_cast<double>(v) - max);
  return max + std::log(sum);
}

bool AllFinite(std::span<const float> row) {
  return std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); });
}

// A mean over targets and its standard error, the windows being clusters.
struct Ratio {
  double mean = 0;
  double error = 0;
};
template <typename Numerator>
Ratio MeanOf(std::span<const WindowSums> windows, const Numerator& numerator) {
  double sum = 0, count = 0;
  for (const WindowSums& w : windows) {
    sum += numerator(w);
    count += static_cast<double>(w.targets);
  }
  Ratio r{.mean = sum / count};
  const double n = static_cast<double>(windows.size());
  double squares = 0;
  for (const WindowSums& w : windows) {
    const double d = numerator(w) - r.mean * static_cast<double>(w.targets);
    squares += d * d;
  }
  if (n > 1) r.error = std::sqrt(n / (n - 1) * squares) / count;
  return r;
}

absl::StatusOr<Tensor> IdsOf(std::span<const int32_t> tokens) {
  absl::StatusOr<Tensor> ids = Tensor::Allocate(DType::kInt64, {1, static_cast<int64_t>(tokens.size())});
  if (ids.ok()) std::copy(tokens.begin(), tokens.end(), ids->mutable_data<int64_t>().begin());
  return ids;
}

// An evaluation's state: the number of broken rows, then the numbers of each window.
constexpr size_t kNumbers = 5;

void Append(const WindowSums& w, std::vector<double>* sums) {
  sums->insert(sums->end(), {w.nll_original, w.nll_quantized, w.divergence, static_cast<double>(w.same_top),
                             static_cast<double>(w.targets)});
}

std::vector<WindowSums> WindowsOf(std::span<const double> sums) {
  std::vector<WindowSums> windows;
  for (std::span<const double> rest = sums.subspan(1); !rest.empty(); rest = rest.subspan(kNumbers)) {
    windows.push_back({.nll_original = rest[0],
                       .nll_quantized = rest[1],
                       .divergence = rest[2],
                       .same_top = static_cast<int64_t>(rest[3]),
                       .targets = static_cast<int64_t>(rest[4])});
  }
  return windows;
}

// The state to begin with.
EvaluationState Begin(const EvaluationState* from, size_t windows) {
  const bool fits = from != nullptr && from->done >= 0 && static_cast<size_t>(from->done) <= windows &&
                    from->sums.size() == 1 + kNumbers * static_cast<size_t>(from->done);
  return fits ? *from : EvaluationState{.done = 0, .sums = {0.0}};
}

}  // namespace

WindowSums SumWindow(std::span<const float> original, std::span<const float> quantized, int64_t vocabulary,
                     std::span<const int32_t> tokens, int64_t* broken) {
  WindowSums sums;
  const size_t width = static_cast<size_t>(vocabulary);
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const std::span<const float> p = original.subspan(i * width, width);
    const std::span<const float> q = quantized.subspan(i * width, width);
    const size_t target = static_cast<size_t>(tokens[i + 1]);
    const double log_p = LogSumExp(p);
    sums.nll_original += log_p - p[target];
    ++sums.targets;
    const bool usable = AllFinite(q);
    const double log_q = usable ? LogSumExp(q) : std::log(static_cast<double>(vocabulary));
    sums.nll_quantized += usable ? log_q - q[target] : log_q;
    double divergence = 0;
    for (size_t v = 0; v < width; ++v) {
      const double lp = p[v] - log_p;
      divergence += std::exp(lp) * (lp - (usable ? q[v] - log_q : -log_q));
    }
    sums.divergence += std::max(0.0, divergence);  // not negative but for rounding
    sums.same_top += usable && ArgMax(p) == ArgMax(q);
    *broken += !usable;
  }
  return sums;
}

std::vector<MetricResult> LanguageMetrics(std::span<const WindowSums> windows) {
  int64_t targets = 0;
  for (const WindowSums& w : windows) targets += w.targets;
  const Ratio original = MeanOf(windows, [](const WindowSums& w) { return w.nll_original; });
  const Ratio difference = MeanOf(windows, [](const WindowSums& w) { return w.nll_quantized - w.nll_original; });
  const Ratio divergence = MeanOf(windows, [](const WindowSums& w) { return w.divergence; });
  const Ratio same = MeanOf(windows, [](const WindowSums& w) { return static_cast<double>(w.same_top); });
  const double base = std::exp(original.mean);
  const auto perplexity = [&](double d) { return base * std::exp(d); };
  std::vector<MetricResult> metrics;
  metrics.push_back({.name = "perplexity",
                     .original = base,
                     .quantized = perplexity(difference.mean),
                     .delta = perplexity(difference.mean) - base,
                     .low = perplexity(difference.mean - 1.96 * difference.error) - base,
                     .high = perplexity(difference.mean + 1.96 * difference.error) - base,
                     .samples = targets});
  metrics.push_back({.name = "kl_divergence",
                     .original = 0,
                     .quantized = divergence.mean,
                     .delta = divergence.mean,
                     .low = std::max(0.0, divergence.mean - 1.96 * divergence.error),
                     .high = divergence.mean + 1.96 * divergence.error,
                     .samples = targets});
  const double percent = 100 * same.mean, half = 196 * same.error;
  metrics.push_back({.name = "same_top",
                     .original = 100,
                     .quantized = percent,
                     .delta = percent - 100,
                     .low = std::max(-100.0, percent - 100 - half),
                     .high = std::min(0.0, percent - 100 + half),
                     .samples = targets});
  return metrics;
}

absl::StatusOr<Evaluation> EvaluateLanguage(std::shared_ptr<const Graph> original,
                                            std::shared_ptr<const Graph> quantized, TokenWindows windows, int threads,
                                            const EvaluationResume& resume, const ProgressFn& progress) {
  if (windows.empty()) return absl::InvalidArgumentError("there is no window of tokens to evaluate");
  // Windows of one length are neighbours: their plan is kept.
  const CompileOptions compile{.threads = threads, .max_plans = 2};
  absl::StatusOr<std::unique_ptr<Executable>> a = Compile(std::move(original), compile);
  if (!a.ok()) return a.status();
  absl::StatusOr<std::unique_ptr<Executable>> b = Compile(std::move(quantized), compile);
  if (!b.ok()) return b.status();
  Evaluation e;
  EvaluationState state = Begin(resume.from, windows.size());
  if (state.done > 0) {
    e.notes.push_back(absl::StrCat("the evaluation went on after window ", state.done, ", from an earlier attempt"));
  }
  for (size_t i = static_cast<size_t>(state.done); i < windows.size(); ++i) {
    const std::vector<int32_t>& tokens = windows[i];
    if (tokens.size() < 2) return absl::InvalidArgumentError(absl::StrCat("window ", i, " has no token to predict"));
    const Counted counted{static_cast<int64_t>(i), static_cast<int64_t>(windows.size()), "windows"};
    if (absl::Status s = Tell(progress, "perplexity and divergence", counted); !s.ok()) return s;
    absl::StatusOr<Tensor> ids = IdsOf(tokens);
    if (!ids.ok()) return ids.status();
    absl::StatusOr<std::span<const Tensor>> x = (*a)->Run(std::span<const Tensor>(&*ids, 1));
    if (!x.ok()) return x.status();
    absl::StatusOr<std::span<const Tensor>> y = (*b)->Run(std::span<const Tensor>(&*ids, 1));
    if (!y.ok()) return y.status();
    const Tensor& p = (*x)[0];
    const Tensor& q = (*y)[0];
    if (p.rank() != 3 || p.shape() != q.shape() || p.dtype() != DType::kFloat32 || q.dtype() != DType::kFloat32) {
      return absl::InternalError(absl::StrCat("logits are ", ShapeString(p.shape()), " and ", ShapeString(q.shape())));
    }
    for (const int32_t t : tokens) {
      if (t < 0 || t >= p.dim(2)) {
        return absl::InvalidArgumentError(
            absl::StrCat("token ", t, " of window ", i, " is outside the model's vocabulary of ", p.dim(2)));
      }
    }
    if (!AllFinite(p.data<float>())) {
      return absl::InvalidArgumentError(absl::StrCat("the original model's logits are NaN or infinite in window ", i,
                                                     ": there is nothing to compare with"));
    }
    int64_t broken = 0;
    Append(SumWindow(p.data<float>(), q.data<float>(), p.dim(2), tokens, &broken), &state.sums);
    state.sums[0] += static_cast<double>(broken);
    ++state.done;
    if (resume.checkpoint) resume.checkpoint(state);
  }
  e.metrics = LanguageMetrics(WindowsOf(state.sums));
  if (const int64_t broken = static_cast<int64_t>(state.sums[0]); broken > 0) {
    e.notes.push_back(absl::StrCat("the quantized model's logits were NaN or infinite at ", broken, " of ",
                                   e.metrics[0].samples, " positions; they count as uniform guesses"));
  }
  return e;
}

}  // namespace quant

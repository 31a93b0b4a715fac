// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/evaluate/fidelity.h"

namespace quant {
namespace {

// Classes of an output of a classifier's shape, [batch, classes, 1, ...], or 0.
int64_t Classes(const Tensor& output) {
  if (!IsFloat(output.dtype()) || output.rank() < 2) return 0;
  for (int axis = 2; axis < output.rank(); ++axis) {
    if (output.dim(axis) != 1) return 0;
  }
  return output.dim(1) > 1 ? output.dim(1) : 0;
}

// A count of right answers per model, and the sums of the paired difference.
struct Paired {
  int64_t original = 0;
  int64_t quantized = 0;
  int64_t discordant = 0;
  int64_t n = 0;

  void Add(bool a, bool b) {
    original += a;
    quantized += b;
    discordant += a != b;
    ++n;
  }
  MetricResult Percent(std::string name) const {
    const double count = static_cast<double>(n);
    const Interval i = PairedInterval(static_cast<double>(quantized - original), static_cast<double>(discordant), n);
    MetricResult m{.name = std::move(name), .samples = n};
    m.original = 100 * static_cast<double>(original) / count;
    m.quantized = 100 * static_cast<double>(quantized) / count;
    m.delta = m.quantized - m.original;
    m.low = 100 * i.low;
    m.high = 100 * i.high;
    return m;
  }
};

struct Totals {
  Paired top1, top5, same_top;
  bool classifier = false;  // labels are given or there is one output: a detector's maps are not scores of classes
  std::vector<ErrorSums> outputs;
  double cosine = 0, cosine_squares = 0;
  int64_t cosines = 0;
  int64_t broken_samples = 0;

  std::vector<double> Numbers() const;
  // False, and nothing changed, when `numbers` are not those of as many outputs.
  bool Restore(std::span<const double> numbers);

  absl::Status AddFirstOutput(const Tensor& shape_of, std::span<const float> x, std::span<const float> y,
                              std::span<const int64_t> labels, int64_t first_sample);
};

// Calls `visit` with each number of `totals`, always in the same order.
template <typename T, typename Visit>
void VisitNumbers(T& totals, const Visit& visit) {
  for (auto* p : {&totals.top1, &totals.top5, &totals.same_top}) {
    visit(p->original);
    visit(p->quantized);
    visit(p->discordant);
    visit(p->n);
  }
  for (auto& s : totals.outputs) {
    visit(s.signal);
    visit(s.squared);
    visit(s.absolute);
    visit(s.dot);
    visit(s.energy);
    visit(s.count);
    visit(s.broken);
  }
  visit(totals.cosine);
  visit(totals.cosine_squares);
  visit(totals.cosines);
  visit(totals.broken_samples);
}

std::vector<double> Totals::Numbers() const {
  std::vector<double> numbers;
  VisitNumbers(*this, [&](const auto& n) { numbers.push_back(static_cast<double>(n)); });
  return numbers;
}

bool Totals::Restore(std::span<const double> numbers) {
  if (numbers.size() != Numbers().size()) return false;
  VisitNumbers(*this, [&](auto& n) {
    n = static_cast<std::remove_reference_t<decltype(n)>>(numbers.front());
    numbers = numbers.subspan(1);
  });
  return true;
}

absl::Status Totals::AddFirstOutput(const Tensor& shape_of, std::span<const float> x, std::span<const float> y,
                                    std::span<const int64_t> labels, int64_t first_sample) {
  const int64_t batch = shape_of.rank() > 0 ? shape_of.dim(0) : 1;
  if (batch == 0) return absl::OkStatus();
  const size_t per = x.size() / static_cast<size_t>(batch);
  const int64_t classes = Classes(shape_of);
  for (int64_t i = 0; i < batch; ++i) {
    const std::span<const float> a = x.subspan(static_cast<size_t>(i) * per, per);
    const std::span<const float> b = y.subspan(static_cast<size_t>(i) * per, per);
    ErrorSums sums;
    sums.Add(a, b);
    broken_samples += sums.broken > 0;
    const double c = sums.Cosine();
    cosine += c;
    cosine_squares += (c - 1) * (c - 1);
    ++cosines;
    if (classes == 0 || !classifier) continue;
    const int64_t top = ArgMax(a);
    same_top.Add(true, ArgMax(b) == top);
    if (labels.empty()) continue;
    const int64_t label = labels[static_cast<size_t>(i)];
    if (label < 0 || label >= classes) {
      return absl::InvalidArgumentError(absl::StrCat("label ", label, " of sample ", first_sample + i,
                                                     " is outside the model's classes 0 to ", classes - 1));
    }
    const int64_t rank_a = RankOf(a, label);
    const int64_t rank_b = RankOf(b, label);
    top1.Add(rank_a < 1, rank_b < 1);
    if (classes > 5) top5.Add(rank_a < 5, rank_b < 5);
  }
  return absl::OkStatus();
}

// The number of whole batches' samples from `skip` on.
absl::StatusOr<int64_t> SamplesToUse(const Dataset& data, int64_t skip, int64_t wanted, int64_t batch, bool fixed) {
  const int64_t rest = std::max<int64_t>(0, data.size() - skip);
  int64_t n = wanted > 0 ? std::min(wanted, rest) : rest;
  if (fixed) n = n / batch * batch;
  if (n > 0) return n;
  return absl::InvalidArgumentError(absl::StrCat("no samples to evaluate: the dataset has ", data.size(), ", ", skip,
                                                 " are skipped, and the model's batch is ", fixed ? batch : 1));
}

bool FixedBatch(const Graph& graph) { return RunnableBatch(graph, 1) == RunnableBatch(graph, 2); }

MetricResult Sqnr(std::string name, const ErrorSums& sums, int64_t samples) {
  const double db = sums.SqnrDb();
  return {.name = std::move(name),
          .original = 200,
          .quantized = db,
          .delta = db - 200,
          .low = db - 200,
          .high = db - 200,
          .samples = samples};
}

}  // namespace

absl::StatusOr<Evaluation> Evaluate(const std::shared_ptr<const Graph>& original,
                                    std::shared_ptr<const Graph> quantized, Dataset& data,
                                    const EvaluateOptions& options, const ProgressFn& progress) {
  const int64_t batch = RunnableBatch(*original, options.batch_size);
  absl::StatusOr<int64_t> samples = SamplesToUse(data, options.skip, options.samples, batch, FixedBatch(*original));
  if (!samples.ok()) return samples.status();
  const CompileOptions compile{.threads = options.threads};
  absl::StatusOr<std::unique_ptr<Executable>> a = Compile(original, compile);
  if (!a.ok()) return a.status();
  absl::StatusOr<std::unique_ptr<Executable>> b = Compile(std::move(quantized), compile);
  if (!b.ok()) return b.status();

  Totals totals;
  totals.outputs.resize(original->outputs.size());
  totals.classifier = !data.labels().empty() || original->outputs.size() == 1;
  Evaluation e;
  int64_t done = 0;
  if (const EvaluationState* from = options.resume.from; from != nullptr && from->done > 0 && from->done <= *samples &&
                                                         (from->done % batch == 0 || from->done == *samples) &&
                                                         totals.Restore(from->sums)) {
    done = from->done;
    e.notes.push_back(absl::StrCat("the evaluation went on after sample ", done, ", from an earlier attempt"));
  }
  for (; done < *samples; done += batch) {
    const int64_t begin = options.skip + done;
    const int64_t count = std::min(batch, *samples - done);
    if (absl::Status s = Tell(progress, "outputs of both models", {done, *samples, "samples"}); !s.ok()) return s;
    absl::StatusOr<std::vector<Tensor>> inputs = data.Read(begin, count);
    if (!inputs.ok()) return inputs.status();
    absl::StatusOr<std::span<const Tensor>> x = (*a)->Run(*inputs);
    if (!x.ok()) return x.status();
    absl::StatusOr<std::span<const Tensor>> y = (*b)->Run(*inputs);
    if (!y.ok()) return y.status();
    for (size_t o = 0; o < x->size(); ++o) {
      if (!IsFloat((*x)[o].dtype())) continue;
      absl::StatusOr<std::vector<float>> u = ToFloat((*x)[o]);
      if (!u.ok()) return u.status();
      absl::StatusOr<std::vector<float>> v = ToFloat((*y)[o]);
      if (!v.ok()) return v.status();
      if (u->size() != v->size()) return absl::InternalError("the quantized model's output has another shape");
      for (const float value : *u) {
        if (std::isfinite(value)) continue;
        return absl::InvalidArgumentError(absl::StrCat("the original model's output '", original->outputs[o].name,
                                                       "' is ", value, " on samples ", begin, " to ", begin + count - 1,
                                                       ": there is nothing to compare with"));
      }
      totals.outputs[o].Add(*u, *v);
      if (o > 0) continue;
      std::span<const int64_t> labels = data.labels();
      if (!labels.empty()) labels = labels.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
      if (absl::Status s = totals.AddFirstOutput((*x)[0], *u, *v, labels, begin); !s.ok()) return s;
    }
    if (options.resume.checkpoint) options.resume.checkpoint({.done = done + count, .sums = totals.Numbers()});
  }

  if (totals.top1.n > 0) e.metrics.push_back(totals.top1.Percent("top1"));
  if (totals.top5.n > 0) e.metrics.push_back(totals.top5.Percent("top5"));
  if (totals.same_top.n > 0) {
    MetricResult m = totals.same_top.Percent("same_top");
    m.low = std::max(m.low, -100.0);  // the original agrees with itself: the difference is at most 0
    m.high = std::min(m.high, 0.0);
    e.metrics.push_back(std::move(m));
  }
  ErrorSums all;
  for (const ErrorSums& s : totals.outputs) all.Add(s);
  e.metrics.push_back(Sqnr("sqnr_db", all, *samples));
  if (totals.cosines > 0) {
    const double n = static_cast<double>(totals.cosines);
    const double mean = totals.cosine / n;
    const Interval i = PairedInterval(totals.cosine - n, totals.cosine_squares, totals.cosines);
    e.metrics.push_back({.name = "cosine",
                         .original = 1,
                         .quantized = mean,
                         .delta = mean - 1,
                         .low = i.low,
                         .high = std::min(0.0, i.high),
                         .samples = totals.cosines});
  }
  if (totals.outputs.size() > 1) {
    for (size_t o = 0; o < totals.outputs.size(); ++o) {
      if (totals.outputs[o].count == 0) continue;
      e.metrics.push_back(Sqnr(absl::StrCat("sqnr_db/", original->outputs[o].name), totals.outputs[o], *samples));
    }
  }
  if (totals.broken_samples > 0) {
    e.notes.push_back(absl::StrCat("the quantized model's first output was NaN or infinite on ", totals.broken_samples,
                                   " of ", *samples, " samples; they count as wrong"));
  }
  return e;
}

absl::StatusOr<std::vector<LayerError>> ErrorProfile(std::shared_ptr<const Graph> original,
                                                     std::shared_ptr<const Graph> quantized,
                                                     std::span<const std::string> values, Dataset& data,
                                                     int64_t samples, int threads, const ProgressFn& progress) {
  // Batch by batch: the original's values are kept, then compared while the quantized model runs.
  const int64_t batch = RunnableBatch(*original, 4);
  absl::StatusOr<int64_t> total =
      SamplesToUse(data, 0, samples > 0 ? std::max(samples, batch) : 16, batch, FixedBatch(*original));
  if (!total.ok()) return total.status();
  const auto defines = [](const Graph& g) {
    std::map<std::string, bool> names;
    for (const Node& n : g.nodes) {
      for (const std::string& o : n.outputs) names[o] = true;
    }
    return names;
  };
  const std::map<std::string, bool> in_a = defines(*original), in_b = defines(*quantized);
  std::vector<std::string> common;
  for (const std::string& v : values) {
    if (in_a.contains(v) && in_b.contains(v) && std::find(common.begin(), common.end(), v) == common.end()) {
      common.push_back(v);
    }
  }
  if (common.empty()) return std::vector<LayerError>();

  std::map<std::string, std::vector<float>, std::less<>> kept;
  std::map<std::string, ErrorSums, std::less<>> sums;
  CompileOptions keep{.threads = threads, .taps = common};
  keep.tap = [&](std::string_view name, const Tensor& t) -> absl::Status {
    absl::StatusOr<std::vector<float>> v = ToFloat(t);
    if (!v.ok()) return v.status();
    kept[std::string(name)] = *std::move(v);
    return absl::OkStatus();
  };
  CompileOptions compare{.threads = threads, .taps = common};
  compare.tap = [&](std::string_view name, const Tensor& t) -> absl::Status {
    absl::StatusOr<std::vector<float>> v = ToFloat(t);
    if (!v.ok()) return v.status();
    sums[std::string(name)].Add(kept[std::string(name)], *v);
    return absl::OkStatus();
  };
  absl::StatusOr<std::unique_ptr<Executable>> a = Compile(std::move(original), keep);
  if (!a.ok()) return a.status();
  absl::StatusOr<std::unique_ptr<Executable>> b = Compile(std::move(quantized), compare);
  if (!b.ok()) return b.status();
  for (int64_t begin = 0; begin < *total; begin += batch) {
    const int64_t count = std::min(batch, *total - begin);
    if (absl::Status s = Tell(progress, "per-layer error", {begin, *total, "samples"}); !s.ok()) return s;
    absl::StatusOr<std::vector<Tensor>> inputs = data.Read(begin, count);
    if (!inputs.ok()) return inputs.status();
    if (absl::StatusOr<std::span<const Tensor>> r = (*a)->Run(*inputs); !r.ok()) return r.status();
    if (absl::StatusOr<std::span<const Tensor>> r = (*b)->Run(*inputs); !r.ok()) return r.status();
  }
  std::vector<LayerError> out;
  for (const std::string& v : common) {
    const ErrorSums& s = sums[v];
    out.push_back(
        {.value = v, .mse = s.Mse(), .mae = s.Mae(), .relative_error = s.RelativeError(), .sqnr_db = s.SqnrDb()});
  }
  return out;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/calibrate/calibrate.h"
#include "worker/runtime/executable.h"

namespace quant {

absl::StatusOr<double> LargestRelativeDifference(std::shared_ptr<const Graph> a, std::shared_ptr<const Graph> b,
                                                 Dataset& data, int threads) {
  const int64_t batch = std::min(RunnableBatch(*a, 4), data.size());
  absl::StatusOr<std::vector<Tensor>> inputs = data.Read(0, batch);
  if (!inputs.ok()) return inputs.status();
  absl::StatusOr<std::unique_ptr<Executable>> run_a = Compile(std::move(a), {.threads = threads});
  if (!run_a.ok()) return run_a.status();
  absl::StatusOr<std::unique_ptr<Executable>> run_b = Compile(std::move(b), {.threads = threads});
  if (!run_b.ok()) return run_b.status();
  absl::StatusOr<std::span<const Tensor>> x = (*run_a)->Run(*inputs);
  if (!x.ok()) return x.status();
  absl::StatusOr<std::span<const Tensor>> y = (*run_b)->Run(*inputs);
  if (!y.ok()) return y.status();
  if (x->size() != y->size()) return absl::InvalidArgumentError("the graphs have different numbers of outputs");
  double worst = 0;
  for (size_t o = 0; o < x->size(); ++o) {
    if ((*x)[o].shape() != (*y)[o].shape()) {
      return absl::InvalidArgumentError(absl::StrCat("output ", o, " has shape ", ShapeString((*x)[o].shape()), " and ",
                                                     ShapeString((*y)[o].shape())));
    }
    absl::StatusOr<std::vector<float>> u = ToFloat((*x)[o]);
    if (!u.ok()) return u.status();
    absl::StatusOr<std::vector<float>> v = ToFloat((*y)[o]);
    if (!v.ok()) return v.status();
    double largest = 0, difference = 0;
    for (size_t i = 0; i < u->size(); ++i) {
      const double p = (*u)[i], q = (*v)[i];
      if (std::isnan(p) != std::isnan(q) || std::isinf(p) != std::isinf(q)) {
        return std::numeric_limits<double>::infinity();
      }
      if (!std::isfinite(p)) continue;
      largest = std::max(largest, std::fabs(p));
      difference = std::max(difference, std::fabs(p - q));
    }
    if (difference > 0) worst = std::max(worst, largest > 0 ? difference / largest : difference);
  }
  return worst;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/gptq.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/descent.h"
#include "worker/quantize/weight_only/factor.h"
#include "worker/quantize/weight_only/panel.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/sweep.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

absl::Status Check(const MatrixView& weights, const HessianMatrix& hessian, const GptqOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options.grid));
  RETURN_IF_ERROR(CheckWeights(weights));
  if (hessian.cols != weights.cols || static_cast<int64_t>(hessian.h.size()) != hessian.cols * hessian.cols) {
    return absl::InvalidArgumentError(absl::StrCat("a Hessian of ", hessian.cols, " columns (", hessian.h.size(),
                                                   " values) for weights of ", weights.cols));
  }
  if (!(options.damping > 0) || !(options.damping <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("damping ", options.damping, "; above 0 and at most 1 is possible"));
  }
  if (options.block_size < 1 || options.block_size > 4096) {
    return absl::InvalidArgumentError(absl::StrCat("block size ", options.block_size, "; 1 to 4096 is possible"));
  }
  if (options.descent_passes < 0 || options.descent_passes > 100) {
    return absl::InvalidArgumentError(absl::StrCat(options.descent_passes, " descent passes; 0 to 100 are possible"));
  }
  return absl::OkStatus();
}

// Columns in the order they are visited, and the group of each.
struct Order {
  std::vector<int32_t> column;
  std::vector<int32_t> group;
};

Order MakeOrder(const std::vector<float>& diagonal, int64_t group_size, ActOrder act_order) {
  Order order;
  order.column.resize(diagonal.size());
  std::iota(order.column.begin(), order.column.end(), 0);
  const auto falls = [&](int32_t a, int32_t b) {
    return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
  };
  const auto size = static_cast<int32_t>(group_size);
  if (act_order == ActOrder::kDynamicGroups || act_order == ActOrder::kStaticGroups) {
    std::stable_sort(order.column.begin(), order.column.end(), falls);
  } else if (act_order == ActOrder::kGroupAware) {
    const auto groups = (static_cast<int64_t>(diagonal.size()) + group_size - 1) / group_size;
    std::vector<float> greatest(static_cast<size_t>(groups));
    for (size_t c = 0; c < diagonal.size(); ++c) {
      float& g = greatest[c / static_cast<size_t>(group_size)];
      g = std::max(g, diagonal[c]);
    }
    std::stable_sort(order.column.begin(), order.column.end(), [&](int32_t a, int32_t b) {
      if (a / size == b / size) return falls(a, b);
      const float ga = greatest[static_cast<size_t>(a / size)];
      const float gb = greatest[static_cast<size_t>(b / size)];
      return ga != gb ? ga > gb : a / size < b / size;
    });
  }
  order.group.resize(diagonal.size());
  for (size_t p = 0; p < diagonal.size(); ++p) {
    order.group[p] = (act_order == ActOrder::kDynamicGroups ? static_cast<int32_t>(p) : order.column[p]) / size;
  }
  return order;
}

bool SourceIsUpdated(const GptqOptions& options) {
  return options.act_order == ActOrder::kDynamicGroups ||
         (options.act_order != ActOrder::kStaticGroups && options.grid_source == GridSource::kUpdated);
}

// The grids of all groups from the original weights, dead columns as 0; codes are left 0.
void FindGrids(const SweepPlan& plan, GroupedMatrix& out) {
  const int64_t groups = out.groups();
#pragma omp parallel
  {
    std::vector<float> group(static_cast<size_t>(out.group_size));
#pragma omp for schedule(static)
    for (int64_t r = 0; r < out.rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * out.group_size;
        const auto count = static_cast<size_t>(std::min(out.group_size, out.cols - begin));
        for (size_t i = 0; i < count; ++i) group[i] = Live(plan, r, begin + static_cast<int64_t>(i));
        const Grid grid = FindGrid(std::span<const float>(group).first(count),
                                   plan.importance.subspan(static_cast<size_t>(begin), count), plan.grid);
        out.scales[static_cast<size_t>(r * groups + g)] = grid.scale;
        if (!out.zeros.empty()) out.zeros[static_cast<size_t>(r * groups + g)] = grid.zero;
      }
    }
  }
}

GroupedMatrix Empty(const MatrixView& weights, const GridOptions& grid) {
  GroupedMatrix out;
  out.rows = weights.rows;
  out.cols = weights.cols;
  out.bits = grid.bits;
  out.group_size = GroupColumns(grid, weights.cols);
  out.codes.resize(weights.values.size());
  out.scales.resize(static_cast<size_t>(out.rows * out.groups()), 1.0f);
  if (grid.symmetry == Symmetry::kAsymmetric) out.zeros.resize(out.scales.size());
  return out;
}

// What panels are multiplied with: the Hessian and its factor, and both in bfloat16 where that is used.
template <typename T>
struct Products {
  const HessianMatrix* hessian = nullptr;
  const Factor<T>* factor = nullptr;  // null: there is none, and descent starts from the nearest codes
  const PackedSquare* packed_hessian = nullptr;
  const PackedSquare* packed_factor = nullptr;
};

// Buffers of one thread, made before the threads start: memory that cannot be had is the caller's to report.
template <typename T>
struct Worker {
  Worker(const SweepPlan& plan, const Products<T>& products, const GroupedMatrix& out)
      : panel(out), descent(plan, *products.hessian, products.packed_hessian, out) {
    if (products.factor != nullptr) sweep.emplace(plan, *products.factor, products.packed_factor);
  }
  Panel panel;
  std::optional<Sweep<T>> sweep;
  Descent descent;
};

template <typename T>
void QuantizePanels(const SweepPlan& plan, const Products<T>& products, GptqResult& result) {
  GroupedMatrix& out = result.weights;
  const auto panels = static_cast<int>((out.rows + kPanelRows - 1) / kPanelRows);
  const int threads = std::min(omp_get_max_threads(), panels);
  std::vector<std::unique_ptr<Worker<T>>> workers;
  workers.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker<T>>(plan, products, out));
  // The whole team even for one panel: in a team of one OpenBLAS would use several threads, and other bits.
  std::atomic<size_t> next{0};
#pragma omp parallel
  {
    Worker<T>* worker = nullptr;
#pragma omp for schedule(dynamic)
    for (int p = 0; p < panels; ++p) {
      if (worker == nullptr) worker = workers[next++].get();
      const int64_t first = p * kPanelRows;
      worker->panel.Load(out, first);
      if (worker->sweep) {
        worker->sweep->Run(worker->panel);
      } else {
        worker->descent.Nearest(worker->panel);
      }
      worker->descent.Run(worker->panel);
      worker->panel.Store(out);
      worker->descent.UndampedLoss(worker->panel, result.row_loss.data() + first);
    }
  }
}

absl::Status UseNearest(const MatrixView& weights, const HessianMatrix& hessian, const GptqOptions& options,
                        std::span<const float> importance, std::string why, GptqResult& result) {
  ASSIGN_OR_RETURN(result.weights, QuantizeRtn(weights, options.grid, importance, options.threads));
  ASSIGN_OR_RETURN(const QuadraticError error, QuadraticLoss(weights, result.weights, hessian, options.threads));
  result.row_loss = error.row_loss;
  result.outcome = GptqOutcome::kNearest;
  result.note = absl::StrCat(why, ": rounded to nearest instead");
  result.lambda = 0;
  return absl::OkStatus();
}

// Why this Hessian cannot be used at all, or "".
std::string Useless(const HessianMatrix& hessian, const std::vector<float>& diagonal, const GptqOptions& options) {
  if (hessian.tokens <= 0) return "no calibration tokens reached this layer";
  const double wanted = options.min_token_fraction * static_cast<double>(options.expected_tokens);
  if (static_cast<double>(hessian.tokens) < wanted) {
    return absl::StrCat("only ", hessian.tokens, " of ", options.expected_tokens,
                        " calibration tokens reached this layer");
  }
  if (!vec::AllFinite(hessian.h.data(), hessian.h.size())) return "the Hessian overflows float32";
  for (size_t c = 0; c < diagonal.size(); ++c) {
    if (diagonal[c] < 0) return absl::StrCat("the Hessian's diagonal is negative at input ", c);
  }
  return "";
}

absl::StatusOr<GptqResult> Quantize(const MatrixView& weights, SharedFactor& input, const GptqOptions& options) {
  const HessianMatrix& hessian = input.hessian();
  const ThreadScope scope(options.threads);
  GptqResult result;
  const std::vector<float> diagonal = hessian.Diagonal();
  if (const std::string why = Useless(hessian, diagonal, options); !why.empty()) {
    const bool finite = vec::AllFinite(hessian.h.data(), hessian.h.size());
    RETURN_IF_ERROR(UseNearest(weights, hessian, options,
                               finite ? std::span<const float>(diagonal) : std::span<const float>(), why, result));
    result.loss = std::accumulate(result.row_loss.begin(), result.row_loss.end(), 0.0);
    return result;
  }
  SweepPlan plan;
  plan.weights = weights;
  plan.grid = options.grid;
  plan.importance = diagonal;
  plan.block = options.block_size;
  plan.grids_from_updated = SourceIsUpdated(options);
  plan.descent_passes = options.descent_passes;
  plan.refit_scales = options.refit_scales;
  plan.dead.resize(diagonal.size());
  for (size_t c = 0; c < diagonal.size(); ++c) plan.dead[c] = diagonal[c] == 0;
  result.weights = Empty(weights, options.grid);
  result.row_loss.resize(static_cast<size_t>(weights.rows));
  const Order order = MakeOrder(diagonal, result.weights.group_size, options.act_order);
  plan.column.assign(order.column.rbegin(), order.column.rend());
  plan.group.assign(order.group.rbegin(), order.group.rend());
  if (options.act_order == ActOrder::kDynamicGroups) {
    result.weights.group_of.resize(diagonal.size());
    for (size_t p = 0; p < diagonal.size(); ++p) {
      result.weights.group_of[static_cast<size_t>(order.column[p])] = order.group[p];
    }
  }
  if (!plan.grids_from_updated) FindGrids(plan, result.weights);

  bool swept = false;
  const auto sweep = [&]<typename T>(const std::optional<Factor<T>>& factor, Products<T> products) {
    swept = factor.has_value();
    if (!swept) return;
    plan.lambda = factor->lambda;
    result.note = factor->note;
    products.factor = &*factor;
    QuantizePanels(plan, products, result);
  };
  if (options.arithmetic == GptqArithmetic::kFloat64) {
    sweep(FactorHessian<double>(hessian, plan.column, options.damping), {.hessian = &hessian});
  } else {
    const std::optional<Factor<float>>& factor = input.Get(plan.column, options.damping);
    sweep(factor, {.hessian = &hessian,
                   .packed_hessian = plan.descent_passes > 0 ? input.PackedHessian() : nullptr,
                   .packed_factor = input.PackedFactor()});
  }
  if (!swept) {
    plan.lambda =
        options.damping * std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(weights.cols);
    plan.descent_passes = std::max(plan.descent_passes, 3);
    result.weights.group_of.clear();
    FindGrids(plan, result.weights);
    QuantizePanels<float>(plan, {.hessian = &hessian}, result);
    result.outcome = GptqOutcome::kDescentOnly;
    result.note = "the Hessian is not positive definite with any damping: coordinate descent without a factor instead";
  }
  result.lambda = plan.lambda;
  result.loss = std::accumulate(result.row_loss.begin(), result.row_loss.end(), 0.0);
  if (!std::isfinite(result.loss)) {
    RETURN_IF_ERROR(UseNearest(weights, hessian, options, diagonal, "the sweep overflowed float32", result));
    result.loss = std::accumulate(result.row_loss.begin(), result.row_loss.end(), 0.0);
  }
  return result;
}

}  // namespace

GptqOptions GptqOptions::Plain(int bits, int64_t group_size, Symmetry symmetry) {
  return {.grid = {.bits = bits,
                   .group_size = group_size,
                   .symmetry = symmetry,
                   .search = ScaleSearch::kMinMax,
                   .scale_type = ScaleType::kFloat32},
          .act_order = ActOrder::kOff,
          .grid_source = GridSource::kUpdated,
          .descent_passes = 0,
          .refit_scales = false};
}

absl::StatusOr<GptqResult> QuantizeGptq(const MatrixView& weights, const HessianMatrix& hessian,
                                        const GptqOptions& options) {
  SharedFactor input(hessian);
  return QuantizeGptq(weights, input, options);
}

absl::StatusOr<GptqResult> QuantizeGptq(const MatrixView& weights, SharedFactor& input, const GptqOptions& options) {
  RETURN_IF_ERROR(Check(weights, input.hessian(), options));
  try {
    return Quantize(weights, input, options);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for GPTQ on ", weights.rows, " x ", weights.cols, " weights"));
  }
}

}  // namespace quant::weight_only

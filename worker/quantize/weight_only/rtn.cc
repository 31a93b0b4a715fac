// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/rtn.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {

absl::StatusOr<GroupedMatrix> QuantizeRtn(const MatrixView& weights, const GridOptions& options,
                                          std::span<const float> importance, int threads) {
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(CheckWeights(weights));
  if (!importance.empty() && static_cast<int64_t>(importance.size()) != weights.cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("importance of ", importance.size(), " columns for weights of ", weights.cols));
  }
  GroupedMatrix out;
  out.rows = weights.rows;
  out.cols = weights.cols;
  out.bits = options.bits;
  out.group_size = GroupColumns(options, weights.cols);
  const int64_t groups = out.groups();
  out.codes.resize(weights.values.size());
  out.scales.resize(static_cast<size_t>(out.rows * groups));
  if (options.symmetry == Symmetry::kAsymmetric) out.zeros.resize(out.scales.size());
  const auto qmax = static_cast<float>((1 << options.bits) - 1);
  const ThreadScope scope(threads);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < out.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * out.group_size;
      const auto count = static_cast<size_t>(std::min(out.group_size, out.cols - begin));
      const std::span<const float> group(weights.row(r) + begin, count);
      const Grid grid = FindGrid(
          group, importance.empty() ? importance : importance.subspan(static_cast<size_t>(begin), count), options);
      out.scales[static_cast<size_t>(r * groups + g)] = grid.scale;
      if (!out.zeros.empty()) out.zeros[static_cast<size_t>(r * groups + g)] = grid.zero;
      vec::Encode(group.data(), count, grid.scale, grid.zero, qmax, out.codes.data() + r * out.cols + begin);
    }
  }
  return out;
}

}  // namespace quant::weight_only

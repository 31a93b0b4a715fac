// SPDX-License-Identifier: Apache-2.0
// Steps that only move elements. They do not use oneDNN's reorder: in 3.7 its jit:uni implementation gives wrong
// results for some shapes (upstream issue 3280), and the dense moves needed here are simple.
#include <algorithm>

#include "common/strings.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/kernels/transpose.h"
#include "worker/runtime/onednn/builder.h"
#include "worker/runtime/ops/util.h"

namespace quant::onednn {
namespace {

// dims in the order of the destination's memory, neighbours merged where the source allows; the destination is dense.
struct Moves {
  std::vector<int64_t> dims, src;  // strides in elements; at least two entries
};

Moves PlanMoves(std::span<const int64_t> dims, const dnnl::memory::dims& src_strides,
                const dnnl::memory::dims& dst_strides) {
  std::vector<size_t> order;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] != 1) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return dst_strides[a] > dst_strides[b]; });
  Moves m;
  for (const size_t i : order) {
    if (!m.dims.empty() && m.src.back() == src_strides[i] * dims[i]) {
      m.dims.back() *= dims[i];
      m.src.back() = src_strides[i];
    } else {
      m.dims.push_back(dims[i]);
      m.src.push_back(src_strides[i]);
    }
  }
  while (m.dims.size() < 2) {
    m.dims.insert(m.dims.begin(), 1);
    m.src.insert(m.src.begin(), 0);
  }
  return m;
}

}  // namespace

absl::Status EmitCopy(PlanBuilder& builder, std::string_view node_name, std::string_view what, DType dtype,
                      std::span<const int64_t> dims, const dnnl::memory::dims& src_strides, int src,
                      const dnnl::memory::dims& dst_strides, int dst) {
  ASSIGN_OR_RETURN(const size_t size, ops::ElementBytes(dtype, what));
  int64_t elements = 1;
  for (const int64_t d : dims) elements *= d;
  const Moves moves = PlanMoves(dims, src_strides, dst_strides);
  Step step;
  step.node = node_name;
  step.what = absl::StrCat(AbslView(what), " copy");
  step.threads = builder.ThreadsFor(static_cast<double>(elements) / 2e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const size_t rank = moves.dims.size();
    const int64_t rows = moves.dims[rank - 2], cols = moves.dims[rank - 1];
    const int64_t row_stride = moves.src[rank - 2], col_stride = moves.src[rank - 1];
    int64_t matrices = 1;
    for (size_t i = 0; i + 2 < rank; ++i) matrices *= moves.dims[i];
    // Pieces of rows, so that a single matrix is shared as well.
    kernels::ParallelRanges(threads, matrices * rows, matrices == 1 ? 32 : rows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end;) {
        const int64_t matrix = row / rows, first = row % rows;
        const int64_t count = std::min(end - row, rows - first);
        int64_t from = first * row_stride, rest = matrix;
        for (size_t i = rank - 2; i-- > 0;) {
          from += rest % moves.dims[i] * moves.src[i];
          rest /= moves.dims[i];
        }
        kernels::CopyMatrix(size, count, cols, p[static_cast<size_t>(src)] + static_cast<size_t>(from) * size,
                            row_stride, col_stride,
                            p[static_cast<size_t>(dst)] + static_cast<size_t>(row * cols) * size);
        row += count;
      }
    });
    return absl::OkStatus();
  };
  builder.AddStep(std::move(step), {src}, {dst});
  return absl::OkStatus();
}

}  // namespace quant::onednn

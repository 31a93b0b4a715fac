// SPDX-License-Identifier: Apache-2.0
// MatMul (numpy semantics: 1-D operands, broadcast batches), MatMulInteger, QLinearMatMul, Gemm.
#include <algorithm>
#include <array>

#include "worker/runtime/ops/requantize.h"
#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

// C[m,n] = sum over k of A[m,k] * B[k,n] for every batch; strides 0 broadcast a batch.
struct MatMulShape {
  int64_t m = 1, n = 1, k = 1;
  Shape batch;                                // broadcast batch dimensions
  std::vector<int64_t> a_strides, b_strides;  // of the batch dimensions, in matrices' elements
  Shape out;
};

absl::StatusOr<MatMulShape> GetMatMulShape(std::span<const int64_t> a, std::span<const int64_t> b) {
  if (a.empty() || b.empty())
    return Invalid("MatMul of shapes ", ShapeString(a), " and ", ShapeString(b), ": rank 1 or more is needed");
  MatMulShape s;
  s.k = a.back();
  if (a.size() > 1) s.m = a[a.size() - 2];
  if (b.size() > 1) s.n = b.back();
  const int64_t rows_b = b.size() > 1 ? b[b.size() - 2] : b[0];
  if (s.k != rows_b) {
    return Invalid("shapes ", ShapeString(a), " and ", ShapeString(b), " do not fit: ", s.k, " columns against ",
                   rows_b, " rows");
  }
  const auto batch_of = [](std::span<const int64_t> t) { return t.first(t.size() > 2 ? t.size() - 2 : 0); };
  ASSIGN_OR_RETURN(s.batch, Broadcast(batch_of(a), batch_of(b)));
  s.a_strides = BroadcastStrides(batch_of(a), s.batch);
  s.b_strides = BroadcastStrides(batch_of(b), s.batch);
  for (int64_t& v : s.a_strides) v *= s.m * s.k;
  for (int64_t& v : s.b_strides) v *= s.k * s.n;
  s.out = s.batch;
  if (a.size() > 1) s.out.push_back(s.m);
  if (b.size() > 1) s.out.push_back(s.n);
  return s;
}

// One matrix product with any strides; store(row, column, sum). Adds along k in order, for each output alone.
template <typename A, typename B, typename Acc, typename LoadA, typename LoadB, typename Store>
void Multiply(int64_t m, int64_t n, int64_t k, const A* a, int64_t a_row, int64_t a_col, const B* b, int64_t b_row,
              int64_t b_col, LoadA load_a, LoadB load_b, Store store) {
  constexpr int64_t kBlock = 256;
  std::array<Acc, kBlock> acc;
  for (int64_t i = 0; i < m; ++i) {
    if (b_col != 1) {  // columns of B are contiguous (or n is 1): dot products
      for (int64_t j = 0; j < n; ++j) {
        Acc sum{0};
        for (int64_t l = 0; l < k; ++l)
          sum += load_a(a[i * a_row + l * a_col], i) * load_b(b[l * b_row + j * b_col], j);
        store(i, j, sum);
      }
      continue;
    }
    for (int64_t j0 = 0; j0 < n; j0 += kBlock) {
      const int64_t width = std::min(kBlock, n - j0);
      std::fill_n(acc.begin(), width, Acc{0});
      for (int64_t l = 0; l < k; ++l) {
        const Acc v = load_a(a[i * a_row + l * a_col], i);
        const B* row = b + l * b_row + j0;
        for (int64_t j = 0; j < width; ++j) acc[static_cast<size_t>(j)] += v * load_b(row[j], j0 + j);
      }
      for (int64_t j = 0; j < width; ++j) store(i, j0 + j, acc[static_cast<size_t>(j)]);
    }
  }
}

const auto kWiden = [](float v, int64_t) { return static_cast<double>(v); };

absl::Status InferMatMul(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  RETURN_IF_ERROR(CheckSameType(*in[0], *in[1]));
  if (!IsFloat(in[0]->dtype) && in[0]->dtype != DType::kInt32 && in[0]->dtype != DType::kInt64) {
    return Invalid("A is ", DTypeName(in[0]->dtype), "; floating point, int32 or int64 is needed");
  }
  ASSIGN_OR_RETURN(MatMulShape s, GetMatMulShape(in[0]->shape, in[1]->shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape = std::move(s.out);
  return absl::OkStatus();
}

template <typename T, typename Acc>
void MatMulLoops(const MatMulShape& s, const Tensor& a, const Tensor& b, Tensor& c) {
  if (c.elements() == 0) return;
  T* dst = MutablePtr<T>(c);
  Odometer at(s.batch, {s.a_strides, s.b_strides});
  const auto load = [](T v, int64_t) { return static_cast<Acc>(v); };
  do {
    Multiply<T, T, Acc>(s.m, s.n, s.k, Ptr<T>(a) + at.offset(0), s.k, 1, Ptr<T>(b) + at.offset(1), s.n, 1, load, load,
                        [&](int64_t i, int64_t j, Acc sum) { dst[i * s.n + j] = static_cast<T>(sum); });
    dst += s.m * s.n;
  } while (at.Next());
}

absl::Status ComputeMatMul(const Node&, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const MatMulShape s, GetMatMulShape(in[0]->shape(), in[1]->shape()));
  // Integers wrap: unsigned arithmetic, reduced at the end.
  if (in[0]->dtype() == DType::kInt32) {
    MatMulLoops<int32_t, uint64_t>(s, *in[0], *in[1], out[0]);
  } else if (in[0]->dtype() == DType::kInt64) {
    MatMulLoops<int64_t, uint64_t>(s, *in[0], *in[1], out[0]);
  } else {
    MatMulLoops<float, double>(s, *in[0], *in[1], out[0]);
  }
  return absl::OkStatus();
}

// MatMulInteger(A, B, a_zero_point, b_zero_point) -> int32. A's zero point: scalar or one per row; B's: scalar or one
// per column (for matrices with batches only scalars or [1] are taken).
absl::Status InferMatMulInteger(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 4));
  ASSIGN_OR_RETURN(MatMulShape s, GetMatMulShape(in[0]->shape, in[1]->shape));
  for (size_t i = 0; i < 2; ++i) {
    if (in[i]->dtype != DType::kInt8 && in[i]->dtype != DType::kUInt8) {
      return Invalid("input ", i, " is ", DTypeName(in[i]->dtype), "; int8 or uint8 is needed");
    }
    const TensorDesc* zero = At(in, i + 2);
    if (zero == nullptr) continue;
    RETURN_IF_ERROR(CheckSameType(*in[i], *zero));
    const int64_t count = i == 0 ? s.m : s.n;
    if (zero->shape.size() > 1 || (Product(zero->shape) != 1 && Product(zero->shape) != count)) {
      return Unsupported("a zero point of shape ", ShapeString(zero->shape), "; a scalar or a vector of ", count,
                         " is supported");
    }
  }
  out[0].dtype = DType::kInt32;
  out[0].shape = std::move(s.out);
  return absl::OkStatus();
}

// store(element index, column, sum) of (A - a_zero) * (B - b_zero).
template <typename Store>
absl::Status IntegerLoops(const Tensor& a, const Tensor& b, const Tensor* a_zero, const Tensor* b_zero, Store store) {
  ASSIGN_OR_RETURN(const MatMulShape s, GetMatMulShape(a.shape(), b.shape()));
  if (Product(s.out) == 0) return absl::OkStatus();
  std::vector<int64_t> za = {0}, zb = {0};
  if (a_zero != nullptr) {
    ASSIGN_OR_RETURN(za, ToInt64(*a_zero));
  }
  if (b_zero != nullptr) {
    ASSIGN_OR_RETURN(zb, ToInt64(*b_zero));
  }
  const auto run = [&]<typename A, typename B>(A, B) {
    int64_t base = 0;
    Odometer at(s.batch, {s.a_strides, s.b_strides});
    do {
      Multiply<A, B, int64_t>(
          s.m, s.n, s.k, Ptr<A>(a) + at.offset(0), s.k, 1, Ptr<B>(b) + at.offset(1), s.n, 1,
          [&](A v, int64_t i) { return v - za[za.size() > 1 ? static_cast<size_t>(i) : 0]; },
          [&](B v, int64_t j) { return v - zb[zb.size() > 1 ? static_cast<size_t>(j) : 0]; },
          [&](int64_t i, int64_t j, int64_t sum) { store(base + i * s.n + j, j, sum); });
      base += s.m * s.n;
    } while (at.Next());
  };
  const bool a_signed = a.dtype() == DType::kInt8, b_signed = b.dtype() == DType::kInt8;
  if (a_signed && b_signed) run(int8_t{}, int8_t{});
  if (a_signed && !b_signed) run(int8_t{}, uint8_t{});
  if (!a_signed && b_signed) run(uint8_t{}, int8_t{});
  if (!a_signed && !b_signed) run(uint8_t{}, uint8_t{});
  return absl::OkStatus();
}

absl::Status ComputeMatMulInteger(const Node&, Inputs in, Outputs out) {
  int32_t* y = MutablePtr<int32_t>(out[0]);
  return IntegerLoops(*in[0], *in[1], At(in, 2), At(in, 3),
                      [=](int64_t i, int64_t, int64_t sum) { y[i] = static_cast<int32_t>(sum); });
}

// QLinearMatMul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero); b's scale and zero point may be per column.
absl::Status InferQLinearMatMul(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 8, 8));
  const TensorDesc* const integer_form[] = {in[0], in[3], in[2], in[5]};
  RETURN_IF_ERROR(InferMatMulInteger(node, integer_form, out));
  RETURN_IF_ERROR(CheckQuantizedScales(in, in[3]->shape.size() > 1 ? in[3]->shape.back() : 1));
  out[0].dtype = in[7]->dtype;
  return absl::OkStatus();
}

absl::Status ComputeQLinearMatMul(const Node&, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Requantizer requantize, Requantizer::Create(in, out[0]));
  return IntegerLoops(*in[0], *in[3], in[2], in[5],
                      [&](int64_t i, int64_t column, int64_t sum) { requantize.Store(sum, column, i); });
}

// Y = alpha * A' * B' + beta * C, A' and B' transposed by transA and transB, C broadcast to [M, N].
absl::Status InferGemm(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 3));
  RETURN_IF_ERROR(CheckFloat(*in[0], "A"));
  RETURN_IF_ERROR(CheckSameType(*in[0], *in[1]));
  const Shape& a = in[0]->shape;
  const Shape& b = in[1]->shape;
  if (a.size() != 2 || b.size() != 2) {
    return Invalid("A is ", ShapeString(a), " and B is ", ShapeString(b), "; both must be matrices");
  }
  const bool ta = node.Int("transA", 0) != 0, tb = node.Int("transB", 0) != 0;
  if (a[ta ? 0 : 1] != b[tb ? 1 : 0]) {
    return Invalid("A ", ShapeString(a), ta ? " transposed" : "", " and B ", ShapeString(b), tb ? " transposed" : "",
                   " do not fit");
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape = {a[ta ? 1 : 0], b[tb ? 0 : 1]};
  if (const TensorDesc* c = At(in, 2)) {
    RETURN_IF_ERROR(CheckSameType(*in[0], *c));
    const absl::StatusOr<Shape> shape = Broadcast(c->shape, out[0].shape);
    if (!shape.ok() || *shape != out[0].shape) {
      return Invalid("C ", ShapeString(c->shape), " does not broadcast to ", ShapeString(out[0].shape));
    }
  }
  return absl::OkStatus();
}

absl::Status ComputeGemm(const Node& node, Inputs in, Outputs out) {
  const bool ta = node.Int("transA", 0) != 0, tb = node.Int("transB", 0) != 0;
  const double alpha = static_cast<double>(node.Float("alpha", 1)), beta = static_cast<double>(node.Float("beta", 1));
  const int64_t m = out[0].dim(0), n = out[0].dim(1), k = in[0]->dim(ta ? 0 : 1);
  const int64_t lda = in[0]->dim(1), ldb = in[1]->dim(1);
  const float* c = At(in, 2) ? Ptr<float>(*in[2]) : nullptr;
  const std::vector<int64_t> cs = c ? BroadcastStrides(in[2]->shape(), out[0].shape()) : std::vector<int64_t>{0, 0};
  float* y = MutablePtr<float>(out[0]);
  Multiply<float, float, double>(m, n, k, Ptr<float>(*in[0]), ta ? 1 : lda, ta ? lda : 1, Ptr<float>(*in[1]),
                                 tb ? 1 : ldb, tb ? ldb : 1, kWiden, kWiden, [&](int64_t i, int64_t j, double sum) {
                                   const double add = c ? beta * static_cast<double>(c[i * cs[0] + j * cs[1]]) : 0.0;
                                   y[i * n + j] = static_cast<float>(alpha * sum + add);
                                 });
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Gemm", {InferGemm, ViaFloat<ComputeGemm>}},
    {"MatMul", {InferMatMul, ViaFloat<ComputeMatMul>}},
    {"MatMulInteger", {InferMatMulInteger, ComputeMatMulInteger}},
    {"QLinearMatMul", {InferQLinearMatMul, ComputeQLinearMatMul}},
};

}  // namespace

std::span<const OpEntry> MatMulOps() { return kOps; }

}  // namespace quant::ops

// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/kernels/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/runtime/kernels/elementwise.cc"
#include "hwy/foreach_target.h"  // NOLINT(misc-header-include-cycle): compiles this file once per instruction set
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DI = hn::Rebind<int32_t, DF>;
template <typename T>
using D8 = hn::Rebind<T, DF>;
using VF = hn::Vec<DF>;

// Codes stay far inside int32 when the real value does: +-2^24 is beyond every 8-bit code after the zero point.
template <typename T>
HWY_INLINE hn::Vec<D8<T>> QuantizeVec(VF x, VF scale, hn::Vec<DI> zero_point) {
  const DF df;
  const auto limit = hn::Set(df, 16777216.0f);
  auto v = hn::Div(x, scale);
  v = hn::IfThenZeroElse(hn::IsNaN(v), v);
  v = hn::Min(hn::Max(v, hn::Neg(limit)), limit);
  const auto code = hn::Add(hn::NearestInt(v), zero_point);
  // DemoteTo saturates, for int32 to uint8 as for int8.
  return hn::DemoteTo(D8<T>(), code);
}

template <typename T>
HWY_INLINE VF DequantizeVec(hn::Vec<D8<T>> code, VF scale, hn::Vec<DI> zero_point) {
  const DI di;
  return hn::Mul(hn::ConvertTo(DF(), hn::Sub(hn::PromoteTo(di, code), zero_point)), scale);
}

// Calls body(i, count): whole vectors first, then the tail with count < lanes.
template <class Body>
HWY_INLINE void ForVectors(size_t n, size_t lanes, Body body) {
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, lanes);
  if (i < n) body(i, n - i);
}

template <class D, typename T>
HWY_INLINE hn::Vec<D> Load(D d, const T* p, size_t count) {
  return count == hn::Lanes(d) ? hn::LoadU(d, p) : hn::LoadN(d, p, count);
}
template <class D, typename T>
HWY_INLINE void Store(hn::Vec<D> v, D d, T* p, size_t count) {
  if (count == hn::Lanes(d)) {
    hn::StoreU(v, d, p);
  } else {
    hn::StoreN(v, d, p, count);
  }
}

template <typename T>
void Quantize(const float* src, size_t n, float scale, int32_t zero_point, T* dst) {
  const DF df;
  const auto s = hn::Set(df, scale);
  const auto z = hn::Set(DI(), zero_point);
  ForVectors(n, hn::Lanes(df), [&](size_t i, size_t count) HWY_ATTR {
    Store(QuantizeVec<T>(Load(df, src + i, count), s, z), D8<T>(), dst + i, count);
  });
}

template <typename T>
void Dequantize(const T* src, size_t n, float scale, int32_t zero_point, float* dst) {
  const DF df;
  const auto s = hn::Set(df, scale);
  const auto z = hn::Set(DI(), zero_point);
  ForVectors(n, hn::Lanes(df), [&](size_t i, size_t count) HWY_ATTR {
    Store(DequantizeVec<T>(Load(D8<T>(), src + i, count), s, z), df, dst + i, count);
  });
}

template <BinaryOp op>
HWY_INLINE VF Apply(VF a, VF b) {
  if constexpr (op == BinaryOp::kAdd) return hn::Add(a, b);
  if constexpr (op == BinaryOp::kSub) return hn::Sub(a, b);
  if constexpr (op == BinaryOp::kMul) return hn::Mul(a, b);
  if constexpr (op == BinaryOp::kDiv) return hn::Div(a, b);
  const auto nan = hn::Or(hn::IsNaN(a), hn::IsNaN(b));
  const auto picked = op == BinaryOp::kMax ? hn::Max(a, b) : hn::Min(a, b);
  return hn::IfThenElse(nan, hn::Add(a, b), picked);
}

template <BinaryOp op>
void BinaryLoop(const float* a, Step a_step, const float* b, Step b_step, size_t n, float* dst) {
  const DF df;
  const auto a1 = hn::Set(df, *a);
  const auto b1 = hn::Set(df, *b);
  ForVectors(n, hn::Lanes(df), [&](size_t i, size_t count) HWY_ATTR {
    const auto va = a_step == Step::kOne ? a1 : Load(df, a + i, count);
    const auto vb = b_step == Step::kOne ? b1 : Load(df, b + i, count);
    Store(Apply<op>(va, vb), df, dst + i, count);
  });
}

void Binary(BinaryOp op, const float* a, Step a_step, const float* b, Step b_step, size_t n, float* dst) {
  if (n == 0) return;
  switch (op) {
    case BinaryOp::kAdd:
      return BinaryLoop<BinaryOp::kAdd>(a, a_step, b, b_step, n, dst);
    case BinaryOp::kSub:
      return BinaryLoop<BinaryOp::kSub>(a, a_step, b, b_step, n, dst);
    case BinaryOp::kMul:
      return BinaryLoop<BinaryOp::kMul>(a, a_step, b, b_step, n, dst);
    case BinaryOp::kDiv:
      return BinaryLoop<BinaryOp::kDiv>(a, a_step, b, b_step, n, dst);
    case BinaryOp::kMax:
      return BinaryLoop<BinaryOp::kMax>(a, a_step, b, b_step, n, dst);
    case BinaryOp::kMin:
      return BinaryLoop<BinaryOp::kMin>(a, a_step, b, b_step, n, dst);
  }
}

HWY_INLINE VF ClampVec(VF x, VF lo, VF hi) { return hn::IfThenElse(hn::IsNaN(x), x, hn::Min(hn::Max(x, lo), hi)); }

void Clamp(const float* src, size_t n, float lo, float hi, float* dst) {
  const DF df;
  const auto l = hn::Set(df, lo);
  const auto h = hn::Set(df, hi);
  ForVectors(n, hn::Lanes(df), [&](size_t i, size_t count) HWY_ATTR {
    Store(ClampVec(Load(df, src + i, count), l, h), df, dst + i, count);
  });
}

template <BinaryOp op, typename T>
void QuantizedLoop(const T* a, Grid ga, const T* b, Step b_step, Grid gb, float lo, float hi, Grid gd, size_t n,
                   T* dst) {
  const DF df;
  const DI di;
  const D8<T> d8;
  const auto sa = hn::Set(df, ga.scale);
  const auto sb = hn::Set(df, gb.scale);
  const auto sd = hn::Set(df, gd.scale);
  const auto za = hn::Set(di, ga.zero_point);
  const auto zb = hn::Set(di, gb.zero_point);
  const auto zd = hn::Set(di, gd.zero_point);
  const auto l = hn::Set(df, lo);
  const auto h = hn::Set(df, hi);
  const auto b1 = hn::Set(df, static_cast<float>(*b - gb.zero_point) * gb.scale);
  ForVectors(n, hn::Lanes(df), [&](size_t i, size_t count) HWY_ATTR {
    const auto va = DequantizeVec<T>(Load(d8, a + i, count), sa, za);
    const auto vb = b_step == Step::kOne ? b1 : DequantizeVec<T>(Load(d8, b + i, count), sb, zb);
    const auto v = hn::Min(hn::Max(Apply<op>(va, vb), l), h);
    Store(QuantizeVec<T>(v, sd, zd), d8, dst + i, count);
  });
}

template <typename T>
void QuantizedBinary(BinaryOp op, const T* a, Grid ga, const T* b, Step b_step, Grid gb, float lo, float hi, Grid gd,
                     size_t n, T* dst) {
  if (n == 0) return;
  if (op == BinaryOp::kMul) {
    QuantizedLoop<BinaryOp::kMul>(a, ga, b, b_step, gb, lo, hi, gd, n, dst);
  } else {
    QuantizedLoop<BinaryOp::kAdd>(a, ga, b, b_step, gb, lo, hi, gd, n, dst);
  }
}

void ChannelAffine(const float* src, size_t rows, size_t channels, const float* mul, const float* add, float* dst) {
  const DF df;
  for (size_t r = 0; r < rows; ++r) {
    const float* s = src + r * channels;
    float* d = dst + r * channels;
    ForVectors(channels, hn::Lanes(df), [&](size_t c, size_t count) HWY_ATTR {
      const auto product = hn::Mul(Load(df, s + c, count), Load(df, mul + c, count));
      Store(hn::Add(product, Load(df, add + c, count)), df, d + c, count);
    });
  }
}

void SumRowsFloat(const float* src, size_t rows, size_t channels, double* dst) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, hn::ScalableTag<double>> dh;
  const size_t lanes = hn::Lanes(dd);
  ForVectors(channels, lanes, [&](size_t c, size_t count) HWY_ATTR {
    auto sum = hn::Zero(dd);
    for (size_t r = 0; r < rows; ++r) {
      sum = hn::Add(sum, hn::PromoteTo(dd, Load(dh, src + r * channels + c, count)));
    }
    Store(sum, dd, dst + c, count);
  });
}

template <typename T>
void SumRowsInt(const T* src, size_t rows, size_t channels, int32_t* dst) {
  const DI di;
  ForVectors(channels, hn::Lanes(di), [&](size_t c, size_t count) HWY_ATTR {
    auto sum = hn::Zero(di);
    for (size_t r = 0; r < rows; ++r) {
      sum = hn::Add(sum, hn::PromoteTo(di, Load(D8<T>(), src + r * channels + c, count)));
    }
    Store(sum, di, dst + c, count);
  });
}

void MinMax(const float* src, size_t n, float* min, float* max) {
  const DF df;
  auto lo = hn::Zero(df);
  auto hi = hn::Zero(df);
  ForVectors(n, hn::Lanes(df), [&](size_t i, size_t count) HWY_ATTR {
    auto v = Load(df, src + i, count);  // lanes past the end are 0, which the range holds anyway
    v = hn::IfThenZeroElse(hn::IsNaN(v), v);
    lo = hn::Min(lo, v);
    hi = hn::Max(hi, v);
  });
  *min = hn::ReduceMin(df, lo);
  *max = hn::ReduceMax(df, hi);
}

void QuantizeU8(const float* src, size_t n, float s, int32_t z, uint8_t* dst) { Quantize(src, n, s, z, dst); }
void QuantizeS8(const float* src, size_t n, float s, int32_t z, int8_t* dst) { Quantize(src, n, s, z, dst); }
void DequantizeU8(const uint8_t* src, size_t n, float s, int32_t z, float* dst) { Dequantize(src, n, s, z, dst); }
void DequantizeS8(const int8_t* src, size_t n, float s, int32_t z, float* dst) { Dequantize(src, n, s, z, dst); }
void BinaryQU8(BinaryOp op, const uint8_t* a, Grid ga, const uint8_t* b, Step b_step, Grid gb, float lo, float hi,
               Grid gd, size_t n, uint8_t* dst) {
  QuantizedBinary(op, a, ga, b, b_step, gb, lo, hi, gd, n, dst);
}
void BinaryQS8(BinaryOp op, const int8_t* a, Grid ga, const int8_t* b, Step b_step, Grid gb, float lo, float hi,
               Grid gd, size_t n, int8_t* dst) {
  QuantizedBinary(op, a, ga, b, b_step, gb, lo, hi, gd, n, dst);
}
void SumRowsIntU8(const uint8_t* src, size_t rows, size_t channels, int32_t* dst) {
  SumRowsInt(src, rows, channels, dst);
}
void SumRowsIntS8(const int8_t* src, size_t rows, size_t channels, int32_t* dst) {
  SumRowsInt(src, rows, channels, dst);
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quant::kernels {

HWY_EXPORT(QuantizeU8);
HWY_EXPORT(QuantizeS8);
HWY_EXPORT(DequantizeU8);
HWY_EXPORT(DequantizeS8);
HWY_EXPORT(Binary);
HWY_EXPORT(Clamp);
HWY_EXPORT(BinaryQU8);
HWY_EXPORT(BinaryQS8);
HWY_EXPORT(ChannelAffine);
HWY_EXPORT(SumRowsFloat);
HWY_EXPORT(SumRowsIntU8);
HWY_EXPORT(SumRowsIntS8);
HWY_EXPORT(MinMax);

void QuantizeF32U8(const float* src, size_t n, float scale, int32_t zero_point, uint8_t* dst) {
  HWY_DYNAMIC_DISPATCH(QuantizeU8)(src, n, scale, zero_point, dst);
}
void QuantizeF32S8(const float* src, size_t n, float scale, int32_t zero_point, int8_t* dst) {
  HWY_DYNAMIC_DISPATCH(QuantizeS8)(src, n, scale, zero_point, dst);
}
void DequantizeU8F32(const uint8_t* src, size_t n, float scale, int32_t zero_point, float* dst) {
  HWY_DYNAMIC_DISPATCH(DequantizeU8)(src, n, scale, zero_point, dst);
}
void DequantizeS8F32(const int8_t* src, size_t n, float scale, int32_t zero_point, float* dst) {
  HWY_DYNAMIC_DISPATCH(DequantizeS8)(src, n, scale, zero_point, dst);
}
void BinaryF32(BinaryOp op, const float* a, Step a_step, const float* b, Step b_step, size_t n, float* dst) {
  HWY_DYNAMIC_DISPATCH(Binary)(op, a, a_step, b, b_step, n, dst);
}
void ClampF32(const float* src, size_t n, float lo, float hi, float* dst) {
  HWY_DYNAMIC_DISPATCH(Clamp)(src, n, lo, hi, dst);
}
void BinaryU8(BinaryOp op, const uint8_t* a, Grid ga, const uint8_t* b, Step b_step, Grid gb, float lo, float hi,
              Grid gd, size_t n, uint8_t* dst) {
  HWY_DYNAMIC_DISPATCH(BinaryQU8)(op, a, ga, b, b_step, gb, lo, hi, gd, n, dst);
}
void BinaryS8(BinaryOp op, const int8_t* a, Grid ga, const int8_t* b, Step b_step, Grid gb, float lo, float hi, Grid gd,
              size_t n, int8_t* dst) {
  HWY_DYNAMIC_DISPATCH(BinaryQS8)(op, a, ga, b, b_step, gb, lo, hi, gd, n, dst);
}
void ChannelAffineF32(const float* src, size_t rows, size_t channels, const float* mul, const float* add, float* dst) {
  HWY_DYNAMIC_DISPATCH(ChannelAffine)(src, rows, channels, mul, add, dst);
}
void SumRowsF32(const float* src, size_t rows, size_t channels, double* dst) {
  HWY_DYNAMIC_DISPATCH(SumRowsFloat)(src, rows, channels, dst);
}
void SumRowsU8(const uint8_t* src, size_t rows, size_t channels, int32_t* dst) {
  HWY_DYNAMIC_DISPATCH(SumRowsIntU8)(src, rows, channels, dst);
}
void SumRowsS8(const int8_t* src, size_t rows, size_t channels, int32_t* dst) {
  HWY_DYNAMIC_DISPATCH(SumRowsIntS8)(src, rows, channels, dst);
}
void MinMaxF32(const float* src, size_t n, float* min, float* max) { HWY_DYNAMIC_DISPATCH(MinMax)(src, n, min, max); }

void LookupU8(const uint8_t* src, size_t n, const uint8_t* table, uint8_t* dst) {
  for (size_t i = 0; i < n; ++i) dst[i] = table[src[i]];
}

}  // namespace quant::kernels
#endif  // HWY_ONCE

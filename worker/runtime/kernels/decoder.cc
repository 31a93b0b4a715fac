// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/kernels/decoder.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/runtime/kernels/decoder.cc"
#include "hwy/foreach_target.h"  // NOLINT(misc-header-include-cycle): compiles this file once per instruction set
#include "hwy/highway.h"
// clang-format off: after foreach_target.h, which compiles it once per instruction set too
#include "hwy/contrib/math/math-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace quant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

HWY_INLINE VF Load(const float* p, int64_t count) {
  const DF df;
  return count >= static_cast<int64_t>(hn::Lanes(df)) ? hn::LoadU(df, p) : hn::LoadN(df, p, static_cast<size_t>(count));
}
HWY_INLINE void Store(VF v, float* p, int64_t count) {
  const DF df;
  if (count >= static_cast<int64_t>(hn::Lanes(df))) {
    hn::StoreU(v, df, p);
  } else {
    hn::StoreN(v, df, p, static_cast<size_t>(count));
  }
}

// Calls body(i, left): i steps by vectors, `left` elements remain.
template <class Body>
HWY_INLINE void ForVectors(int64_t n, const Body& body) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  for (int64_t i = 0; i < n; i += lanes) body(i, n - i);
}

// Sum of term(i, left), whose lanes past the end must be 0, in four accumulators.
template <class Term>
HWY_INLINE float Sum(int64_t n, const Term& term) {
  const DF df;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
  VF s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, term(i, n - i));
    s1 = hn::Add(s1, term(i + lanes, n - i));
    s2 = hn::Add(s2, term(i + 2 * lanes, n - i));
    s3 = hn::Add(s3, term(i + 3 * lanes, n - i));
  }
  for (; i < n; i += lanes) s0 = hn::Add(s0, term(i, n - i));
  return hn::ReduceSum(df, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

void RmsNorm(const float* src, int64_t rows, int64_t n, float epsilon, const float* scale, float* dst) {
  const DF df;
  for (int64_t r = 0; r < rows; ++r, src += n, dst += n) {
    const float squares = Sum(n, [&](int64_t i, int64_t left) HWY_ATTR {
      const VF v = Load(src + i, left);
      return hn::Mul(v, v);
    });
    const VF inverse = hn::Set(df, 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon));
    ForVectors(n, [&](int64_t i, int64_t left) HWY_ATTR {
      Store(hn::Mul(hn::Mul(Load(src + i, left), inverse), Load(scale + i, left)), dst + i, left);
    });
  }
}

void LayerNorm(const float* src, int64_t rows, int64_t n, float epsilon, const float* scale, const float* shift,
               float* dst) {
  const DF df;
  const float count = static_cast<float>(n);
  for (int64_t r = 0; r < rows; ++r, src += n, dst += n) {
    const float mean = Sum(n, [&](int64_t i, int64_t left) HWY_ATTR { return Load(src + i, left); }) / count;
    const VF m = hn::Set(df, mean);
    const float squares = Sum(n, [&](int64_t i, int64_t left) HWY_ATTR {
      const VF v = hn::Sub(Load(src + i, left), m);
      const VF square = hn::Mul(v, v);
      // Lanes past the end hold the mean's square.
      return left >= static_cast<int64_t>(hn::Lanes(df))
                 ? square
                 : hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(left)), square);
    });
    const VF inverse = hn::Set(df, 1.0f / std::sqrt(squares / count + epsilon));
    ForVectors(n, [&](int64_t i, int64_t left) HWY_ATTR {
      VF v = hn::Mul(hn::Mul(hn::Sub(Load(src + i, left), m), inverse), Load(scale + i, left));
      if (shift != nullptr) v = hn::Add(v, Load(shift + i, left));
      Store(v, dst + i, left);
    });
  }
}

void Silu(const float* gate, const float* up, int64_t n, float* dst) {
  const DF df;
  const VF one = hn::Set(df, 1.0f);
  ForVectors(n, [&](int64_t i, int64_t left) HWY_ATTR {
    const VF g = Load(gate + i, left);
    // exp(-g) overflows to infinity for very negative g, where the quotient is -0 as it should be; Exp takes up to 104.
    VF v = hn::Div(g, hn::Add(one, hn::Exp(df, hn::Min(hn::Neg(g), hn::Set(df, 100.0f)))));
    if (up != nullptr) v = hn::Mul(v, Load(up + i, left));
    Store(v, dst + i, left);
  });
}

void Rotate(const float* x, const float* cos, const float* sin, int64_t half, bool interleaved, float* dst) {
  if (interleaved) {
    for (int64_t k = 0; k < half; ++k) {
      const float a = x[2 * k], b = x[2 * k + 1];
      dst[2 * k] = cos[k] * a - sin[k] * b;
      dst[2 * k + 1] = sin[k] * a + cos[k] * b;
    }
    return;
  }
  ForVectors(half, [&](int64_t k, int64_t left) HWY_ATTR {
    const VF a = Load(x + k, left), b = Load(x + half + k, left), c = Load(cos + k, left), s = Load(sin + k, left);
    Store(hn::Sub(hn::Mul(c, a), hn::Mul(s, b)), dst + k, left);
    Store(hn::Add(hn::Mul(s, a), hn::Mul(c, b)), dst + half + k, left);
  });
}

void Dots(const float* q, const float* keys, int64_t stride, int64_t n, int64_t d, float* scores) {
  for (int64_t j = 0; j < n; ++j) {
    const float* key = keys + j * stride;
    scores[j] =
        Sum(d, [&](int64_t i, int64_t left) HWY_ATTR { return hn::Mul(Load(q + i, left), Load(key + i, left)); });
  }
}

void Weighted(const float* p, const float* values, int64_t stride, int64_t n, int64_t d, float* out) {
  const DF df;
  // Few vectors of `out` at a time stay in registers over all values.
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
  int64_t c = 0;
  for (; c + 4 * lanes <= d; c += 4 * lanes) {
    VF s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t j = 0; j < n; ++j) {
      const float* v = values + j * stride + c;
      const VF w = hn::Set(df, p[j]);
      s0 = hn::MulAdd(w, hn::LoadU(df, v), s0);
      s1 = hn::MulAdd(w, hn::LoadU(df, v + lanes), s1);
      s2 = hn::MulAdd(w, hn::LoadU(df, v + 2 * lanes), s2);
      s3 = hn::MulAdd(w, hn::LoadU(df, v + 3 * lanes), s3);
    }
    hn::StoreU(s0, df, out + c);
    hn::StoreU(s1, df, out + c + lanes);
    hn::StoreU(s2, df, out + c + 2 * lanes);
    hn::StoreU(s3, df, out + c + 3 * lanes);
  }
  for (; c < d; c += lanes) {
    VF sum = hn::Zero(df);
    for (int64_t j = 0; j < n; ++j) sum = hn::MulAdd(hn::Set(df, p[j]), Load(values + j * stride + c, d - c), sum);
    Store(sum, out + c, d - c);
  }
}

void Softmax(float* p, int64_t n, float scale, float softcap, const float* mask) {
  const DF df;
  const float lowest = -std::numeric_limits<float>::infinity();
  const VF s = hn::Set(df, scale), cap = hn::Set(df, softcap), inverse_cap = hn::Set(df, softcap > 0 ? 1 / softcap : 0);
  VF max = hn::Set(df, lowest);
  ForVectors(n, [&](int64_t i, int64_t left) HWY_ATTR {
    VF v = hn::Mul(Load(p + i, left), s);
    if (softcap > 0) v = hn::Mul(cap, hn::Tanh(df, hn::Mul(v, inverse_cap)));
    if (mask != nullptr) v = hn::Add(v, Load(mask + i, left));
    Store(v, p + i, left);
    if (left < static_cast<int64_t>(hn::Lanes(df))) {
      v = hn::IfThenElse(hn::FirstN(df, static_cast<size_t>(left)), v, hn::Set(df, lowest));
    }
    max = hn::Max(max, v);
  });
  const float top = hn::ReduceMax(df, max);
  if (top == lowest) {
    std::fill_n(p, n, 0.0f);
    return;
  }
  const VF m = hn::Set(df, top);
  VF sum = hn::Zero(df);
  ForVectors(n, [&](int64_t i, int64_t left) HWY_ATTR {
    // Minus infinity may come out of Exp as a NaN on some instruction sets: below -100 the result is 0 anyway.
    const VF floor = hn::Set(df, -100.0f), difference = hn::Sub(Load(p + i, left), m), x = hn::Max(difference, floor);
    VF v = hn::IfThenElseZero(hn::Gt(x, floor), hn::Exp(df, x));
    v = hn::IfThenElse(hn::IsNaN(difference), difference, v);
    if (left < static_cast<int64_t>(hn::Lanes(df)))
      v = hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(left)), v);
    Store(v, p + i, left);
    sum = hn::Add(sum, v);
  });
  const VF inverse = hn::Set(df, 1.0f / hn::ReduceSum(df, sum));
  ForVectors(n, [&](int64_t i, int64_t left) HWY_ATTR { Store(hn::Mul(Load(p + i, left), inverse), p + i, left); });
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quant::kernels {

HWY_EXPORT(RmsNorm);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(Silu);
HWY_EXPORT(Rotate);
HWY_EXPORT(Dots);
HWY_EXPORT(Weighted);
HWY_EXPORT(Softmax);

void RmsNormRows(const float* src, int64_t rows, int64_t n, float epsilon, const float* scale, float* dst) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(src, rows, n, epsilon, scale, dst);
}
void LayerNormRows(const float* src, int64_t rows, int64_t n, float epsilon, const float* scale, const float* shift,
                   float* dst) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(src, rows, n, epsilon, scale, shift, dst);
}
void SiluMul(const float* gate, const float* up, int64_t n, float* dst) {
  HWY_DYNAMIC_DISPATCH(Silu)(gate, up, n, dst);
}
void RotateHead(const float* x, const float* cos, const float* sin, int64_t half, bool interleaved, float* dst) {
  HWY_DYNAMIC_DISPATCH(Rotate)(x, cos, sin, half, interleaved, dst);
}
void DotRows(const float* q, const float* keys, int64_t stride, int64_t n, int64_t d, float* scores) {
  HWY_DYNAMIC_DISPATCH(Dots)(q, keys, stride, n, d, scores);
}
void WeightedSum(const float* p, const float* values, int64_t stride, int64_t n, int64_t d, float* out) {
  HWY_DYNAMIC_DISPATCH(Weighted)(p, values, stride, n, d, out);
}
void SoftmaxScores(float* p, int64_t n, float scale, float softcap, const float* mask) {
  HWY_DYNAMIC_DISPATCH(Softmax)(p, n, scale, softcap, mask);
}

}  // namespace quant::kernels
#endif  // HWY_ONCE

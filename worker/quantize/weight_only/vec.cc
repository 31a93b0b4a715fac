// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/vec.h"

#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/quantize/weight_only/vec.cc"
#include "hwy/foreach_target.h"  // NOLINT(misc-header-include-cycle): compiles this file once per instruction set
#include "hwy/highway.h"
// After highway.h.
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quant::weight_only::vec {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using VF = hn::Vec<DF>;
using DI = hn::Rebind<int32_t, DF>;
using D8 = hn::Rebind<uint8_t, DF>;

struct GridVec {
  VF scale, zero, qmax;
};

HWY_INLINE VF Code(VF w, const GridVec& grid) {
  const DF d;
  const VF code = hn::Add(hn::Round(hn::Div(w, grid.scale)), grid.zero);
  return hn::Min(hn::Max(code, hn::Zero(d)), grid.qmax);
}
HWY_INLINE VF Value(VF code, const GridVec& grid) { return hn::Mul(grid.scale, hn::Sub(code, grid.zero)); }

HWY_INLINE void StoreCodes(VF code, uint8_t* dst) {
  hn::StoreU(hn::DemoteTo(D8(), hn::ConvertTo(DI(), code)), D8(), dst);
}

// Loads past the end give zeros.
HWY_INLINE VF LoadSome(const float* p, size_t count) {
  const DF d;
  return count >= hn::Lanes(d) ? hn::LoadU(d, p) : hn::LoadN(d, p, count);
}

void MinMaxImpl(const float* w, size_t n, float* lo, float* hi) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  VF least = hn::Set(d, w[0]);
  VF most = least;
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const VF v = hn::LoadU(d, w + i);
    least = hn::Min(least, v);
    most = hn::Max(most, v);
  }
  float a = hn::ReduceMin(d, least);
  float b = hn::ReduceMax(d, most);
  for (; i < n; ++i) {
    a = w[i] < a ? w[i] : a;
    b = w[i] > b ? w[i] : b;
  }
  *lo = a;
  *hi = b;
}

bool AllFiniteImpl(const float* w, size_t n) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  VF sum = hn::Zero(d);
  size_t i = 0;
  for (; i < n; i += lanes) {
    const VF v = LoadSome(w + i, n - i);
    sum = hn::Add(sum, hn::Sub(v, v));  // 0, or NaN for good
  }
  return hn::ReduceSum(d, sum) == 0;
}

float GridErrorImpl(const float* w, const float* h, size_t n, float scale, float zero, float qmax, float p) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const GridVec grid{hn::Set(d, scale), hn::Set(d, zero), hn::Set(d, qmax)};
  const VF inverse = hn::Set(d, 1.0f / scale);
  VF sum = hn::Zero(d);
  if (p == 2) {
    for (size_t i = 0; i < n; i += lanes) {
      const VF v = LoadSome(w + i, n - i);
      VF code = hn::Add(hn::Round(hn::Mul(v, inverse)), grid.zero);
      code = hn::Min(hn::Max(code, hn::Zero(d)), grid.qmax);
      const VF e = hn::Sub(Value(code, grid), v);
      const VF weighted = h == nullptr ? e : hn::Mul(e, LoadSome(h + i, n - i));
      sum = hn::MulAdd(weighted, e, sum);  // a weight past the end is 0, whose error is 0
    }
    return hn::ReduceSum(d, sum);
  }
  const VF tiny = hn::Set(d, 1e-30f);
  const VF power = hn::Set(d, p);
  for (size_t i = 0; i < n; i += lanes) {
    const VF v = LoadSome(w + i, n - i);
    const VF e = hn::Abs(hn::Sub(Value(Code(v, grid), grid), v));
    VF term = hn::Exp(d, hn::Mul(power, hn::Log(d, hn::Max(e, tiny))));
    term = hn::IfThenElseZero(hn::Gt(e, tiny), term);
    if (h != nullptr) term = hn::Mul(term, LoadSome(h + i, n - i));
    sum = hn::Add(sum, term);
  }
  return hn::ReduceSum(d, sum);
}

void GridFitImpl(const float* w, const float* h, size_t n, float scale, float zero, float qmax, float* num,
                 float* den) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const GridVec grid{hn::Set(d, scale), hn::Set(d, zero), hn::Set(d, qmax)};
  VF top = hn::Zero(d);
  VF bottom = hn::Zero(d);
  for (size_t i = 0; i < n; i += lanes) {
    const VF v = LoadSome(w + i, n - i);
    const VF level = hn::Sub(Code(v, grid), grid.zero);  // 0 for a weight past the end
    const VF weighted = h == nullptr ? level : hn::Mul(level, LoadSome(h + i, n - i));
    top = hn::MulAdd(weighted, v, top);
    bottom = hn::MulAdd(weighted, level, bottom);
  }
  *num = hn::ReduceSum(d, top);
  *den = hn::ReduceSum(d, bottom);
}

void EncodeImpl(const float* w, size_t n, float scale, float zero, float qmax, uint8_t* codes) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const GridVec grid{hn::Set(d, scale), hn::Set(d, zero), hn::Set(d, qmax)};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreCodes(Code(hn::LoadU(d, w + i), grid), codes + i);
  if (i < n) {
    uint8_t tail[16];
    StoreCodes(Code(LoadSome(w + i, n - i), grid), tail);
    for (size_t k = 0; i + k < n; ++k) codes[i + k] = tail[k];
  }
}

void EncodeTableImpl(const float* w, size_t n, float inverse, const float* limits, uint8_t* codes) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const VF one = hn::Set(d, 1.0f);
  const VF scale = hn::Set(d, inverse);
  for (size_t i = 0; i < n; i += lanes) {
    const VF v = hn::Mul(LoadSome(w + i, n - i), scale);
    VF code = hn::Zero(d);
    for (int k = 0; k < 15; ++k) code = hn::Add(code, hn::IfThenElseZero(hn::Gt(v, hn::Set(d, limits[k])), one));
    if (i + lanes <= n) {
      StoreCodes(code, codes + i);
    } else {
      uint8_t tail[16];
      StoreCodes(code, tail);
      for (size_t k = 0; i + k < n; ++k) codes[i + k] = tail[k];
    }
  }
}

void HalfQuadraticImpl(const float* w, size_t n, float scale, float zero, float qmax, float beta, float p, float* error,
                       float* zero_sum) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  const VF step = hn::Set(d, scale);
  const VF inverse = hn::Set(d, 1.0f / scale);
  const VF z = hn::Set(d, zero);
  const VF top = hn::Set(d, qmax);
  const VF tiny = hn::Set(d, 1e-30f);
  const VF power = hn::Set(d, p - 1);
  const VF strength = hn::Set(d, 1.0f / beta);
  VF errors = hn::Zero(d);
  VF zeros = hn::Zero(d);
  for (size_t i = 0; i < n; i += lanes) {
    const VF v = LoadSome(w + i, n - i);
    const VF code = hn::Min(hn::Max(hn::Round(hn::MulAdd(v, inverse, z)), hn::Zero(d)), top);
    const VF e = hn::Sub(v, hn::Mul(step, hn::Sub(code, z)));
    const VF size = hn::Max(hn::Abs(e), tiny);
    const VF pull = hn::Mul(strength, hn::Exp(d, hn::Mul(power, hn::Log(d, size))));
    const VF shrunken = hn::CopySign(hn::Max(hn::Sub(size, pull), hn::Zero(d)), e);
    const VF wanted = hn::Sub(code, hn::Mul(hn::Sub(v, shrunken), inverse));
    const auto valid = hn::FirstN(d, n - i);
    errors = hn::Add(errors, hn::IfThenElseZero(valid, hn::Abs(e)));
    zeros = hn::Add(zeros, hn::IfThenElseZero(valid, wanted));
  }
  *error = hn::ReduceSum(d, errors);
  *zero_sum = hn::ReduceSum(d, zeros);
}

// Lanes are taken in strips of two vectors, whose sums stand together in a small array: the panel's own stride would
// put them into a few sets of the first-level cache.
template <class Row>
HWY_INLINE void AddRow(float* sums, int64_t count, VF d0, VF d1, Row row) {
  const DF d;
  const size_t lanes = hn::Lanes(d);
  for (int64_t j = 0; j < count; ++j) {
    float* s = sums + static_cast<size_t>(j) * 2 * lanes;
    const VF factor = hn::Set(d, row[j]);
    hn::StoreU(hn::MulAdd(d0, factor, hn::LoadU(d, s)), d, s);
    hn::StoreU(hn::MulAdd(d1, factor, hn::LoadU(d, s + lanes)), d, s + lanes);
  }
}

void SweepImpl(const SweepBlock& b) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  std::vector<float> sums(static_cast<size_t>(b.count * 2 * lanes));
  const VF qmax = hn::Set(d, b.qmax);
  for (int64_t strip = 0; strip < b.lanes; strip += 2 * lanes) {
    for (int64_t k = 0; k < b.count; ++k) {
      for (int64_t v = 0; v < 2; ++v) {
        hn::StoreU(hn::LoadU(d, b.acc + k * b.lanes + strip + v * lanes), d, sums.data() + (k * 2 + v) * lanes);
      }
    }
    VF loss[2] = {hn::Zero(d), hn::Zero(d)};
    for (int64_t k = b.count - 1; k >= 0; --k) {
      const float* row = b.l + k * b.ldl;
      const VF diagonal = hn::Set(d, row[k]);
      const VF inverse = hn::Set(d, 1.0f / row[k]);
      VF change[2];
      for (int64_t v = 0; v < 2; ++v) {
        const int64_t at = k * b.lanes + strip + v * lanes;
        const GridVec grid{hn::LoadU(d, b.scale[k] + strip + v * lanes), hn::LoadU(d, b.zero[k] + strip + v * lanes),
                           qmax};
        const VF w = hn::LoadU(d, b.w + at);
        const VF sum = hn::LoadU(d, sums.data() + (k * 2 + v) * lanes);
        const VF target = hn::NegMulAdd(sum, inverse, w);
        const VF code = Code(target, grid);
        const VF value = Value(code, grid);
        const VF e = hn::Mul(hn::Sub(value, target), diagonal);
        loss[v] = hn::MulAdd(e, e, loss[v]);
        change[v] = hn::Sub(value, w);
        hn::StoreU(change[v], d, b.d + at);
        StoreCodes(code, b.codes + at);
      }
      AddRow(sums.data(), k, change[0], change[1], row);
    }
    for (int64_t v = 0; v < 2; ++v) hn::StoreU(loss[v], d, b.loss + strip + v * lanes);
  }
}

void DescendImpl(const DescentBlock& b) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  std::vector<float> sums(static_cast<size_t>(b.count * 2 * lanes));
  const VF qmax = hn::Set(d, b.qmax);
  for (int64_t strip = 0; strip < b.lanes; strip += 2 * lanes) {
    for (int64_t k = 0; k < b.count; ++k) {
      for (int64_t v = 0; v < 2; ++v) {
        hn::StoreU(hn::LoadU(d, b.g + k * b.lanes + strip + v * lanes), d, sums.data() + (k * 2 + v) * lanes);
      }
    }
    VF gain[2] = {hn::Zero(d), hn::Zero(d)};
    for (int round = 0; round < b.rounds; ++round) {
      for (int64_t k = 0; k < b.count; ++k) {
        const float* row = b.h + k * b.ldh;
        const float curvature = row[k] + b.lambda;
        if (!(curvature > 0)) continue;
        const VF hkk = hn::Set(d, curvature);
        const VF inverse = hn::Set(d, 1.0f / curvature);
        VF change[2];
        auto moved = hn::MaskFalse(d);
        for (int64_t v = 0; v < 2; ++v) {
          const int64_t at = k * b.lanes + strip + v * lanes;
          const GridVec grid{hn::LoadU(d, b.scale[k] + strip + v * lanes), hn::LoadU(d, b.zero[k] + strip + v * lanes),
                             qmax};
          const VF old = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(D8(), b.codes + at)));
          const VF g = hn::LoadU(d, sums.data() + (k * 2 + v) * lanes);
          const VF target = hn::NegMulAdd(g, inverse, Value(old, grid));
          VF code = Code(target, grid);
          VF delta = hn::Mul(grid.scale, hn::Sub(code, old));
          // The change of the quadratic form; it is below zero but for rounding, and then nothing moves.
          VF change_of_loss = hn::Mul(delta, hn::MulAdd(delta, hkk, hn::Add(g, g)));
          const auto better = hn::Lt(change_of_loss, hn::Zero(d));
          moved = hn::Or(moved, better);
          code = hn::IfThenElse(better, code, old);
          delta = hn::IfThenElseZero(better, delta);
          gain[v] = hn::Add(gain[v], hn::IfThenElseZero(better, change_of_loss));
          hn::StoreU(hn::Add(hn::LoadU(d, b.d + at), delta), d, b.d + at);
          StoreCodes(code, b.codes + at);
          change[v] = delta;
        }
        if (hn::AllFalse(d, moved)) continue;
        AddRow(sums.data(), b.count, change[0], change[1], row);
        const VF lambda = hn::Set(d, b.lambda);
        for (int64_t v = 0; v < 2; ++v) {
          float* s = sums.data() + (k * 2 + v) * lanes;
          hn::StoreU(hn::MulAdd(change[v], lambda, hn::LoadU(d, s)), d, s);
        }
      }
    }
    for (int64_t v = 0; v < 2; ++v) hn::StoreU(gain[v], d, b.gain + strip + v * lanes);
    for (int64_t k = 0; k < b.count; ++k) {
      for (int64_t v = 0; v < 2; ++v) {
        hn::StoreU(hn::LoadU(d, sums.data() + (k * 2 + v) * lanes), d, b.g + k * b.lanes + strip + v * lanes);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::weight_only::vec
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quant::weight_only::vec {

HWY_EXPORT(MinMaxImpl);
HWY_EXPORT(AllFiniteImpl);
HWY_EXPORT(GridErrorImpl);
HWY_EXPORT(GridFitImpl);
HWY_EXPORT(EncodeImpl);
HWY_EXPORT(EncodeTableImpl);
HWY_EXPORT(HalfQuadraticImpl);
HWY_EXPORT(SweepImpl);
HWY_EXPORT(DescendImpl);

void MinMax(const float* w, size_t n, float* lo, float* hi) { HWY_DYNAMIC_DISPATCH(MinMaxImpl)(w, n, lo, hi); }
bool AllFinite(const float* w, size_t n) { return HWY_DYNAMIC_DISPATCH(AllFiniteImpl)(w, n); }
float GridError(const float* w, const float* h, size_t n, float scale, float zero, float qmax, float p) {
  return HWY_DYNAMIC_DISPATCH(GridErrorImpl)(w, h, n, scale, zero, qmax, p);
}
void GridFit(const float* w, const float* h, size_t n, float scale, float zero, float qmax, float* num, float* den) {
  HWY_DYNAMIC_DISPATCH(GridFitImpl)(w, h, n, scale, zero, qmax, num, den);
}
void Encode(const float* w, size_t n, float scale, float zero, float qmax, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodeImpl)(w, n, scale, zero, qmax, codes);
}
void EncodeTable(const float* w, size_t n, float inverse, const float* limits, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodeTableImpl)(w, n, inverse, limits, codes);
}
void HalfQuadratic(const float* w, size_t n, float scale, float zero, float qmax, float beta, float p, float* error,
                   float* zero_sum) {
  HWY_DYNAMIC_DISPATCH(HalfQuadraticImpl)(w, n, scale, zero, qmax, beta, p, error, zero_sum);
}
void Sweep(const SweepBlock& block) { HWY_DYNAMIC_DISPATCH(SweepImpl)(block); }
void Descend(const DescentBlock& block) { HWY_DYNAMIC_DISPATCH(DescendImpl)(block); }

}  // namespace quant::weight_only::vec
#endif  // HWY_ONCE

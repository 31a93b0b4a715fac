// SPDX-License-Identifier: Apache-2.0
// Packed codes are read as words of 32 bits, one per lane: shifting a vector of words by j codes puts code j of every
// word into the low bits, without unpacking. x is brought into that order once per product (GemvPrepare).
#include "worker/runtime/kernels/linear.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/runtime/kernels/linear.cc"
#include "hwy/foreach_target.h"  // NOLINT(misc-header-include-cycle): compiles this file once per instruction set
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::Rebind<int32_t, DF>;
using DU = hn::Rebind<uint32_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

// Sixteen table entries can be looked up with lanes known at compile time.
#if HWY_HAVE_SCALABLE
constexpr size_t kTableLanes = 0;
#else
constexpr size_t kTableLanes = hn::MaxLanes(DF());
#endif

constexpr int64_t kMaxTile = 4;  // rows of x multiplied with one reading of a row of W

// `count` elements (at most a vector) from any address; the lanes after them are 0.
template <class D>
HWY_INLINE hn::Vec<D> LoadBytes(D d, const std::byte* from, size_t count) {
  using T = hn::TFromD<D>;
  const hn::Repartition<uint8_t, D> d8;
  if (count == hn::Lanes(d)) return hn::BitCast(d, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(from)));
  HWY_ALIGN T part[hn::MaxLanes(d)] = {};
  std::memcpy(part, from, count * sizeof(T));
  return hn::Load(d, part);
}

// ---------------------------------------------------------------------------------------------- stored floats

template <WeightType type>
HWY_INLINE VF LoadWeights(const std::byte* row, int64_t k, size_t count) {
  const DF df;
  if constexpr (type == WeightType::kF32) {
    return LoadBytes(df, row + k * 4, count);
  } else {
    const hn::Rebind<uint16_t, DF> d16;
    const auto bits = LoadBytes(d16, row + k * 2, count);
    if constexpr (type == WeightType::kBF16) {
      return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits)));
    } else {
      return hn::PromoteTo(df, hn::BitCast(hn::Rebind<hwy::float16_t, DF>(), bits));
    }
  }
}

HWY_INLINE VF LoadX(const float* x, size_t count) {
  return count == hn::Lanes(DF()) ? hn::LoadU(DF(), x) : hn::LoadN(DF(), x, count);
}

// Four sums of one row of W with kTile rows of x.
template <WeightType type, int kTile>
HWY_INLINE void DotFloats(const std::byte* row, int64_t cols, const float* x, float* out) {
  const DF df;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
  constexpr int kUnroll = kTile == 1 ? 4 : 2;
  VF sum[kTile][kUnroll];
  for (int i = 0; i < kTile; ++i) {
    for (int u = 0; u < kUnroll; ++u) sum[i][u] = hn::Zero(df);
  }
  int64_t k = 0;
  for (; k + kUnroll * lanes <= cols; k += kUnroll * lanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const VF w = LoadWeights<type>(row, k + u * lanes, static_cast<size_t>(lanes));
      for (int i = 0; i < kTile; ++i) sum[i][u] = hn::MulAdd(w, hn::LoadU(df, x + i * cols + k + u * lanes), sum[i][u]);
    }
  }
  for (; k < cols; k += lanes) {
    const size_t count = static_cast<size_t>(std::min(lanes, cols - k));
    const VF w = LoadWeights<type>(row, k, count);
    for (int i = 0; i < kTile; ++i) sum[i][0] = hn::MulAdd(w, LoadX(x + i * cols + k, count), sum[i][0]);
  }
  for (int i = 0; i < kTile; ++i) {
    VF total = hn::Add(sum[i][0], sum[i][1]);
    if constexpr (kUnroll == 4) total = hn::Add(total, hn::Add(sum[i][2], sum[i][3]));
    out[i] = hn::ReduceSum(df, total);
  }
}

template <WeightType type>
HWY_INLINE void DotRow(const std::byte* row, int64_t cols, const float* x, int64_t tile, float* out) {
  switch (tile) {
    case 1:
      return DotFloats<type, 1>(row, cols, x, out);
    case 2:
      return DotFloats<type, 2>(row, cols, x, out);
    case 3:
      return DotFloats<type, 3>(row, cols, x, out);
    default:
      return DotFloats<type, 4>(row, cols, x, out);
  }
}

void DotAny(WeightType type, const std::byte* row, int64_t cols, const float* x, int64_t tile, float* out) {
  if (type == WeightType::kF16) return DotRow<WeightType::kF16>(row, cols, x, tile, out);
  if (type == WeightType::kBF16) return DotRow<WeightType::kBF16>(row, cols, x, tile, out);
  return DotRow<WeightType::kF32>(row, cols, x, tile, out);
}

// ---------------------------------------------------------------------------------------------- packed codes, in words

// How a row of codes is cut into vectors of words. `ok` is false where groups do not fall on words: such rows are
// dequantized one by one.
struct Words {
  bool ok = false;
  int64_t per_word = 0;  // codes
  int64_t chunk = 0;     // codes in a vector
  int64_t padded = 0;    // columns, whole blocks and then whole vectors
  int64_t count = 0;     // words in a row
  int64_t blocks = 0;    // scales in a row
};

Words GetWords(const WeightView& w) {
  Words r;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  if (w.type != WeightType::kNBits && w.type != WeightType::kCodebook) return r;
  const bool codebook = w.type == WeightType::kCodebook;
  r.per_word = codebook ? 8 : 32 / w.bits;
  r.chunk = lanes * r.per_word;
  r.blocks = codebook ? w.cols / w.block : w.blocks;
  if (codebook && (w.cols % w.block != 0 || kTableLanes < 8)) return r;
  r.ok = w.block % r.per_word == 0 && (w.block % r.chunk == 0 || r.chunk % w.block == 0);
  const int64_t codes = r.blocks * w.block;
  r.count = codes / r.per_word;
  r.padded = (codes + r.chunk - 1) / r.chunk * r.chunk;
  return r;
}

HWY_INLINE hn::Vec<DI> LowBits(VU v, int bits) {
  return hn::BitCast(DI(), hn::And(v, hn::Set(DU(), (1u << bits) - 1)));
}

// table[v & 15]
HWY_INLINE VF Lookup16(VF low, VF high, VU v) {
  const DF df;
  if constexpr (kTableLanes == 16) {
    return hn::TableLookupLanes(low, hn::IndicesFromVec(df, LowBits(v, 4)));
  } else if constexpr (kTableLanes == 8) {
    return hn::TwoTablesLookupLanes(df, low, high, hn::IndicesFromVec(df, LowBits(v, 4)));
  } else {
    HWY_ALIGN float table[2 * hn::MaxLanes(df)];
    (void)high;
    hn::Store(low, df, table);
    return hn::Load(df, table);  // never used: GetWords() refuses codebooks here
  }
}

// The values of one block's codes: real ones without their scale.
template <bool kTable, int kBits>
struct Decoder {
  VF low, high;  // kTable
  VF zero;       // otherwise
  HWY_INLINE VF operator()(VU v) const {
    if constexpr (kTable) {
      return Lookup16(low, high, v);
    } else {
      return hn::Sub(hn::ConvertTo(DF(), LowBits(v, kBits)), zero);
    }
  }
};

// Sums over one vector of words, j after j.
template <int kTile, int kBits, class Decode>
HWY_INLINE void AddWords(VU v, const Decode& decode, const float* x, int64_t x_stride, VF (&sum)[kTile]) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  for (size_t j = 0; j < 32 / kBits; ++j) {
    const VF value = decode(v);
    for (int i = 0; i < kTile; ++i) {
      sum[i] = hn::MulAdd(value, hn::LoadU(df, x + i * x_stride + static_cast<int64_t>(j * lanes)), sum[i]);
    }
    v = hn::ShiftRight<kBits>(v);
  }
}

template <bool kCodebook, int kBits, int kTile>
HWY_INLINE void DotWords(const WeightView& w, const Words& words, int64_t n, const float* x, float* out) {
  const DF df;
  const DU du;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
  const std::byte* row = w.data + n * words.count * 4;
  const float* scales = w.scales + n * words.blocks;
  const float* zeros = kCodebook || w.zeros == nullptr ? nullptr : w.zeros + n * words.blocks;
  VF total[kTile];
  for (int i = 0; i < kTile; ++i) total[i] = hn::Zero(df);
  // Sixteen lanes hold every 4-bit code, and every pair of 2-bit codes, of which the low one counts.
  constexpr bool kTable = kCodebook || (kTableLanes == 16 && kBits <= 4);
  Decoder<kTable, kBits> decode;
  VF codes = hn::Zero(df);
  if constexpr (kCodebook) {
    decode.low = hn::LoadU(df, w.table);
    decode.high = kTableLanes == 8 ? hn::LoadU(df, w.table + 8) : decode.low;
  } else {
    codes = hn::ConvertTo(df, LowBits(hn::Iota(du, 0), kBits));
    decode.zero = hn::Set(df, w.default_zero);
    decode.low = decode.high = hn::Sub(codes, decode.zero);
  }
  if (w.block % words.chunk == 0) {  // a block is whole vectors
    const int64_t vectors = w.block / words.chunk;
    int64_t at = 0;
    for (int64_t g = 0; g < words.blocks; ++g) {
      if (zeros != nullptr) {
        decode.zero = hn::Set(df, zeros[g]);
        decode.low = decode.high = hn::Sub(codes, decode.zero);
      }
      VF sum[kTile];
      for (int i = 0; i < kTile; ++i) sum[i] = hn::Zero(df);
      for (int64_t c = 0; c < vectors; ++c, ++at) {
        const VU v = LoadBytes(du, row + at * lanes * 4, static_cast<size_t>(lanes));
        AddWords<kTile, kBits>(v, decode, x + at * words.chunk, words.padded, sum);
      }
      const VF scale = hn::Set(df, scales[g]);
      for (int i = 0; i < kTile; ++i) total[i] = hn::MulAdd(sum[i], scale, total[i]);
    }
  } else {  // a vector holds several blocks: scales and zero points by lane
    const int64_t in_vector = words.chunk / w.block;
    const int64_t words_per_block = w.block / words.per_word;
    HWY_ALIGN int32_t lane_block[hn::MaxLanes(DI())];
    for (int64_t l = 0; l < lanes; ++l) lane_block[l] = static_cast<int32_t>(l / words_per_block);
    const auto of_lane = hn::SetTableIndices(df, lane_block);
    int64_t at = 0;
    for (int64_t g = 0; g < words.blocks; g += in_vector, ++at) {
      const size_t here = static_cast<size_t>(std::min(in_vector, words.blocks - g));
      const size_t have = static_cast<size_t>(std::min(lanes, words.count - at * lanes));
      const VU v = LoadBytes(du, row + at * lanes * 4, have);
      VF sum[kTile];
      for (int i = 0; i < kTile; ++i) sum[i] = hn::Zero(df);
      if constexpr (kCodebook) {
        AddWords<kTile, kBits>(v, decode, x + at * words.chunk, words.padded, sum);
      } else {
        Decoder<false, kBits> by_lane;
        by_lane.zero = zeros == nullptr ? decode.zero : hn::TableLookupLanes(hn::LoadN(df, zeros + g, here), of_lane);
        AddWords<kTile, kBits>(v, by_lane, x + at * words.chunk, words.padded, sum);
      }
      const VF scale = hn::TableLookupLanes(hn::LoadN(df, scales + g, here), of_lane);
      for (int i = 0; i < kTile; ++i) total[i] = hn::MulAdd(sum[i], scale, total[i]);
    }
  }
  for (int i = 0; i < kTile; ++i) out[i] = hn::ReduceSum(df, total[i]);
}

template <bool kCodebook, int kBits>
HWY_INLINE void DotWordsTile(const WeightView& w, const Words& words, int64_t n, const float* x, int64_t tile,
                             float* out) {
  switch (tile) {
    case 1:
      return DotWords<kCodebook, kBits, 1>(w, words, n, x, out);
    case 2:
      return DotWords<kCodebook, kBits, 2>(w, words, n, x, out);
    case 3:
      return DotWords<kCodebook, kBits, 3>(w, words, n, x, out);
    default:
      return DotWords<kCodebook, kBits, 4>(w, words, n, x, out);
  }
}

void DotPacked(const WeightView& w, const Words& words, int64_t n, const float* x, int64_t tile, float* out) {
  if (w.type == WeightType::kCodebook) return DotWordsTile<true, 4>(w, words, n, x, tile, out);
  if (w.bits == 2) return DotWordsTile<false, 2>(w, words, n, x, tile, out);
  if (w.bits == 8) return DotWordsTile<false, 8>(w, words, n, x, tile, out);
  return DotWordsTile<false, 4>(w, words, n, x, tile, out);
}

// ---------------------------------------------------------------------------------------------- dequantization

constexpr int64_t kPiece = 256;  // codes unpacked at a time

// codes[i] = 4-bit code i of `bytes`, the first in the low nibble, or in the high one.
template <bool kHighFirst>
HWY_INLINE void UnpackNibbles(const uint8_t* bytes, int64_t count, uint8_t* codes) {
  const hn::CappedTag<uint8_t, 16> d8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d8));
  const auto low_mask = hn::Set(d8, uint8_t{15});
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto v = hn::LoadU(d8, bytes + i / 2);
    const auto low = hn::And(v, low_mask), high = hn::ShiftRight<4>(v);
    const auto first = kHighFirst ? high : low, second = kHighFirst ? low : high;
    hn::StoreU(hn::InterleaveLower(d8, first, second), d8, codes + i);
    hn::StoreU(hn::InterleaveUpper(d8, first, second), d8, codes + i + lanes);
  }
  for (; i < count; ++i) {
    codes[i] = static_cast<uint8_t>((i % 2 == 0) != kHighFirst ? bytes[i / 2] & 15 : bytes[i / 2] >> 4);
  }
}

// Codes [first, first + count) of a block's bytes.
HWY_INLINE void UnpackCodes(const uint8_t* bytes, int bits, int64_t first, int64_t count, uint8_t* codes) {
  if (bits == 8) {
    std::memcpy(codes, bytes + first, static_cast<size_t>(count));
  } else if (bits == 4 && first % 2 == 0) {
    UnpackNibbles<false>(bytes + first / 2, count, codes);
  } else {
    const int mask = (1 << bits) - 1;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t bit = (first + i) * bits;
      codes[i] = static_cast<uint8_t>(bytes[bit / 8] >> (bit % 8) & mask);
    }
  }
}

// dst = scale * (code - zero).
HWY_INLINE void ScaleCodes(const uint8_t* codes, int64_t count, float scale, float zero, float* dst) {
  const DF df;
  const hn::Rebind<uint8_t, DF> d8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
  const VF s = hn::Set(df, scale), z = hn::Set(df, zero);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const VF c = hn::ConvertTo(df, hn::PromoteTo(DI(), hn::LoadU(d8, codes + i)));
    hn::StoreU(hn::Mul(s, hn::Sub(c, z)), df, dst + i);
  }
  for (; i < count; ++i) dst[i] = scale * (static_cast<float>(codes[i]) - zero);
}

HWY_INLINE void LookupCodes(const uint8_t* codes, int64_t count, float scale, const float* table, float* dst) {
  int64_t i = 0;
  if constexpr (kTableLanes >= 8) {
    const DF df;
    const hn::Rebind<uint8_t, DF> d8;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
    const VF low = hn::LoadU(df, table), high = kTableLanes == 8 ? hn::LoadU(df, table + 8) : low,
             s = hn::Set(df, scale);
    for (; i + lanes <= count; i += lanes) {
      const VF v = Lookup16(low, high, hn::PromoteTo(DU(), hn::LoadU(d8, codes + i)));
      hn::StoreU(hn::Mul(v, s), df, dst + i);
    }
  }
  for (; i < count; ++i) dst[i] = table[codes[i]] * scale;
}

void DequantizeNBitsRow(const WeightView& w, int64_t n, int64_t begin, int64_t end, float* dst) {
  HWY_ALIGN uint8_t codes[kPiece];
  const uint8_t* data = reinterpret_cast<const uint8_t*>(w.data);
  for (int64_t k = begin; k < end;) {
    const int64_t g = k / w.block, at = n * w.blocks + g;
    const int64_t count = std::min({kPiece, end - k, (g + 1) * w.block - k});
    UnpackCodes(data + at * w.block_bytes, w.bits, k % w.block, count, codes);
    ScaleCodes(codes, count, w.scales[at], w.zeros == nullptr ? w.default_zero : w.zeros[at], dst);
    dst += count;
    k += count;
  }
}

void DequantizeCodebookRow(const WeightView& w, int64_t n, int64_t begin, int64_t end, float* dst) {
  HWY_ALIGN uint8_t codes[kPiece];
  const uint8_t* data = reinterpret_cast<const uint8_t*>(w.data);
  for (int64_t i = n * w.cols + begin, stop = n * w.cols + end; i < stop;) {
    int64_t count = std::min({kPiece, stop - i, (i / w.block + 1) * w.block - i});
    if (i % 2 != 0) {
      count = 1;
      codes[0] = data[i / 2] & 15;
    } else {
      UnpackNibbles<true>(data + i / 2, count, codes);
    }
    LookupCodes(codes, count, w.scales[i / w.block], w.table, dst);
    dst += count;
    i += count;
  }
}

template <WeightType type>
void WidenRow(const std::byte* row, int64_t begin, int64_t end, float* dst) {
  const DF df;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(df));
  for (int64_t k = begin; k < end; k += lanes) {
    const size_t count = static_cast<size_t>(std::min(lanes, end - k));
    const VF v = LoadWeights<type>(row, k, count);
    if (count == hn::Lanes(df)) {
      hn::StoreU(v, df, dst + (k - begin));
    } else {
      hn::StoreN(v, df, dst + (k - begin), count);
    }
  }
}

void DequantizeBlockT(const WeightView& w, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end, float* dst,
                      int64_t ld) {
  for (int64_t n = row_begin; n < row_end; ++n, dst += ld) {
    switch (w.type) {
      case WeightType::kF32:
        WidenRow<WeightType::kF32>(w.data + n * w.cols * 4, begin, end, dst);
        break;
      case WeightType::kF16:
        WidenRow<WeightType::kF16>(w.data + n * w.cols * 2, begin, end, dst);
        break;
      case WeightType::kBF16:
        WidenRow<WeightType::kBF16>(w.data + n * w.cols * 2, begin, end, dst);
        break;
      case WeightType::kNBits:
        DequantizeNBitsRow(w, n, begin, end, dst);
        break;
      case WeightType::kCodebook:
        DequantizeCodebookRow(w, n, begin, end, dst);
        break;
    }
  }
}

// ---------------------------------------------------------------------------------------------- few rows

int64_t SharedFloatsT(const WeightView& w, int64_t m) {
  const Words words = GetWords(w);
  return words.ok ? m * words.padded : 0;
}

int64_t ThreadFloatsT(const WeightView& w) {
  const bool packed = w.type == WeightType::kNBits || w.type == WeightType::kCodebook;
  return packed && !GetWords(w).ok ? w.cols : 0;
}

void PrepareT(const WeightView& w, const float* x, int64_t m, float* shared) {
  const Words words = GetWords(w);
  if (!words.ok) return;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  const int64_t swap = w.type == WeightType::kCodebook ? 1 : 0;  // the high nibble comes first
  for (int64_t i = 0; i < m; ++i, x += w.cols) {
    for (int64_t base = 0; base < words.padded; base += words.chunk, shared += words.chunk) {
      for (int64_t j = 0; j < words.per_word; ++j) {
        for (int64_t l = 0; l < lanes; ++l) {
          const int64_t k = base + l * words.per_word + (j ^ swap);
          shared[j * lanes + l] = k < w.cols ? x[k] : 0.0f;
        }
      }
    }
  }
}

void GemvT(const WeightView& w, const float* x, int64_t m, const float* shared, float* own, const float* bias,
           int64_t row_begin, int64_t row_end, float* y, int64_t ldy) {
  const Words words = GetWords(w);
  const bool packed = w.type == WeightType::kNBits || w.type == WeightType::kCodebook;
  const int64_t item = w.type == WeightType::kF32 ? 4 : 2;
  for (int64_t n = row_begin; n < row_end; ++n) {
    if (packed && !words.ok) DequantizeBlockT(w, n, n + 1, 0, w.cols, own, w.cols);
    for (int64_t i = 0; i < m; i += kMaxTile) {
      const int64_t tile = std::min(kMaxTile, m - i);
      float out[kMaxTile];
      if (!packed) {
        DotAny(w.type, w.data + n * w.cols * item, w.cols, x + i * w.cols, tile, out);
      } else if (words.ok) {
        DotPacked(w, words, n, shared + i * words.padded, tile, out);
      } else {
        DotAny(WeightType::kF32, reinterpret_cast<const std::byte*>(own), w.cols, x + i * w.cols, tile, out);
      }
      for (int64_t t = 0; t < tile; ++t) y[(i + t) * ldy + n] = bias == nullptr ? out[t] : out[t] + bias[n];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quant::kernels {

HWY_EXPORT(DequantizeBlockT);
HWY_EXPORT(SharedFloatsT);
HWY_EXPORT(ThreadFloatsT);
HWY_EXPORT(PrepareT);
HWY_EXPORT(GemvT);

void DequantizeBlock(const WeightView& w, int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end,
                     float* dst, int64_t ld) {
  HWY_DYNAMIC_DISPATCH(DequantizeBlockT)(w, row_begin, row_end, col_begin, col_end, dst, ld);
}
int64_t GemvSharedFloats(const WeightView& w, int64_t m) { return HWY_DYNAMIC_DISPATCH(SharedFloatsT)(w, m); }
int64_t GemvThreadFloats(const WeightView& w) { return HWY_DYNAMIC_DISPATCH(ThreadFloatsT)(w); }
void GemvPrepare(const WeightView& w, const float* x, int64_t m, float* shared) {
  HWY_DYNAMIC_DISPATCH(PrepareT)(w, x, m, shared);
}
void Gemv(const WeightView& w, const float* x, int64_t m, const float* shared, float* own, const float* bias,
          int64_t row_begin, int64_t row_end, float* y, int64_t ldy) {
  HWY_DYNAMIC_DISPATCH(GemvT)(w, x, m, shared, own, bias, row_begin, row_end, y, ldy);
}

}  // namespace quant::kernels
#endif  // HWY_ONCE

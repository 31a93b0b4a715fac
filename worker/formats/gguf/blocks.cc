// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/log/check.h"
#include "worker/tensor/dtype.h"

namespace quant {
namespace {

void PutFloat16(float value, std::string* out) {
  const uint16_t bits = FloatToFloat16(value);
  out->push_back(static_cast<char>(bits & 0xff));
  out->push_back(static_cast<char>(bits >> 8));
}

// Byte j holds elements j and j + 16.
void PutNibbles(const uint8_t* q, std::string* out) {
  for (int j = 0; j < 16; ++j) out->push_back(static_cast<char>(q[j] | q[j + 16] << 4));
}

void PutQ8(const float* x, std::string* out) {
  float most = 0;
  for (int i = 0; i < kGgufBlock; ++i) most = std::max(most, std::abs(x[i]));
  const float d = most / 127;
  const float inverse = d != 0 ? 1 / d : 0;
  PutFloat16(d, out);
  for (int i = 0; i < kGgufBlock; ++i)
    out->push_back(static_cast<char>(static_cast<int8_t>(std::round(x[i] * inverse))));
}

void PutQ4(const float* x, std::string* out) {
  float most = 0;  // with its sign
  for (int i = 0; i < kGgufBlock; ++i) {
    if (std::abs(x[i]) > std::abs(most)) most = x[i];
  }
  const float d = most / -8;
  const float inverse = d != 0 ? 1 / d : 0;
  PutFloat16(d, out);
  uint8_t q[kGgufBlock];
  for (int i = 0; i < kGgufBlock; ++i) {
    // NOLINTNEXTLINE(bugprone-incorrect-roundings): ggml's own rounding, of a value that is never negative
    q[i] = static_cast<uint8_t>(std::min(15, static_cast<int>(x[i] * inverse + 8.5f)));
  }
  PutNibbles(q, out);
}

void PutQ4Offset(const float* x, std::string* out) {
  const auto [least, most] = std::minmax_element(x, x + kGgufBlock);
  const float d = (*most - *least) / 15;
  const float inverse = d != 0 ? 1 / d : 0;
  PutFloat16(d, out);
  PutFloat16(*least, out);
  uint8_t q[kGgufBlock];
  for (int i = 0; i < kGgufBlock; ++i) {
    // NOLINTNEXTLINE(bugprone-incorrect-roundings): ggml's own rounding, of a value that is never negative
    q[i] = static_cast<uint8_t>(std::min(15, static_cast<int>((x[i] - *least) * inverse + 0.5f)));
  }
  PutNibbles(q, out);
}

bool IsFloat16(float v) { return Float16ToFloat(FloatToFloat16(v)) == v; }

// Whether every code minus its zero point lies in [least, most].
bool CodesWithin(const GroupedMatrix& w, int least, int most) {
  const int64_t groups = w.groups();
  for (int64_t r = 0; r < w.rows; ++r) {
    const uint8_t* codes = w.codes.data() + r * w.cols;
    for (int64_t g = 0; g < groups; ++g) {
      const int zero = static_cast<int>(w.zero(r, g));
      const int64_t end = std::min(w.cols, (g + 1) * w.group_size);
      for (int64_t c = g * w.group_size; c < end; ++c) {
        const int q = codes[c] - zero;
        if (q < least || q > most) return false;
      }
    }
  }
  return true;
}

GgufFit Requantized(int64_t cols, std::string reason) {
  return {.type = cols % kGgufBlock == 0 ? GgufType::kQ8_0 : GgufType::kF16, .reason = std::move(reason)};
}

GgufFit FitGrouped(const GroupedMatrix& w) {
  if (w.cols % kGgufBlock != 0) return Requantized(w.cols, "its inputs are no multiple of 32");
  if (!w.group_of.empty()) return Requantized(w.cols, "act-order with dynamic groups");
  if (w.group_size % kGgufBlock != 0) return Requantized(w.cols, "its group size is no multiple of 32");
  if (!std::all_of(w.scales.begin(), w.scales.end(), IsFloat16)) {
    return Requantized(w.cols, "its scales are no float16 numbers");
  }
  const bool integers = std::all_of(w.zeros.begin(), w.zeros.end(), [](float z) { return z == std::nearbyint(z); });
  if (integers && w.bits <= 4 && CodesWithin(w, -8, 7)) return {GgufType::kQ4_0, true, true, ""};
  if (w.bits > 4) {
    if (integers && CodesWithin(w, -128, 127)) return {GgufType::kQ8_0, true, true, ""};
    return Requantized(w.cols, "an asymmetric grid of 8 bits");
  }
  for (int64_t i = 0; i < static_cast<int64_t>(w.scales.size()); ++i) {
    const float offset = -w.scales[static_cast<size_t>(i)] * w.zeros[static_cast<size_t>(i)];
    if (!std::isfinite(Float16ToFloat(FloatToFloat16(offset)))) {
      return Requantized(w.cols, "an offset exceeds float16");
    }
    if (!IsFloat16(offset)) return {GgufType::kQ4_1, true, false, "its offsets are rounded to float16"};
  }
  return {GgufType::kQ4_1, true, true, ""};
}

void PackSameCodes(const GroupedMatrix& w, GgufType type, int64_t row, std::string* out) {
  const uint8_t* codes = w.codes.data() + row * w.cols;
  for (int64_t begin = 0; begin < w.cols; begin += kGgufBlock) {
    const int64_t g = begin / w.group_size;
    const float scale = w.scales[static_cast<size_t>(row * w.groups() + g)], zero = w.zero(row, g);
    PutFloat16(scale, out);
    uint8_t q[kGgufBlock];
    for (int i = 0; i < kGgufBlock; ++i) {
      const int code = codes[begin + i];
      if (type == GgufType::kQ4_1) {
        q[i] = static_cast<uint8_t>(code);
      } else {
        q[i] = static_cast<uint8_t>(code - static_cast<int>(zero) + (type == GgufType::kQ4_0 ? 8 : 0));
      }
    }
    if (type == GgufType::kQ8_0) {
      out->append(reinterpret_cast<const char*>(q), kGgufBlock);
      continue;
    }
    if (type == GgufType::kQ4_1) PutFloat16(-scale * zero, out);
    PutNibbles(q, out);
  }
}

}  // namespace

const char* GgufTypeName(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return "F32";
    case GgufType::kF16:
      return "F16";
    case GgufType::kQ4_0:
      return "Q4_0";
    case GgufType::kQ4_1:
      return "Q4_1";
    case GgufType::kQ8_0:
      return "Q8_0";
    case GgufType::kBF16:
      return "BF16";
  }
  return "unknown";
}

int64_t GgufRowBytes(GgufType type, int64_t cols) {
  switch (type) {
    case GgufType::kF32:
      return 4 * cols;
    case GgufType::kF16:
    case GgufType::kBF16:
      return 2 * cols;
    case GgufType::kQ4_0:
      return cols / kGgufBlock * 18;
    case GgufType::kQ4_1:
      return cols / kGgufBlock * 20;
    case GgufType::kQ8_0:
      return cols / kGgufBlock * 34;
  }
  return 0;
}

void QuantizeGgufRow(GgufType type, std::span<const float> x, std::string* out) {
  if (type == GgufType::kF32) {
    out->append(reinterpret_cast<const char*>(x.data()), x.size_bytes());
    return;
  }
  if (type == GgufType::kF16 || type == GgufType::kBF16) {
    for (const float v : x) {
      const uint16_t bits = type == GgufType::kF16 ? FloatToFloat16(v) : FloatToBFloat16(v);
      out->push_back(static_cast<char>(bits & 0xff));
      out->push_back(static_cast<char>(bits >> 8));
    }
    return;
  }
  CHECK_EQ(x.size() % kGgufBlock, 0u);
  for (size_t i = 0; i < x.size(); i += kGgufBlock) {
    if (type == GgufType::kQ8_0) PutQ8(x.data() + i, out);
    if (type == GgufType::kQ4_0) PutQ4(x.data() + i, out);
    if (type == GgufType::kQ4_1) PutQ4Offset(x.data() + i, out);
  }
}

GgufFit FitGguf(const WeightMatrix& weights) {
  if (const auto* w = std::get_if<GroupedMatrix>(&weights)) return FitGrouped(*w);
  return Requantized(Cols(weights), "a codebook (NF4, FP4)");
}

void PackGgufRow(const WeightMatrix& weights, const GgufFit& fit, int64_t row, std::string* out) {
  if (fit.same_codes) return PackSameCodes(std::get<GroupedMatrix>(weights), fit.type, row, out);
  std::vector<float> values(static_cast<size_t>(Cols(weights)));
  DequantizeRows(weights, row, row + 1, values);
  QuantizeGgufRow(fit.type, values, out);
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/nf4.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"
#include "worker/tensor/codebooks.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kNestedBlock = 256;

// A table in ascending order, the limits between neighbours, and the code of each place.
struct Sorted {
  std::array<float, 16> values;
  std::array<float, 15> limits;
  std::array<uint8_t, 16> code;
  uint8_t zero = 0;

  explicit Sorted(std::span<const float> table) {
    std::iota(code.begin(), code.end(), uint8_t{0});
    std::stable_sort(code.begin(), code.end(), [&](uint8_t a, uint8_t b) { return table[a] < table[b]; });
    for (size_t i = 0; i < 16; ++i) values[i] = table[code[i]];
    for (size_t i = 0; i < 15; ++i) limits[i] = (values[i] + values[i + 1]) / 2;
    for (size_t i = 16; i-- > 0;) {
      if (values[i] == 0 && !std::signbit(values[i])) zero = code[i];
    }
  }
};

const Sorted& SortedTable(FourBitCode code) {
  static const Sorted nf4{Nf4Table()};
  static const Sorted fp4{Fp4Table()};
  return code == FourBitCode::kNf4 ? nf4 : fp4;
}

// The entry of an ascending table nearest to x, the lower one at a midpoint.
uint8_t NearestOfMap(std::span<const float, 256> map, float x) {
  const auto above = static_cast<size_t>(std::lower_bound(map.begin(), map.end(), x) - map.begin());
  if (above == 0) return 0;
  if (above == map.size()) return 255;
  const float middle = (map[above - 1] + map[above]) / 2;
  return static_cast<uint8_t>(x > middle ? above : above - 1);
}

absl::Status Check(const MatrixView& weights, const CodebookOptions& options, size_t importance) {
  RETURN_IF_ERROR(CheckWeights(weights));
  if (options.block_size < 32 || options.block_size > 4096 ||
      !std::has_single_bit(static_cast<uint64_t>(options.block_size))) {
    return absl::InvalidArgumentError(
        absl::StrCat("block size ", options.block_size, "; powers of two from 32 to 4096 are possible"));
  }
  if (importance != 0 && static_cast<int64_t>(importance) != weights.cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("importance of ", importance, " columns for weights of ", weights.cols));
  }
  return absl::OkStatus();
}

class Encoder {
 public:
  Encoder(const MatrixView& weights, const CodebookOptions& options, std::span<const float> importance)
      : weights_(weights), options_(options), importance_(importance), table_(SortedTable(options.code)) {}

  float LargestMagnitude(int64_t block) const {
    const std::span<const float> w = Block(block);
    float lo = 0;
    float hi = 0;
    vec::MinMax(w.data(), w.size(), &lo, &hi);
    return std::max(-lo, hi);
  }

  // Least weighted error over magnitudes around the largest.
  float Search(int64_t block) const {
    const float largest = LargestMagnitude(block);
    if (largest == 0) return 0;
    const std::span<const float> w = Block(block);
    std::vector<float> h(w.size(), 1.0f);
    if (!importance_.empty()) {
      for (size_t i = 0; i < h.size(); ++i)
        h[i] = importance_[(static_cast<size_t>(block * options_.block_size) + i) % static_cast<size_t>(weights_.cols)];
    }
    std::vector<uint8_t> places(w.size());
    float best = largest;
    double least = Error(w, h, largest, places, nullptr);
    const auto attempt = [&](float magnitude, float* refit) {
      if (!(magnitude > 0) || !std::isfinite(magnitude)) return;
      const double error = Error(w, h, magnitude, places, refit);
      if (error < least) {
        least = error;
        best = magnitude;
      }
    };
    for (int i = -8; i <= 4; ++i) attempt(largest * (1 + 0.025f * static_cast<float>(i)), nullptr);
    for (int round = 0; round < 2; ++round) {
      float refit = 0;
      Error(w, h, best, places, &refit);
      attempt(refit, nullptr);
    }
    return best;
  }

  void Encode(int64_t block, float absmax, uint8_t* codes) const {
    const std::span<const float> w = Block(block);
    if (absmax == 0) {
      std::fill_n(codes, w.size(), table_.zero);
      return;
    }
    Places(w, absmax, codes);
    if (options_.code == FourBitCode::kNf4) return;  // ascending already
    for (size_t i = 0; i < w.size(); ++i) codes[i] = table_.code[codes[i]];
  }

 private:
  std::span<const float> Block(int64_t block) const {
    const auto begin = static_cast<size_t>(block * options_.block_size);
    const size_t count = std::min(weights_.values.size() - begin, static_cast<size_t>(options_.block_size));
    return weights_.values.subspan(begin, count);
  }

  void Places(std::span<const float> w, float absmax, uint8_t* places) const {
    // Times the reciprocal, as upstream does it, not divided: now and then another code.
    vec::EncodeTable(w.data(), w.size(), 1.0f / absmax, table_.limits.data(), places);
  }

  // sum h (value - w)^2; `refit` gets the magnitude of least error for the codes.
  double Error(std::span<const float> w, std::span<const float> h, float absmax, std::vector<uint8_t>& places,
               float* refit) const {
    Places(w, absmax, places.data());
    double sum = 0;
    double num = 0;
    double den = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const float v = table_.values[places[i]];
      const double e = static_cast<double>(v * absmax) - w[i];
      sum += h[i] * e * e;
      num += static_cast<double>(h[i]) * v * w[i];
      den += static_cast<double>(h[i]) * v * v;
    }
    if (refit != nullptr) *refit = den > 0 ? static_cast<float>(num / den) : 0;
    return sum;
  }

  const MatrixView& weights_;
  const CodebookOptions& options_;
  std::span<const float> importance_;
  const Sorted& table_;
};

// Replaces absmax by what the nested form gives back.
void Nest(CodebookMatrix& m) {
  const std::span<const float, 256> map = DynamicMap();
  m.nested_map.assign(map.begin(), map.end());
  m.nested_block = kNestedBlock;
  m.nested_offset =
      static_cast<float>(std::accumulate(m.absmax.begin(), m.absmax.end(), 0.0) / static_cast<double>(m.absmax.size()));
  m.nested_codes.resize(m.absmax.size());
  m.nested_absmax.resize((m.absmax.size() + kNestedBlock - 1) / kNestedBlock);
#pragma omp parallel for schedule(static)
  for (size_t begin = 0; begin < m.absmax.size(); begin += kNestedBlock) {
    const size_t end = std::min(m.absmax.size(), begin + kNestedBlock);
    float largest = 0;
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(m.absmax[i] - m.nested_offset));
    m.nested_absmax[begin / kNestedBlock] = largest;
    for (size_t i = begin; i < end; ++i) {
      const float x = largest > 0 ? (m.absmax[i] - m.nested_offset) / largest : 0;
      m.nested_codes[i] = NearestOfMap(map, x);
      m.absmax[i] = map[m.nested_codes[i]] * largest + m.nested_offset;
    }
  }
}

}  // namespace

std::span<const float, 256> DynamicMap() {
  // In float32, and each half of the interval from its own end, as torch.linspace counts: upstream's very bits.
  static const std::array<float, 256> map = [] {
    std::array<float, 256> values{};
    size_t at = 0;
    for (int i = 0; i < 7; ++i) {
      const int steps = 1 << i;
      const float step = (1.0f - 0.1f) / static_cast<float>(steps);
      const auto edge = [&](int k) {
        return k < (steps + 1) / 2 ? 0.1f + step * static_cast<float>(k) : 1.0f - step * static_cast<float>(steps - k);
      };
      const auto power = static_cast<float>(std::pow(10.0, i - 6));
      for (int k = 0; k < steps; ++k) {
        const float v = (edge(k) + edge(k + 1)) / 2 * power;
        values[at++] = v;
        values[at++] = -v;
      }
    }
    values[at++] = 0;
    values[at++] = 1;
    std::sort(values.begin(), values.end());
    return values;
  }();
  return map;
}

absl::StatusOr<CodebookMatrix> QuantizeCodebook(const MatrixView& weights, const CodebookOptions& options,
                                                std::span<const float> importance, int threads) {
  RETURN_IF_ERROR(Check(weights, options, importance.size()));
  float least = 0;
  float most = 0;
  if (!importance.empty()) vec::MinMax(importance.data(), importance.size(), &least, &most);
  const bool usable = vec::AllFinite(importance.data(), importance.size()) && least >= 0 && most > 0;
  CodebookMatrix out;
  out.rows = weights.rows;
  out.cols = weights.cols;
  out.block_size = options.block_size;
  out.fp4 = options.code == FourBitCode::kFp4;
  const std::span<const float> table = options.code == FourBitCode::kNf4 ? Nf4Table() : Fp4Table();
  out.codebook.assign(table.begin(), table.end());
  out.codes.resize(weights.values.size());
  out.absmax.resize(static_cast<size_t>(out.blocks()));
  const Encoder encoder(weights, options, usable ? importance : std::span<const float>());
  const int64_t blocks = out.blocks();
  const ThreadScope scope(threads);
  const auto encode_all = [&] {
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; ++b) {
      encoder.Encode(b, out.absmax[static_cast<size_t>(b)], out.codes.data() + b * options.block_size);
    }
  };
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    out.absmax[static_cast<size_t>(b)] = options.search ? encoder.Search(b) : encoder.LargestMagnitude(b);
  }
  const bool codes_for_exact = options.double_quantization && !options.search;
  if (codes_for_exact) encode_all();
  if (options.double_quantization) Nest(out);
  if (!codes_for_exact) encode_all();
  return out;
}

}  // namespace quant::weight_only

// SPDX-License-Identifier: Apache-2.0
// Data for the tests of this folder: layers whose inputs are correlated and have outlier channels, as real ones do.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_TESTING_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/grid.h"

namespace quant::weight_only::testing {

struct Layer {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;
  std::vector<float> w;         // [rows, cols]
  std::vector<float> x;         // [tokens, cols]: calibration
  std::vector<float> held_out;  // [tokens, cols]
  HessianMatrix hessian;        // of x

  MatrixView view() const { return {w, rows, cols}; }
};

inline HessianMatrix HessianOf(const std::vector<float>& x, int64_t tokens, int64_t cols) {
  Hessian hessian = Hessian::Create(cols, HessianArithmetic::kFloat32).value();
  hessian.Add(x, tokens).IgnoreError();
  return std::move(hessian).Finish();
}

// Inputs: cols / 8 common factors and noise, log-normal channel magnitudes; weights: heavy-tailed (a normal divided by
// a uniform's root).
inline Layer MakeLayer(int64_t rows, int64_t cols, int64_t tokens, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0.2f, 1.0f);
  Layer layer{.rows = rows, .cols = cols, .tokens = tokens};
  const int64_t factors = std::max<int64_t>(1, cols / 8);
  std::vector<float> mix(static_cast<size_t>(factors * cols));
  for (float& m : mix) m = normal(random) / std::sqrt(static_cast<float>(factors));
  std::vector<float> magnitude(static_cast<size_t>(cols));
  for (float& m : magnitude) m = std::exp(0.8f * normal(random));
  const auto draw = [&](std::vector<float>& x) {
    x.resize(static_cast<size_t>(tokens * cols));
    std::vector<float> f(static_cast<size_t>(factors));
    for (int64_t t = 0; t < tokens; ++t) {
      for (float& v : f) v = normal(random);
      for (int64_t c = 0; c < cols; ++c) {
        float sum = 0.3f * normal(random);
        for (int64_t k = 0; k < factors; ++k) sum += f[static_cast<size_t>(k)] * mix[static_cast<size_t>(k * cols + c)];
        x[static_cast<size_t>(t * cols + c)] = sum * magnitude[static_cast<size_t>(c)];
      }
    }
  };
  draw(layer.x);
  draw(layer.held_out);
  layer.w.resize(static_cast<size_t>(rows * cols));
  for (float& w : layer.w) w = 0.02f * normal(random) / std::sqrt(uniform(random));
  layer.hessian = HessianOf(layer.x, tokens, cols);
  return layer;
}

}  // namespace quant::weight_only::testing

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_TESTING_H_

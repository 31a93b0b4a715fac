// SPDX-License-Identifier: Apache-2.0
// Vector kernels of transformer layers, float32, one CPU thread each: normalizations, rotary embedding, gated SiLU, and
// the inner loops of attention. Pointers need only the alignment of float. Sums are in float32 in an order that depends
// on the instruction set.
#ifndef QUANT_WORKER_RUNTIME_KERNELS_DECODER_H_
#define QUANT_WORKER_RUNTIME_KERNELS_DECODER_H_

#include <cstddef>
#include <cstdint>

namespace quant::kernels {

// dst[i] = src[i] / sqrt(mean(src^2) + epsilon) * scale[i] for each of `rows` rows of n.
void RmsNormRows(const float* src, int64_t rows, int64_t n, float epsilon, const float* scale, float* dst);

// dst[i] = (src[i] - mean) / sqrt(variance + epsilon) * scale[i] + shift[i]; shift may be null. Two passes.
void LayerNormRows(const float* src, int64_t rows, int64_t n, float epsilon, const float* scale, const float* shift,
                   float* dst);

// dst[i] = gate[i] * sigmoid(gate[i]) * up[i]; up may be null (1). dst may be either source.
void SiluMul(const float* gate, const float* up, int64_t n, float* dst);

// Rotates `half` pairs of one head: (x[k], x[k + half]), or (x[2k], x[2k + 1]) when interleaved. dst must not overlap
// x.
void RotateHead(const float* x, const float* cos, const float* sin, int64_t half, bool interleaved, float* dst);

// scores[j] = sum over d of q[d] * keys[j * stride + d] for j in [0, n).
void DotRows(const float* q, const float* keys, int64_t stride, int64_t n, int64_t d, float* scores);

// out[c] = sum over j of p[j] * values[j * stride + c] for c in [0, d).
void WeightedSum(const float* p, const float* values, int64_t stride, int64_t n, int64_t d, float* out);

// In place: p = softmax(softcap(scale * p) + mask), softcap(s) = softcap * tanh(s / softcap) unless softcap is 0; mask
// may be null. All zeros when every entry of the mask is minus infinity.
void SoftmaxScores(float* p, int64_t n, float scale, float softcap, const float* mask);

}  // namespace quant::kernels

#endif  // QUANT_WORKER_RUNTIME_KERNELS_DECODER_H_

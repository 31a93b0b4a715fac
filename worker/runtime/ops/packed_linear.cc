// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/ops/packed_linear.h"

#include <algorithm>
#include <array>

#include "worker/tensor/packing.h"

namespace quant::ops {
namespace {

constexpr size_t kCodes = 1, kScales = 2, kZeros = 3, kGroupIndex = 4, kBias = 5, kTable = 3;

absl::Status CheckMatrix(int64_t rows, int64_t cols, int64_t block, const TensorDesc& x) {
  const bool fits =
      rows > 0 && cols > 0 && block > 0 && block <= kMaxAttribute && ElementCount(std::array{rows, cols}).ok();
  if (!fits) return Invalid("N ", rows, ", K ", cols, ", block_size ", block, " make no matrix");
  RETURN_IF_ERROR(CheckFloat(x, "A"));
  if (!x.shape.empty() && x.shape.back() == cols) return absl::OkStatus();
  return Invalid("A has shape ", ShapeString(x.shape), "; its last dimension must be K = ", cols);
}

absl::Status CheckConstant(const TensorDesc& desc, bool fits_type, int64_t want, const char* what) {
  if (fits_type && Product(desc.shape) == want) return absl::OkStatus();
  return Invalid(what, " is ", DTypeName(desc.dtype), " ", ShapeString(desc.shape), "; ", want, " elements are needed");
}

void SetOutput(const TensorDesc& x, int64_t rows, OutDescs out) {
  out[0].dtype = x.dtype;
  out[0].shape = x.shape;
  out[0].shape.back() = rows;
}

absl::Status InferNBits(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 6));
  ASSIGN_OR_RETURN(const NBitsShape s, GetNBitsShape(node, in));
  SetOutput(*in[0], s.rows, out);
  return absl::OkStatus();
}

absl::Status InferCodebook(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 4, 4));
  ASSIGN_OR_RETURN(const CodebookShape s, GetCodebookShape(node, in));
  SetOutput(*in[0], s.rows, out);
  return absl::OkStatus();
}

std::vector<TensorDesc> DescsOf(Inputs in) {
  std::vector<TensorDesc> descs(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] != nullptr) descs[i] = {in[i]->dtype(), in[i]->shape(), in[i]};
  }
  return descs;
}

std::vector<const TensorDesc*> Pointers(Inputs in, const std::vector<TensorDesc>& descs) {
  std::vector<const TensorDesc*> pointers(in.size(), nullptr);
  for (size_t i = 0; i < in.size(); ++i) pointers[i] = in[i] == nullptr ? nullptr : &descs[i];
  return pointers;
}

// y[m, n] = sum over k of x[m, k] * weight(n, k) + bias[n]. Some columns of a row at a time are decoded into `weights`
// and serve several rows of x.
template <typename Decode>  // decode(n, begin, end, float* weights)
void Multiply(int64_t rows, int64_t cols, const Tensor& x, const float* bias, Tensor& y, Decode decode) {
  constexpr int64_t kChunk = 256, kTile = 16;
  std::array<float, kChunk> weights;
  const int64_t count = x.elements() / cols;
  const float* from = Ptr<float>(x);
  float* to = MutablePtr<float>(y);
  for (int64_t m = 0; m < count; m += kTile) {
    const int64_t tile = std::min(kTile, count - m);
    for (int64_t n = 0; n < rows; ++n) {
      std::array<double, kTile> sum{};
      for (int64_t k = 0; k < cols; k += kChunk) {
        const int64_t width = std::min(kChunk, cols - k);
        decode(n, k, k + width, weights.data());
        for (int64_t i = 0; i < tile; ++i) {
          const float* row = from + (m + i) * cols + k;
          double s = 0;
          for (int64_t c = 0; c < width; ++c)
            s += static_cast<double>(row[c]) * static_cast<double>(weights[static_cast<size_t>(c)]);
          sum[static_cast<size_t>(i)] += s;
        }
      }
      for (int64_t i = 0; i < tile; ++i) {
        const double add = bias == nullptr ? 0.0 : static_cast<double>(bias[n]);
        to[(m + i) * rows + n] = static_cast<float>(sum[static_cast<size_t>(i)] + add);
      }
    }
  }
}

int CodeAt(const uint8_t* bytes, int64_t i, int bits) {
  const int64_t bit = i * bits;  // 2, 4 and 8 bits never cross bytes
  return bytes[bit / 8] >> (bit % 8) & ((1 << bits) - 1);
}

absl::Status ComputeNBits(const Node& node, Inputs in, Outputs out) {
  const std::vector<TensorDesc> descs = DescsOf(in);
  ASSIGN_OR_RETURN(const NBitsShape s, GetNBitsShape(node, Pointers(in, descs)));
  const uint8_t* codes = Ptr<uint8_t>(*in[kCodes]);
  const float* scales = Ptr<float>(*in[kScales]);
  const Tensor* zeros = At(in, kZeros);
  const Tensor* bias = At(in, kBias);
  const auto zero = [&](int64_t n, int64_t g) {
    if (zeros == nullptr) return static_cast<float>(s.default_zero());
    if (s.packed_zeros) return static_cast<float>(CodeAt(Ptr<uint8_t>(*zeros) + n * s.zero_bytes, g, s.bits));
    return Ptr<float>(*zeros)[n * s.blocks + g];
  };
  Multiply(s.rows, s.cols, *in[0], bias ? Ptr<float>(*bias) : nullptr, out[0],
           [&](int64_t n, int64_t begin, int64_t end, float* weights) {
             for (int64_t k = begin; k < end; ++k) {
               const int64_t g = k / s.block, at = n * s.blocks + g;
               const int code = CodeAt(codes + at * s.block_bytes, k % s.block, s.bits);
               weights[k - begin] = scales[at] * (static_cast<float>(code) - zero(n, g));
             }
           });
  return absl::OkStatus();
}

absl::Status ComputeCodebook(const Node& node, Inputs in, Outputs out) {
  const std::vector<TensorDesc> descs = DescsOf(in);
  ASSIGN_OR_RETURN(const CodebookShape s, GetCodebookShape(node, Pointers(in, descs)));
  const uint8_t* codes = Ptr<uint8_t>(*in[kCodes]);
  const float *absmax = Ptr<float>(*in[kScales]), *table = Ptr<float>(*in[kTable]);
  Multiply(s.rows, s.cols, *in[0], nullptr, out[0], [&](int64_t n, int64_t begin, int64_t end, float* weights) {
    for (int64_t i = n * s.cols + begin; i < n * s.cols + end; ++i) {
      const int code = i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15;
      *weights++ = table[code] * absmax[i / s.block];
    }
  });
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"MatMulCodebook", {InferCodebook, ViaFloat<ComputeCodebook>}, "quantd"},
    {"MatMulNBits", {InferNBits, ViaFloat<ComputeNBits>}, "com.microsoft"},
};

}  // namespace

absl::StatusOr<NBitsShape> GetNBitsShape(const Node& node, Descs in) {
  NBitsShape s;
  s.rows = node.Int("N", 0);
  s.cols = node.Int("K", 0);
  s.block = node.Int("block_size", 0);
  const int64_t bits = node.Int("bits", 4);
  if (bits != 2 && bits != 4 && bits != 8) return Invalid("bits is ", bits, "; there are 2, 4 and 8");
  s.bits = static_cast<int>(bits);
  RETURN_IF_ERROR(CheckMatrix(s.rows, s.cols, s.block, *in[0]));
  if (At(in, kGroupIndex) != nullptr) return Unsupported("g_idx is not supported; a Gather in front does the same");
  s.blocks = (s.cols + s.block - 1) / s.block;
  s.block_bytes = static_cast<int64_t>(PackedBytes(static_cast<size_t>(s.block), s.bits));
  s.zero_bytes = static_cast<int64_t>(PackedBytes(static_cast<size_t>(s.blocks), s.bits));
  // No overflow: rows * cols is at most kMaxElements, and a row has less than block_size bytes more.
  if (s.rows > kMaxElements / (s.blocks * s.block_bytes)) return Invalid("block_size ", s.block, " is too large");
  RETURN_IF_ERROR(
      CheckConstant(*in[kCodes], in[kCodes]->dtype == DType::kUInt8, s.rows * s.blocks * s.block_bytes, "B"));
  RETURN_IF_ERROR(CheckConstant(*in[kScales], IsFloat(in[kScales]->dtype), s.rows * s.blocks, "scales"));
  if (const TensorDesc* zeros = At(in, kZeros)) {
    s.packed_zeros = zeros->dtype == DType::kUInt8;
    RETURN_IF_ERROR(CheckConstant(*zeros, s.packed_zeros || IsFloat(zeros->dtype),
                                  s.rows * (s.packed_zeros ? s.zero_bytes : s.blocks), "zero_points"));
  }
  if (const TensorDesc* bias = At(in, kBias)) {
    RETURN_IF_ERROR(CheckConstant(*bias, IsFloat(bias->dtype), s.rows, "bias"));
  }
  return s;
}

std::vector<float> UnpackZeros(const NBitsShape& s, const Tensor& zeros) {
  std::vector<float> all(static_cast<size_t>(s.rows * s.blocks));
  const uint8_t* bytes = Ptr<uint8_t>(zeros);
  for (int64_t n = 0; n < s.rows; ++n) {
    for (int64_t g = 0; g < s.blocks; ++g) {
      all[static_cast<size_t>(n * s.blocks + g)] = static_cast<float>(CodeAt(bytes + n * s.zero_bytes, g, s.bits));
    }
  }
  return all;
}

absl::StatusOr<CodebookShape> GetCodebookShape(const Node& node, Descs in) {
  CodebookShape s;
  s.rows = node.Int("N", 0);
  s.cols = node.Int("K", 0);
  s.block = node.Int("block_size", 0);
  RETURN_IF_ERROR(CheckMatrix(s.rows, s.cols, s.block, *in[0]));
  s.blocks = (s.rows * s.cols + s.block - 1) / s.block;
  RETURN_IF_ERROR(CheckConstant(*in[kCodes], in[kCodes]->dtype == DType::kUInt8, (s.rows * s.cols + 1) / 2, "B"));
  RETURN_IF_ERROR(CheckConstant(*in[kScales], IsFloat(in[kScales]->dtype), s.blocks, "absmax"));
  RETURN_IF_ERROR(CheckConstant(*in[kTable], IsFloat(in[kTable]->dtype), 16, "codebook"));
  return s;
}

std::span<const OpEntry> PackedLinearOps() { return kOps; }

}  // namespace quant::ops

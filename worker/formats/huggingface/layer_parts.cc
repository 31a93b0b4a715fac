// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/layer_parts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/tensor/packing.h"

namespace quant {
namespace {

// Rows that share cache lines of a transposed matrix of 4-byte words.
constexpr int64_t kLane = 16;

}  // namespace

absl::Status LayerError(std::string_view module, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("layer ", Quoted(module), ": ", AbslView(what)));
}

const Tensor* LayerParts::Find(std::string_view suffix) const {
  return checkpoint_.Find(absl::StrCat(module_, AbslView(suffix)));
}

absl::StatusOr<const Tensor*> LayerParts::Get(std::string_view suffix, std::initializer_list<DType> dtypes,
                                              std::initializer_list<int64_t> shape) const {
  const Tensor* t = Find(suffix);
  if (t == nullptr) return Error(absl::StrCat("there is no tensor ", Quoted(absl::StrCat(module_, AbslView(suffix)))));
  std::vector<std::string> names;
  for (const DType d : dtypes) names.push_back(DTypeName(d));
  if (std::find(dtypes.begin(), dtypes.end(), t->dtype()) == dtypes.end()) {
    return Error(absl::StrCat(AbslView(suffix.substr(1)), " is ", DTypeName(t->dtype()), "; it must be ",
                              absl::StrJoin(names, " or ")));
  }
  bool same = t->rank() == static_cast<int>(shape.size());
  int axis = 0;
  for (const int64_t want : shape) {
    same = same && (want < 0 ? t->dim(axis) > 0 : t->dim(axis) == want);
    ++axis;
  }
  if (same) return t;
  std::vector<std::string> wanted;
  for (const int64_t want : shape) wanted.push_back(want < 0 ? "any" : absl::StrCat(want));
  return Error(absl::StrCat(AbslView(suffix.substr(1)), " has shape ", ShapeString(t->shape()), "; it must be [",
                            absl::StrJoin(wanted, ","), "]"));
}

absl::StatusOr<std::vector<float>> LayerParts::Floats(std::string_view suffix,
                                                      std::initializer_list<int64_t> shape) const {
  ASSIGN_OR_RETURN(const Tensor* t, Get(suffix, {DType::kFloat16, DType::kBFloat16, DType::kFloat32}, shape));
  ASSIGN_OR_RETURN(std::vector<float> values, ToFloat(*t));
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    return Error(absl::StrCat(AbslView(suffix.substr(1)), " has ", values[i], " at element ", i));
  }
  return values;
}

absl::StatusOr<std::vector<uint32_t>> LayerParts::Words(std::string_view suffix,
                                                        std::initializer_list<int64_t> shape) const {
  ASSIGN_OR_RETURN(const Tensor* t, Get(suffix, {DType::kInt32}, shape));
  std::vector<uint32_t> words(static_cast<size_t>(t->elements()));
  if (!words.empty()) std::memcpy(words.data(), t->bytes().data(), words.size() * sizeof(uint32_t));
  return words;
}

absl::StatusOr<std::vector<int32_t>> LayerParts::GroupOf(std::string_view suffix, int64_t cols,
                                                         int64_t group_size) const {
  if (Find(suffix) == nullptr) return std::vector<int32_t>();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> words, Words(suffix, {cols}));
  const int64_t groups = (cols + group_size - 1) / group_size;
  std::vector<int32_t> group_of(words.size());
  bool plain = true;
  for (size_t i = 0; i < words.size(); ++i) {
    group_of[i] = static_cast<int32_t>(words[i]);
    if (group_of[i] < 0 || group_of[i] >= groups) {
      return Error(absl::StrCat(AbslView(suffix.substr(1)), " puts input ", i, " into group ", group_of[i],
                                "; there are groups 0 to ", groups - 1));
    }
    plain = plain && group_of[i] == static_cast<int64_t>(i) / group_size;
  }
  if (plain) group_of.clear();
  return group_of;
}

absl::StatusOr<Tensor> WordTensor(std::span<const uint32_t> words, Shape shape) {
  ASSIGN_OR_RETURN(Tensor t, Tensor::Allocate(DType::kInt32, std::move(shape)));
  if (t.bytes().size() != words.size_bytes()) return absl::InternalError("words do not fit their shape");
  if (!words.empty()) std::memcpy(t.mutable_bytes().data(), words.data(), words.size_bytes());
  return t;
}

void PackWords(std::span<const uint8_t> codes, int bits, std::span<uint32_t> words) {
  std::fill(words.begin(), words.end(), 0);
  PackBits(codes, bits, {reinterpret_cast<uint8_t*>(words.data()), words.size_bytes()});
}

void UnpackWords(std::span<const uint32_t> words, int bits, std::span<uint8_t> codes) {
  UnpackBits({reinterpret_cast<const uint8_t*>(words.data()), words.size_bytes()}, bits, codes);
}

absl::StatusOr<Tensor> PackRows(std::span<const uint8_t> codes, int64_t rows, int64_t cols, int bits) {
  const int64_t per_row = (cols * bits + 31) / 32;
  ASSIGN_OR_RETURN(Tensor out, Tensor::Allocate(DType::kInt32, {rows, per_row}));
  auto* words = reinterpret_cast<uint32_t*>(out.mutable_bytes().data());
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    PackWords(codes.subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)), bits,
              {words + r * per_row, static_cast<size_t>(per_row)});
  }
  return out;
}

absl::StatusOr<Tensor> PackDown(std::span<const uint8_t> codes, int64_t rows, int64_t cols, int bits) {
  const int64_t per_row = cols * bits / 32;
  ASSIGN_OR_RETURN(Tensor out, Tensor::Allocate(DType::kInt32, {per_row, rows}));
  auto* words = reinterpret_cast<uint32_t*>(out.mutable_bytes().data());
#pragma omp parallel
  {
    std::vector<uint32_t> lane(static_cast<size_t>(per_row * kLane));
#pragma omp for schedule(static)
    for (int64_t begin = 0; begin < rows; begin += kLane) {
      const int64_t count = std::min(kLane, rows - begin);
      for (int64_t i = 0; i < count; ++i) {
        PackWords(codes.subspan(static_cast<size_t>((begin + i) * cols), static_cast<size_t>(cols)), bits,
                  std::span(lane).subspan(static_cast<size_t>(i * per_row), static_cast<size_t>(per_row)));
      }
      for (int64_t w = 0; w < per_row; ++w) {
        for (int64_t i = 0; i < count; ++i) {
          words[w * rows + begin + i] = lane[static_cast<size_t>(i * per_row + w)];
        }
      }
    }
  }
  return out;
}

void UnpackDown(std::span<const uint32_t> words, int64_t rows, int64_t cols, int bits, std::span<uint8_t> codes) {
  const int64_t per_row = cols * bits / 32;
  std::vector<uint32_t> lane(static_cast<size_t>(per_row * kLane));
  for (int64_t begin = 0; begin < rows; begin += kLane) {
    const int64_t count = std::min(kLane, rows - begin);
    for (int64_t w = 0; w < per_row; ++w) {
      for (int64_t i = 0; i < count; ++i) {
        lane[static_cast<size_t>(i * per_row + w)] = words[static_cast<size_t>(w * rows + begin + i)];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      UnpackWords(std::span(lane).subspan(static_cast<size_t>(i * per_row), static_cast<size_t>(per_row)), bits,
                  codes.subspan(static_cast<size_t>((begin + i) * cols), static_cast<size_t>(cols)));
    }
  }
}

void DropMiddleZeros(GroupedMatrix* w) {
  const float middle = static_cast<float>(1 << (w->bits - 1));
  if (std::all_of(w->zeros.begin(), w->zeros.end(), [&](float z) { return z == middle; })) w->zeros.clear();
}

}  // namespace quant

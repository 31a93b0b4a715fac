// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/dataset/source.h"

namespace quant {
namespace {

std::string DimsString(const ValueInfo& v) {
  std::vector<std::string> dims;
  dims.reserve(v.shape.size());
  for (const Dim& d : v.shape) dims.push_back(d.known() ? absl::StrCat(d.value) : d.symbol.empty() ? "?" : d.symbol);
  return absl::StrCat("[", absl::StrJoin(dims, ","), "]");
}

// Whether an integer dtype can hold v.
bool Fits(int64_t v, DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return std::in_range<int8_t>(v);
    case DType::kUInt8:
      return std::in_range<uint8_t>(v);
    case DType::kInt16:
      return std::in_range<int16_t>(v);
    case DType::kUInt16:
      return std::in_range<uint16_t>(v);
    case DType::kInt32:
      return std::in_range<int32_t>(v);
    case DType::kUInt32:
      return std::in_range<uint32_t>(v);
    case DType::kUInt64:
      return v >= 0;
    case DType::kBool:
      return v == 0 || v == 1;
    default:
      return true;
  }
}

class ArraySource : public Source {
 public:
  ArraySource(Tensor array, ValueInfo input) : array_(std::move(array)), input_(std::move(input)) {}

  int64_t size() const override { return array_.dim(0); }

  absl::StatusOr<Tensor> Read(int64_t begin, int64_t count) override {
    Shape shape = array_.shape();
    shape[0] = count;
    const size_t sample = array_.bytes().size() / static_cast<size_t>(size());
    const std::span<const std::byte> bytes =
        array_.bytes().subspan(static_cast<size_t>(begin) * sample, static_cast<size_t>(count) * sample);
    // The mapping may be unaligned, a batch is not: copied, then converted if it must be.
    ASSIGN_OR_RETURN(Tensor batch, Tensor::Allocate(array_.dtype(), shape));
    if (!bytes.empty()) std::memcpy(batch.mutable_bytes().data(), bytes.data(), bytes.size());
    if (!IsFloat(input_.dtype) && batch.dtype() != input_.dtype) RETURN_IF_ERROR(CheckRange(batch, begin));
    if (batch.dtype() != input_.dtype) {
      ASSIGN_OR_RETURN(batch, Cast(batch, input_.dtype));
    }
    if (IsFloat(input_.dtype)) RETURN_IF_ERROR(CheckFinite(batch, begin));
    return batch;
  }

 private:
  int64_t SampleOf(size_t element, const Tensor& batch, int64_t begin) const {
    return begin + static_cast<int64_t>(element) / (batch.elements() / batch.dim(0));
  }

  absl::Status CheckRange(const Tensor& batch, int64_t begin) const {
    ASSIGN_OR_RETURN(const std::vector<int64_t> values, ToInt64(batch));
    for (size_t i = 0; i < values.size(); ++i) {
      if (Fits(values[i], input_.dtype)) continue;
      return absl::InvalidArgumentError(absl::StrCat("sample ", SampleOf(i, batch, begin), " of input ",
                                                     Quoted(input_.name), " holds ", values[i], ", which does not fit ",
                                                     DTypeName(input_.dtype)));
    }
    return absl::OkStatus();
  }

  absl::Status CheckFinite(const Tensor& batch, int64_t begin) const {
    const auto bad = [&](size_t i, float v) {
      return absl::InvalidArgumentError(absl::StrCat(
          "sample ", SampleOf(i, batch, begin), " of input ", Quoted(input_.name), " holds ",
          std::isnan(v) ? "NaN" : "an infinite value", " (as ", DTypeName(input_.dtype), "); clean the data"));
    };
    if (batch.dtype() == DType::kFloat32) {
      const std::span<const float> values = batch.data<float>();
      for (size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) return bad(i, values[i]);
      }
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(batch));
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) return bad(i, values[i]);
    }
    return absl::OkStatus();
  }

  const Tensor array_;
  const ValueInfo input_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> MakeArraySource(const std::string& array_name, Tensor array,
                                                        const ValueInfo& input) {
  const std::string what =
      absl::StrCat("array ", Quoted(array_name), ", ", DTypeName(array.dtype()), " ", ShapeString(array.shape()),
                   ", does not fit input ", Quoted(input.name), ", ", DTypeName(input.dtype),
                   input.has_shape ? absl::StrCat(" ", DimsString(input)) : "");
  if (array.rank() < 1) return absl::InvalidArgumentError(absl::StrCat(what, ": its first axis must be the samples"));
  if (IsFloat(array.dtype()) && !IsFloat(input.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the input wants integers"));
  }
  if (DTypeBits(input.dtype) < 8)
    return absl::UnimplementedError(absl::StrCat(what, ": 4-bit inputs are not supported"));
  if (input.has_shape) {
    if (static_cast<int>(input.shape.size()) != array.rank()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": it must have ", input.shape.size(), " axes, the first being the samples"));
    }
    for (size_t i = 1; i < input.shape.size(); ++i) {
      if (input.shape[i].known() && input.shape[i].value != array.shape()[i]) {
        return absl::InvalidArgumentError(
            absl::StrCat(what, ": axis ", i, " is ", array.shape()[i], ", the model wants ", input.shape[i].value));
      }
    }
  }
  return std::make_unique<ArraySource>(std::move(array), input);
}

}  // namespace quant

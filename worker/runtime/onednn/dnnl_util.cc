// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/dnnl_util.h"

#include <algorithm>
#include <cstring>

#include "absl/log/log.h"

namespace quant::onednn {

using dnnl::memory;

bool LayoutsCoincide(std::span<const int64_t> shape) {
  if (shape.size() < 3 || shape[1] == 1) return true;
  return std::all_of(shape.begin() + 2, shape.end(), [](int64_t d) { return d == 1; });
}

memory::dims LayoutStrides(std::span<const int64_t> shape, Layout layout) {
  memory::dims strides(shape.size());
  int64_t stride = 1;
  const bool channels_last = layout == Layout::kChannelsLast && shape.size() >= 3;
  if (channels_last) {
    strides[1] = 1;
    stride = shape[1];
  }
  for (size_t i = shape.size(); i-- > 0;) {
    if (channels_last && i == 1) continue;
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

bool HasDnnlType(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kInt8 || dtype == DType::kUInt8 || dtype == DType::kInt32;
}

memory::data_type DnnlType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return memory::data_type::f32;
    case DType::kInt8:
      return memory::data_type::s8;
    case DType::kUInt8:
      return memory::data_type::u8;
    case DType::kInt32:
      return memory::data_type::s32;
    default:
      LOG(FATAL) << "oneDNN has no type for " << DTypeName(dtype);
  }
}

memory::desc Desc(DType dtype, std::span<const int64_t> shape, Layout layout) {
  if (shape.empty()) return memory::desc({1}, DnnlType(dtype), memory::dims{1});
  return memory::desc(memory::dims(shape.begin(), shape.end()), DnnlType(dtype), LayoutStrides(shape, layout));
}

const dnnl::engine& CpuEngine() {
  static const dnnl::engine& engine = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& CpuStream() {
  static dnnl::stream& stream = *new dnnl::stream(CpuEngine());
  return stream;
}

namespace {
template <typename T>
memory Vector(std::span<const T> values, memory::data_type type) {
  memory m(memory::desc({static_cast<memory::dim>(values.size())}, type, memory::dims{1}), CpuEngine());
  std::memcpy(m.get_data_handle(), values.data(), values.size_bytes());
  return m;
}
}  // namespace

memory VectorMemory(std::span<const float> values) { return Vector(values, memory::data_type::f32); }
memory VectorMemory(std::span<const int32_t> values) { return Vector(values, memory::data_type::s32); }

bool IsReference(const char* impl) {
  const std::string_view name = impl;
  return name.starts_with("ref") || name.starts_with("simple:any");
}

}  // namespace quant::onednn

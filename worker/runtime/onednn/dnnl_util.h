// SPDX-License-Identifier: Apache-2.0
// oneDNN's C++ API in our terms: layouts, memory descriptors, and its exceptions turned into absl::Status. Internal to
// worker/runtime/onednn, the only folder that includes dnnl.hpp.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_DNNL_UTIL_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_DNNL_UTIL_H_

#include <omp.h>

#include <cstdint>
#include <new>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "worker/tensor/tensor.h"

namespace quant::onednn {

// Order of a value's elements in memory, both dense. kPlain is row-major, as ONNX has it. kChannelsLast moves dimension
// 1 to the end ([N, C, H, W] is stored as N, H, W, C): the order in which oneDNN's fast convolutions, in float32 and
// int8, read and write on every instruction set. Values of rank below 3 only have kPlain.
enum class Layout : uint8_t { kPlain = 0, kChannelsLast = 1 };

// Whether both layouts are the same bytes: rank below 3, one channel, or one element per channel.
bool LayoutsCoincide(std::span<const int64_t> shape);

// Strides in elements of a value in `layout`.
dnnl::memory::dims LayoutStrides(std::span<const int64_t> shape, Layout layout);

// Descriptor of a value; rank 0 becomes one dimension of 1. The dtype must be one that HasDnnlType.
bool HasDnnlType(DType dtype);
dnnl::memory::data_type DnnlType(DType dtype);
dnnl::memory::desc Desc(DType dtype, std::span<const int64_t> shape, Layout layout);

// The CPU engine and its stream, shared by the process (oneDNN's are thread-safe).
const dnnl::engine& CpuEngine();
dnnl::stream& CpuStream();

// A dense one-dimensional f32 or s32 memory holding copies of the values.
dnnl::memory VectorMemory(std::span<const float> values);
dnnl::memory VectorMemory(std::span<const int32_t> values);

// "ref:any" and the like: oneDNN's plain loops.
bool IsReference(const char* impl);

// Runs f, which returns a Status or StatusOr, and turns what oneDNN throws into INTERNAL (its message) or
// RESOURCE_EXHAUSTED (out of memory), so that no exception leaves the calling file.
template <typename F>
auto Guard(std::string_view what, const F& f) -> decltype(f()) {
  try {
    return f();
  } catch (const dnnl::error& e) {
    const std::string message = absl::StrCat("oneDNN: ", absl::string_view(what.data(), what.size()), ": ", e.what());
    if (e.status == dnnl_out_of_memory) return absl::ResourceExhaustedError(message);
    return absl::InternalError(message);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("out of memory: ", absl::string_view(what.data(), what.size())));
  }
}

// Sets the number of OpenMP threads of the calling thread, and sets it back. oneDNN wants a primitive made under the
// number it runs with.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_DNNL_UTIL_H_

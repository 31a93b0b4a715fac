// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/plan.h"

#include <cstring>

namespace quant::onednn {

using dnnl::memory;

namespace {

size_t PaddedElements(const memory::desc& desc) {
  size_t count = 1;
  for (const int64_t d : desc.get_padded_dims()) count *= static_cast<size_t>(d);
  return count;
}

// Copies a dense tensor of `dims` with `src_strides` into a blocked layout, offset by offset; padding becomes zero.
template <typename T>
void PackInto(const memory::desc& desc, const memory::dims& src_strides, const T* src, T* dst) {
  const memory::dims dims = desc.get_dims(), strides = desc.get_strides();
  const memory::dims blocks = desc.get_inner_blks(), block_dims = desc.get_inner_idxs();
  const size_t rank = dims.size();
  // The offset is a sum over dimensions: one table for each.
  std::vector<std::vector<int64_t>> offsets(rank);
  for (size_t d = 0; d < rank; ++d) {
    for (int64_t i = 0; i < dims[d]; ++i) {
      int64_t offset = 0, block_stride = 1, position = i;
      for (size_t b = blocks.size(); b-- > 0;) {
        if (block_dims[b] == static_cast<int64_t>(d)) {
          offset += position % blocks[b] * block_stride;
          position /= blocks[b];
        }
        block_stride *= blocks[b];
      }
      offsets[d].push_back(offset + position * strides[d]);
    }
  }
  std::memset(dst, 0, PaddedElements(desc) * sizeof(T));
  std::vector<int64_t> at(rank, 0);
  const size_t last = rank - 1;
  for (;;) {
    int64_t from = 0, to = 0;
    for (size_t d = 0; d < last; ++d) {
      from += at[d] * src_strides[d];
      to += offsets[d][static_cast<size_t>(at[d])];
    }
    for (int64_t i = 0; i < dims[last]; ++i) {
      dst[to + offsets[last][static_cast<size_t>(i)]] = src[from + i * src_strides[last]];
    }
    size_t d = last;
    while (d-- > 0) {
      if (++at[d] < dims[d]) break;
      at[d] = 0;
    }
    if (d == static_cast<size_t>(-1)) return;
  }
}

bool IsPlainBlocked(const memory::desc& desc) {
  return PaddedElements(desc) * memory::data_type_size(desc.get_data_type()) == desc.get_size();
}

}  // namespace

memory WeightCache::Get(const std::string& key, const memory::desc& desc, const std::function<memory()>& plain) {
  std::vector<memory>& known = memories_[key];
  for (const memory& m : known) {
    if (m.get_desc() == desc) return m;
  }
  memory source = plain();
  memory packed(desc, CpuEngine());
  // oneDNN 3.7's own reorder (jit:uni) leaves out values and padding of blocked layouts for many shapes, f32 under
  // AVX-512 and s8 everywhere: upstream issue 3280. So elements are placed here. Only the compensation sums that follow
  // the elements of some int8 layouts are oneDNN's; another implementation of its reorder writes them.
  if (!IsPlainBlocked(desc)) {
    dnnl::reorder(source, packed).execute(CpuStream(), source, packed);
    CpuStream().wait();
  }
  const memory::dims strides = source.get_desc().get_strides();
  if (desc.get_data_type() == memory::data_type::s8) {
    PackInto(desc, strides, static_cast<const int8_t*>(source.get_data_handle()),
             static_cast<int8_t*>(packed.get_data_handle()));
  } else {
    PackInto(desc, strides, static_cast<const float*>(source.get_data_handle()),
             static_cast<float*>(packed.get_data_handle()));
  }
  known.push_back(packed);
  bytes_ += static_cast<int64_t>(desc.get_size());
  return packed;
}

std::span<const float> WeightCache::Floats(const std::string& key, const std::function<std::vector<float>()>& make) {
  const auto [it, is_new] = floats_.try_emplace(key);
  if (is_new) {
    it->second = make();
    bytes_ += static_cast<int64_t>(it->second.size() * sizeof(float));
  }
  return it->second;
}

absl::Status Plan::Run(std::span<const Tensor> inputs) {
  for (const InputUse& use : inputs_) {
    pointers_[static_cast<size_t>(use.buffer)] = const_cast<std::byte*>(inputs[use.input].bytes().data());
  }
  for (auto& [mem, buffer] : input_memories_) {
    // The C call: it cannot throw, and fails only for a null handle.
    dnnl_memory_set_data_handle(mem.get(), pointers_[static_cast<size_t>(buffer)]);
  }
  const ThreadScope restore(omp_get_max_threads());
  int threads = omp_get_max_threads();
  for (const Step& step : steps_) {
    if (step.threads != threads) {
      threads = step.threads;
      omp_set_num_threads(threads);
    }
    if (absl::Status status = step.run(pointers_); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("node '", step.node, "': ", status.message()));
    }
  }
  return absl::OkStatus();
}

std::string Plan::Describe() const {
  std::string text;
  for (const Step& step : steps_) absl::StrAppend(&text, step.node, ": ", step.what, " x", step.threads, "\n");
  return text;
}

}  // namespace quant::onednn

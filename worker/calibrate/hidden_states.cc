// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/hidden_states.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {

absl::StatusOr<HiddenStates> HiddenStates::Create(std::vector<int64_t> tokens, int64_t width, int64_t budget_bytes,
                                                  const std::filesystem::path& spill_folder) {
  HiddenStates h;
  h.width_ = width;
  int64_t total = 0;
  for (const int64_t t : tokens) {
    h.offsets_.push_back(static_cast<size_t>(total) * 2);
    total += t * width;
  }
  h.tokens_ = std::move(tokens);
  h.size_ = static_cast<size_t>(total) * 2;
  if (static_cast<int64_t>(h.size_) <= budget_bytes || h.size_ == 0) {
    absl::StatusOr<Tensor> memory = Tensor::Allocate(DType::kBFloat16, {total});
    if (!memory.ok()) return memory.status();
    h.memory_ = *std::move(memory);
    h.data_ = h.memory_.mutable_bytes().data();
    return h;
  }
  std::string name = (spill_folder / "hidden-XXXXXX").string();
  const UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("creating ", name));
  ::unlink(name.c_str());
  if (const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(h.size_)); error != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("the hidden states need ", h.size_ >> 20, " MiB in ",
                                                     spill_folder.string(), ": ", strerror(error),
                                                     "; use fewer calibration samples or a cache on a larger disk"));
  }
  void* mapped = ::mmap(nullptr, h.size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) return absl::ErrnoToStatus(errno, "mapping the hidden states' file");
  h.data_ = static_cast<std::byte*>(mapped);
  h.mapped_ = true;
  return h;
}

HiddenStates::HiddenStates(HiddenStates&& o) noexcept
    : tokens_(std::move(o.tokens_)),
      offsets_(std::move(o.offsets_)),
      width_(o.width_),
      data_(std::exchange(o.data_, nullptr)),
      size_(std::exchange(o.size_, 0)),
      mapped_(std::exchange(o.mapped_, false)),
      memory_(std::move(o.memory_)) {}

HiddenStates& HiddenStates::operator=(HiddenStates&& other) noexcept {
  std::swap(tokens_, other.tokens_);
  std::swap(offsets_, other.offsets_);
  std::swap(width_, other.width_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  std::swap(memory_, other.memory_);
  return *this;
}

HiddenStates::~HiddenStates() {
  if (mapped_) ::munmap(data_, size_);
}

absl::StatusOr<Tensor> HiddenStates::Read(size_t sample) const {
  const int64_t count = tokens_[sample] * width_;
  absl::StatusOr<Tensor> out = Tensor::Allocate(DType::kFloat32, {1, tokens_[sample], width_});
  if (!out.ok()) return out.status();
  const std::span<float> dst = out->mutable_data<float>();
  const uint16_t* src = reinterpret_cast<const uint16_t*>(data_ + offsets_[sample]);
  for (int64_t i = 0; i < count; ++i) dst[static_cast<size_t>(i)] = BFloat16ToFloat(src[i]);
  // What was spilled stays on disk: its pages are not this process's memory.
  if (mapped_) ReleasePages({data_ + offsets_[sample], static_cast<size_t>(count) * 2});
  return out;
}

absl::Status HiddenStates::Write(size_t sample, const Tensor& values) {
  const int64_t count = tokens_[sample] * width_;
  if (values.dtype() != DType::kFloat32 || values.elements() != count) {
    return absl::InvalidArgumentError(absl::StrCat("hidden states of sample ", sample, " are ",
                                                   DTypeName(values.dtype()), ShapeString(values.shape()),
                                                   ", not float32 of ", count, " values"));
  }
  const std::span<const float> src = values.data<float>();
  uint16_t* dst = reinterpret_cast<uint16_t*>(data_ + offsets_[sample]);
  for (int64_t i = 0; i < count; ++i) {
    const float v = src[static_cast<size_t>(i)];
    if (!std::isfinite(v)) {
      return absl::InvalidArgumentError(absl::StrCat("the hidden state of sample ", sample, " is ", v, " at token ",
                                                     i / width_, ", channel ", i % width_));
    }
    dst[i] = FloatToBFloat16(v);
  }
  return absl::OkStatus();
}

}  // namespace quant

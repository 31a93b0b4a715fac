// SPDX-License-Identifier: Apache-2.0
// HiddenStates: the residual stream of every calibration sample between two blocks of a language model, in bfloat16: in
// memory up to a budget, beyond it in an unlinked temporary file that is memory-mapped. One block's inputs are replaced
// by its outputs, sample by sample.
//
// Thread-safety: thread-compatible.
#ifndef QUANT_WORKER_CALIBRATE_HIDDEN_STATES_H_
#define QUANT_WORKER_CALIBRATE_HIDDEN_STATES_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "worker/tensor/tensor.h"

namespace quant {

class HiddenStates {
 public:
  // Room for samples of these many tokens, `width` values each. When they need more than `budget_bytes` together, they
  // lie in a file in `spill_folder`. RESOURCE_EXHAUSTED: neither memory nor disk has the room.
  static absl::StatusOr<HiddenStates> Create(std::vector<int64_t> tokens, int64_t width, int64_t budget_bytes,
                                             const std::filesystem::path& spill_folder);
  HiddenStates(HiddenStates&& other) noexcept;
  HiddenStates& operator=(HiddenStates&& other) noexcept;
  ~HiddenStates();

  size_t samples() const { return tokens_.size(); }
  int64_t tokens(size_t sample) const { return tokens_[sample]; }
  int64_t width() const { return width_; }
  bool spilled() const { return mapped_; }

  // [1, tokens, width] as float32.
  absl::StatusOr<Tensor> Read(size_t sample) const;
  // From float32 of that shape, rounded half to even. INVALID_ARGUMENT: another shape, or a value that is NaN or
  // infinite (its token is named): the block's outputs are broken.
  absl::Status Write(size_t sample, const Tensor& values);

  // All samples, in order: what a resume point stores and restores.
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::span<std::byte> mutable_bytes() { return {data_, size_}; }

 private:
  HiddenStates() = default;

  std::vector<int64_t> tokens_;
  std::vector<size_t> offsets_;  // in bytes
  int64_t width_ = 0;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;
  Tensor memory_;  // owns data_ when not mapped
};

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_HIDDEN_STATES_H_

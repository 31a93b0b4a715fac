// SPDX-License-Identifier: Apache-2.0
// NumPy's .npz: a zip archive of .npy files, as numpy.savez (stored) and savez_compressed (deflated) write it.
//
// Zip layout (PKWARE APPNOTE.TXT 4.3, 4.5.3): the central directory at the end is the truth; local headers must agree
// with it. Stored members are borrowed from the mapping, deflated ones are inflated into memory. Archives are not
// trusted: sizes are capped, CRC-32 is checked, and encrypted, split, overlapping or oddly named members are refused.
#ifndef QUANT_WORKER_FORMATS_NPY_NPZ_H_
#define QUANT_WORKER_FORMATS_NPY_NPZ_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

struct NpzOptions {
  int64_t max_inflated_bytes = int64_t{2} << 30;  // of all deflated members together
  int max_members = 10'000;
};

// The arrays by name, without ".npy". INVALID_ARGUMENT naming the member; RESOURCE_EXHAUSTED past max_inflated_bytes
// (numpy.savez, uncompressed, has no such limit).
absl::StatusOr<std::map<std::string, Tensor>> ReadNpz(const std::filesystem::path& file,
                                                      const NpzOptions& options = {});

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_NPY_NPZ_H_

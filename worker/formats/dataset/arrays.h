// SPDX-License-Identifier: Apache-2.0
// The arrays of a dataset folder. Internal to formats/dataset.
#ifndef QUANT_WORKER_FORMATS_DATASET_ARRAYS_H_
#define QUANT_WORKER_FORMATS_DATASET_ARRAYS_H_

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

// By name: an .npy file's without the ending, a member's of an .npz, a tensor's of a .safetensors.
using Arrays = std::map<std::string, Tensor>;

// The regular files directly in `folder`, sorted.
absl::StatusOr<std::vector<std::filesystem::path>> ListFiles(const std::filesystem::path& folder);

// The arrays of those `files` that hold arrays. INVALID_ARGUMENT naming the file when it is malformed or a name comes
// twice.
absl::StatusOr<Arrays> ReadArrays(const std::vector<std::filesystem::path>& files);

// At most 20 of their names for a message; "none" when there are none.
std::string ArrayNames(const Arrays& arrays);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_DATASET_ARRAYS_H_

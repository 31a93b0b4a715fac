// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/arrays.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/npy/npy.h"
#include "worker/formats/npy/npz.h"
#include "worker/formats/safetensors/safetensors.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

absl::Status AddArray(const std::string& file, std::string name, Tensor array, Arrays& arrays) {
  if (arrays.emplace(name, std::move(array)).second) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("array ", Quoted(name), " of ", Quoted(file), " is in another file too"));
}

}  // namespace

absl::StatusOr<std::vector<fs::path>> ListFiles(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error)) files.push_back(it->path());
  }
  if (error) return absl::ErrnoToStatus(error.value(), "cannot list the dataset");
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<Arrays> ReadArrays(const std::vector<fs::path>& files) {
  Arrays arrays;
  for (const fs::path& file : files) {
    const std::string label = file.filename().string();
    if (file.extension() == ".npy") {
      ASSIGN_OR_RETURN(Tensor array, ReadNpy(file));
      RETURN_IF_ERROR(AddArray(label, file.stem().string(), std::move(array), arrays));
    } else if (file.extension() == ".npz") {
      ASSIGN_OR_RETURN(Arrays members, ReadNpz(file));
      for (auto& [name, array] : members) RETURN_IF_ERROR(AddArray(label, name, std::move(array), arrays));
    } else if (file.extension() == ".safetensors") {
      ASSIGN_OR_RETURN(SafetensorsFile members, ReadSafetensors(file));
      for (auto& [name, array] : members.tensors) RETURN_IF_ERROR(AddArray(label, name, std::move(array), arrays));
    }
  }
  return arrays;
}

std::string ArrayNames(const Arrays& arrays) {
  std::vector<std::string> names;
  for (const auto& [name, array] : arrays) {
    if (names.size() < 20) names.push_back(Quoted(name));
  }
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

}  // namespace quant

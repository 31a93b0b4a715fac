// SPDX-License-Identifier: Apache-2.0
// Reading a JSON object from an untrusted file.
#ifndef QUANT_WORKER_FORMATS_FILE_JSON_FILE_H_
#define QUANT_WORKER_FORMATS_FILE_JSON_FILE_H_

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace quant {

// The object in `file`. INVALID_ARGUMENT with the file's name: longer than `max_bytes`, nested deeper than 32, not
// JSON, not an object, a link; else as MappedFile::OpenBeneath. Memory is up to some twenty times the file.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& file, size_t max_bytes);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_FILE_JSON_FILE_H_

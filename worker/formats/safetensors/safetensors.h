// SPDX-License-Identifier: Apache-2.0
// Reads one .safetensors file without copying.
//
// File: u64 N (little-endian), N bytes of JSON, data to the end. JSON: name -> {"dtype", "shape", "data_offsets":
// [begin, end]} relative to the data, and "__metadata__": string -> string (huggingface/safetensors README, "Format").
// Everything the reference reader enforces is enforced, and what it lets pass (duplicate keys, unknown fields, a header
// that does not begin with '{') is refused.
#ifndef QUANT_WORKER_FORMATS_SAFETENSORS_SAFETENSORS_H_
#define QUANT_WORKER_FORMATS_SAFETENSORS_SAFETENSORS_H_

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

struct SafetensorsFile {
  std::map<std::string, Tensor> tensors;  // borrowed from the mapping; may be unaligned
  std::map<std::string, std::string> metadata;
};

// "F32", "BF16", ...; null for the 4-bit types, which the format does not have in this form.
const char* SafetensorsTypeName(DType dtype);

// Place of the type in the order by which the reference writer sorts tensors (later ones come first in the file).
int SafetensorsTypeRank(DType dtype);

// INVALID_ARGUMENT: malformed, naming the tensor where there is one: header size, UTF-8 or JSON, an entry without its
// three fields, shape and offsets that disagree, holes, overlaps or bytes left over. UNIMPLEMENTED: float4, float6,
// float8 and complex tensors.
absl::StatusOr<SafetensorsFile> ParseSafetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

// Maps `file`. Errors as above, with the file's name, and as MappedFile::Open.
absl::StatusOr<SafetensorsFile> ReadSafetensors(const std::filesystem::path& file);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_SAFETENSORS_SAFETENSORS_H_

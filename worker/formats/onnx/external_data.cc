// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/onnx/external_data.h"

#include <cstdint>
#include <optional>
#include <set>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "onnx/onnx_pb.h"
#include "worker/formats/onnx/tensor_proto.h"

namespace quant {
namespace {

struct Range {
  std::string location;
  int64_t offset = 0;
  std::optional<int64_t> length;
};

absl::StatusOr<int64_t> ParseSize(std::string_view key, const std::string& value) {
  int64_t n = 0;
  const bool digits = !value.empty() && value.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || !absl::SimpleAtoi(value, &n)) {
    return absl::InvalidArgumentError(
        absl::StrCat("external data: ", AbslView(key), " is ", Quoted(value), ", not a number of bytes"));
  }
  return n;
}

absl::StatusOr<Range> ParseRange(const onnx::TensorProto& proto) {
  Range range;
  std::set<std::string> seen;
  for (const auto& entry : proto.external_data()) {
    const std::string& key = entry.key();
    if (!seen.insert(key).second) {
      return absl::InvalidArgumentError(absl::StrCat("external data: key ", Quoted(key), " repeats"));
    }
    if (key == "location") {
      range.location = entry.value();
    } else if (key == "offset") {
      ASSIGN_OR_RETURN(range.offset, ParseSize(key, entry.value()));
    } else if (key == "length") {
      ASSIGN_OR_RETURN(range.length, ParseSize(key, entry.value()));
    } else if (key != "checksum") {  // SHA-1 by the format, optional; blobs are already verified by SHA-256
      return absl::InvalidArgumentError(absl::StrCat("external data: unknown key ", Quoted(key)));
    }
  }
  if (range.location.empty()) return absl::InvalidArgumentError("external data: no location");
  return range;
}

}  // namespace

absl::StatusOr<Tensor> ExternalData::Read(const onnx::TensorProto& proto) {
  ASSIGN_OR_RETURN(const Range range, ParseRange(proto));
  ASSIGN_OR_RETURN(const int64_t need, DeclaredBytes(proto));
  ASSIGN_OR_RETURN(const DType dtype, FromOnnxType(proto.data_type()));
  if (range.length.has_value() && *range.length != need) {
    return absl::InvalidArgumentError(
        absl::StrCat("external data: length is ", *range.length, " bytes, dtype and shape need ", need));
  }
  auto it = files_.find(range.location);
  if (it == files_.end()) {
    absl::StatusOr<std::shared_ptr<const MappedFile>> file = MappedFile::OpenBeneath(folder_, range.location);
    if (absl::IsNotFound(file.status())) {
      return absl::InvalidArgumentError(absl::StrCat("external data: ", Quoted(range.location),
                                                     " is not there; upload the folder with all its files"));
    }
    if (!file.ok()) return absl::Status(file.status().code(), absl::StrCat("external data: ", file.status().message()));
    it = files_.emplace(range.location, *std::move(file)).first;
  }
  const std::span<const std::byte> bytes = it->second->bytes();
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (range.offset > size || need > size - range.offset) {
    return absl::InvalidArgumentError(absl::StrCat("external data: ", need, " bytes at offset ", range.offset, " of ",
                                                   Quoted(range.location), " reach past its end at ", size));
  }
  return Tensor::Borrow(dtype, Shape(proto.dims().begin(), proto.dims().end()),
                        bytes.subspan(static_cast<size_t>(range.offset), static_cast<size_t>(need)), it->second);
}

}  // namespace quant

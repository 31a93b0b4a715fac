// SPDX-License-Identifier: Apache-2.0
#include "worker/job/phase_point.h"

#include <cstdint>
#include <system_error>
#include <utility>

#include "absl/log/log.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "worker/formats/safetensors/safetensors.h"
#include "worker/formats/safetensors/writer.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

constexpr char kFile[] = "model.safetensors";

// Of all numbers and text: a disk that lost some must not change a result.
std::string DigestOf(const PhasePoint::Content& content) {
  Sha256 digest;
  for (const auto& [key, value] : content.text) digest.Update(absl::StrCat(key, "=", value, "\n"));
  for (const auto& [name, tensor] : content.tensors) {
    digest.Update(absl::StrCat(name, "\n"));
    digest.Update(std::string_view(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size()));
  }
  return digest.Finish();
}

absl::StatusOr<PhasePoint::Content> Read(const fs::path& path, const std::string& fingerprint) {
  ASSIGN_OR_RETURN(SafetensorsFile file, ReadSafetensors(path));
  const auto take = [&](const char* key) {
    const auto node = file.metadata.extract(key);
    return node.empty() ? std::string() : node.mapped();
  };
  if (take("fingerprint") != fingerprint) return absl::FailedPreconditionError("it is of another run");
  const std::string digest = take("digest");
  PhasePoint::Content content{.tensors = {}, .text = std::move(file.metadata)};
  for (const auto& [name, tensor] : file.tensors) {
    ASSIGN_OR_RETURN(content.tensors[name], tensor.Clone());
  }
  if (digest != DigestOf(content)) return absl::DataLossError("its numbers are not those that were written");
  return content;
}

}  // namespace

PhasePoint::PhasePoint(const fs::path& folder, std::string_view phase, std::string fingerprint, absl::Duration interval)
    : folder_(folder.empty() ? fs::path() : folder / phase),
      fingerprint_(std::move(fingerprint)),
      interval_(interval),
      saved_(absl::Now()) {}

std::optional<PhasePoint::Content> PhasePoint::Load() {
  std::error_code error;
  if (folder_.empty() || !fs::exists(folder_ / kFile, error)) return std::nullopt;
  absl::StatusOr<Content> read = Read(folder_ / kFile, fingerprint_);
  if (read.ok()) return *std::move(read);
  Clear(read.status());
  return std::nullopt;
}

void PhasePoint::Tell(absl::FunctionRef<Content()> content) {
  if (folder_.empty() || absl::Now() - saved_ < interval_) return;
  if (const absl::Status status = Save(content()); !status.ok()) {
    LOG(WARNING) << "no resume point in " << folder_.string() << ": " << status.message();
  }
  saved_ = absl::Now();
}

absl::Status PhasePoint::Save(const Content& content) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("making ", folder_.string()));
  std::map<std::string, std::string> metadata = content.text;
  metadata["fingerprint"] = fingerprint_;
  metadata["digest"] = DigestOf(content);
  ASSIGN_OR_RETURN(const auto writer,
                   SafetensorsWriter::Create(folder_, {.max_file_bytes = INT64_MAX,
                                                       .expected_tensors = static_cast<int64_t>(content.tensors.size()),
                                                       .metadata = std::move(metadata)}));
  for (const auto& [name, tensor] : content.tensors) RETURN_IF_ERROR(writer->Add(name, tensor));
  return writer->Finish();
}

void PhasePoint::Clear(const absl::Status& why) {
  if (folder_.empty()) return;
  if (!why.ok()) LOG(WARNING) << "the resume point in " << folder_.string() << " is not used: " << why.message();
  std::error_code error;
  fs::remove_all(folder_, error);
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "common/error_detail.h"

#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "common/proto_time.h"
#include "common/strings.h"
#include "quant/v1/errors.pb.h"

namespace quant {
namespace {

std::string Utf8(std::string s) { return IsValidUtf8(s) ? std::move(s) : Quoted(s, s.size()); }

std::optional<v1::ErrorDetail> DetailOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kErrorDetailUrl);
  if (!payload.has_value()) return std::nullopt;
  v1::ErrorDetail detail;
  if (!detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason, std::map<std::string, std::string> metadata,
                        absl::Duration retry_after) {
  if (status.ok()) return status;
  v1::ErrorDetail detail;
  detail.set_reason(Utf8(std::string(reason)));
  for (auto& [key, value] : metadata) (*detail.mutable_metadata())[Utf8(key)] = Utf8(std::move(value));
  if (retry_after > absl::ZeroDuration()) SetProto(retry_after, detail.mutable_retry_after());
  status.SetPayload(kErrorDetailUrl, absl::Cord(detail.SerializeAsString()));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const auto detail = DetailOf(status);
  return detail ? detail->reason() : "";
}

std::string MetadataOf(const absl::Status& status, std::string_view key) {
  const auto detail = DetailOf(status);
  if (!detail) return "";
  const auto it = detail->metadata().find(std::string(key));
  return it == detail->metadata().end() ? "" : it->second;
}

absl::Duration RetryAfterOf(const absl::Status& status) {
  const auto detail = DetailOf(status);
  return detail ? FromProto(detail->retry_after()) : absl::ZeroDuration();
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "common/grpc_status.h"

#include <string>
#include <string_view>

#include "absl/strings/cord.h"
#include "common/error_detail.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr size_t kMaxMessage = 4096;
constexpr size_t kMaxDetail = 4096;

std::string Clean(std::string_view message) {
  if (message.size() > kMaxMessage || !IsValidUtf8(message)) {
    std::string quoted = Quoted(message, kMaxMessage);
    return quoted.substr(1, quoted.size() - 2);
  }
  return std::string(message);
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string detail;
  if (const auto payload = status.GetPayload(kErrorDetailUrl); payload.has_value() && payload->size() <= kMaxDetail) {
    detail = std::string(*payload);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), Clean(StdView(status.message())), detail);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  int code = static_cast<int>(status.error_code());
  if (code < 1 || code > 16) code = static_cast<int>(absl::StatusCode::kUnknown);
  absl::Status result(static_cast<absl::StatusCode>(code), AbslView(Clean(status.error_message())));
  if (const std::string detail = status.error_details(); !detail.empty() && detail.size() <= kMaxDetail) {
    result.SetPayload(kErrorDetailUrl, absl::Cord(detail));
  }
  return result;
}

}  // namespace quant

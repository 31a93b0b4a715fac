// SPDX-License-Identifier: Apache-2.0
#include "server/auth/principal.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/strings.h"

namespace quant {

bool Principal::Sees(std::string_view owner) const { return role == Role::kOperator || tenant == owner; }

const Principal& OpenPrincipal() {
  static const auto* const principal = new Principal{.tenant = kDefaultTenant, .name = "", .role = Role::kOperator};
  return *principal;
}

absl::Status NotVisible(const Principal& caller, std::string_view kind, std::string_view id) {
  if (caller.role == Role::kOperator) {
    return absl::NotFoundError(absl::StrCat("there is no ", AbslView(kind), " ", Quoted(id)));
  }
  return WithReason(absl::PermissionDeniedError(
                        absl::StrCat("tenant ", Quoted(caller.tenant), " has no ", AbslView(kind), " ", Quoted(id))),
                    "NOT_VISIBLE");
}

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kUser:
      return "user";
    case Role::kWorker:
      return "worker";
    case Role::kScaler:
      return "scaler";
    case Role::kOperator:
      return "operator";
  }
  return "";
}

absl::Status CheckPrincipalName(std::string_view what, std::string_view name) {
  const bool good = !name.empty() && name.size() <= 63 && absl::ascii_isalnum(static_cast<unsigned char>(name[0])) &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
                    });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(AbslView(what), " is ", Quoted(name),
                                                 ": 1 to 63 of [a-z0-9._-] are wanted, a letter or digit first"));
}

}  // namespace quant

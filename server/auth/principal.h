// SPDX-License-Identifier: Apache-2.0
// Principal: on whose behalf a call is made, and what of the stored things it may see.
//
// Everything stored belongs to a tenant. A user sees what belongs to its own tenant, an operator sees everything. For
// others a thing that belongs to somebody else and one that does not exist are the same: both are PERMISSION_DENIED
// with the same words, so that ids cannot be probed.
#ifndef QUANT_SERVER_AUTH_PRINCIPAL_H_
#define QUANT_SERVER_AUTH_PRINCIPAL_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace quant {

// What a caller may do; which rpc needs which is the table in method_table.h.
enum class Role {
  kUser,      // submits, reads and cancels what is its tenant's
  kWorker,    // leases jobs of all tenants, reads their inputs, writes their results
  kScaler,    // asks how many jobs there are, and nothing else
  kOperator,  // everything, of every tenant
};

// The tenant of a server without authentication, and of everything stored before there were tenants.
inline constexpr char kDefaultTenant[] = "default";

struct Principal {
  std::string tenant = kDefaultTenant;  // what it makes belongs to this tenant
  std::string name;                     // for the audit log; "" without authentication
  Role role = Role::kUser;

  // Whether things of `owner` exist for this caller.
  bool Sees(std::string_view owner) const;
};

// Who everybody is on a server without authentication: an operator of the default tenant.
const Principal& OpenPrincipal();

// What a caller is told of a `kind` ("job", "model", …) that it does not see or that is not there: NOT_FOUND for an
// operator, else PERMISSION_DENIED with reason NOT_VISIBLE.
absl::Status NotVisible(const Principal& caller, std::string_view kind, std::string_view id);

// "user", "worker", "scaler", "operator".
std::string_view RoleName(Role role);

// Tenants and names are 1 to 63 of [a-z0-9._-], beginning with a letter or digit.  INVALID_ARGUMENT.
absl::Status CheckPrincipalName(std::string_view what, std::string_view name);

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_PRINCIPAL_H_

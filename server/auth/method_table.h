// SPDX-License-Identifier: Apache-2.0
// Which role may call which rpc: the one table. A method that is not in it is refused to everybody, and a test walks
// over every rpc of the contract (method_table_test.cc), so none can be forgotten.
#ifndef QUANT_SERVER_AUTH_METHOD_TABLE_H_
#define QUANT_SERVER_AUTH_METHOD_TABLE_H_

#include <string_view>
#include <vector>

#include "server/auth/principal.h"

namespace quant {

// What of a method's calls goes into the audit log.
enum class Audit {
  kRefusals,  // only those refused for who the caller is
  kObjects,   // those that came to name an object (a long poll that got nothing does not)
  kAll,
};

struct MethodRule {
  std::string_view method;  // "/package.Service/Method"
  bool anyone = false;      // without authentication: health checks
  bool user = false;
  bool worker = false;
  bool scaler = false;  // an operator may call everything
  Audit audit = Audit::kRefusals;
};

// Null for a method that nobody may call.
const MethodRule* FindMethodRule(std::string_view method);
const std::vector<MethodRule>& MethodTable();

bool Allows(const MethodRule& rule, Role role);

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_METHOD_TABLE_H_

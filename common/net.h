// SPDX-License-Identifier: Apache-2.0
// Addresses as users write them.
#ifndef QUANT_COMMON_NET_H_
#define QUANT_COMMON_NET_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quant {

struct HostPort {
  std::string host;  // without brackets; empty: every interface (to listen), this machine (to connect)
  int port = 0;      // 0..65535; 0: any free port (to listen)

  // "host:port", with brackets round an IPv6 address.
  std::string ToString() const;
};

// Reads ":9000", "127.0.0.1:0", "[::1]:9000", "host:port".
//   INVALID_ARGUMENT: no port, a port that is not 0..65535, an IPv6 address without brackets, blanks or a scheme.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// True for names and addresses of this machine alone: localhost, 127.0.0.0/8, ::1. Not for the empty host.
bool IsLoopback(std::string_view host);

}  // namespace quant

#endif  // QUANT_COMMON_NET_H_

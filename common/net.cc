// SPDX-License-Identifier: Apache-2.0
#include "common/net.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {

std::string HostPort::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  const auto error = [&](std::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("bad address ", Quoted(text), ": ", AbslView(why),
                                                   "; write HOST:PORT, e.g. 127.0.0.1:9000 or [::1]:9000"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return error("no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (!host.empty() && host.front() == '[') {
    if (host.size() < 3 || host.back() != ']') return error("brackets do not match");
    host = host.substr(1, host.size() - 2);
    const bool v6 = std::all_of(host.begin(), host.end(), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || c == ':' || c == '.';
    });
    if (!v6) return error("what is in brackets is not an IPv6 address");
  } else if (host.find(':') != std::string_view::npos) {
    return error(text.find("://") != std::string_view::npos ? "no scheme is wanted" : "an IPv6 address needs brackets");
  }
  const bool plain = std::all_of(host.begin(), host.end(), [](char c) { return c > ' ' && c < 0x7f && c != '/'; });
  if (!plain || host.size() > 255) return error("bad host name");
  if (digits.empty() || digits.size() > 5 ||
      !std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return error("the port is not a number from 0 to 65535");
  }
  int port = 0;
  for (char c : digits) port = port * 10 + (c - '0');
  if (port > 65535) return error("the port is above 65535");
  return HostPort{std::string(host), port};
}

bool IsLoopback(std::string_view host) {
  if (host == "localhost" || host == "::1") return true;
  // Four numbers: "127.example.com" is no such address.
  return host.substr(0, 4) == "127." &&
         std::all_of(host.begin(), host.end(), [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// `quantd probe` and `quant-worker probe`: ask the program that runs beside this one whether it is ready, for health
// checks of containers, which have no curl. Exit status: 0 it is, 1 it is not or does not answer (the reason is on
// stderr), 2 wrong usage.
#ifndef QUANT_COMMON_PROBE_H_
#define QUANT_COMMON_PROBE_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/net.h"

namespace quant {

struct HttpAnswer {
  int code = 0;  // 200, 404, …
  std::string body;
};

// GET http://address/path, without TLS, redirects or proxies. An empty host is this machine. Blocks for `timeout` at
// most, name look-up aside.
//   UNAVAILABLE: no such host, no connection, or it broke off.  DEADLINE_EXCEEDED.
//   INVALID_ARGUMENT: not HTTP, or more than 16 MiB.
absl::StatusOr<HttpAnswer> HttpGet(const HostPort& address, std::string_view path, absl::Duration timeout);

struct ProbedProgram {
  std::string name;             // "quantd"
  std::string default_address;  // of --metrics: "127.0.0.1:9700"
  std::string path;             // what is asked for
  std::string ready_means;      // for --help: what exit status 0 says, "it takes calls"
  // OK: ready; else why not.
  std::function<absl::Status(const HttpAnswer&)> judge;
};

// `args` is what follows the word probe. Returns the exit status.
int RunProbe(const ProbedProgram& program, const std::vector<std::string>& args);

}  // namespace quant

#endif  // QUANT_COMMON_PROBE_H_

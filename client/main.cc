// SPDX-License-Identifier: Apache-2.0
// quantctl: see docs/quantctl.md or quantctl --help.
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/base/log_severity.h"
#include "client/cli.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "common/transfer/transfer.h"

int main(int argc, char** argv) {
  quant::KeepMemoryForMessages();
  quant::InitLogging("quantctl", absl::LogSeverityAtLeast::kError);  // stderr is for people
  quant::CliEnvironment environment;
  environment.version = quant::BuildVersion();
  environment.getenv = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  return quant::RunQuantctl(std::vector<std::string>(argv + 1, argv + argc), environment);
}

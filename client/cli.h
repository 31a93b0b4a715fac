// SPDX-License-Identifier: Apache-2.0
// quantctl as a function: finds the sub-command, parses, runs, turns errors into messages and exit statuses.
#ifndef QUANT_CLIENT_CLI_H_
#define QUANT_CLIENT_CLI_H_

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace quant {

struct CliEnvironment {
  std::FILE* out = stdout;
  std::FILE* err = stderr;
  // "" when unset.
  std::function<std::string(const char* name)> getenv;
  std::string version;
};

// Runs one command line (without argv[0]) and returns the exit status: 0 done, 1 the job failed or the server refused,
// 2 wrong usage, 3 server not reachable, 130 stopped by Ctrl-C. One at a time in a process.
int RunQuantctl(const std::vector<std::string>& args, const CliEnvironment& environment);

// The bash completion script, made from the commands and their flags.
std::string CompletionScript();

}  // namespace quant

#endif  // QUANT_CLIENT_CLI_H_

// SPDX-License-Identifier: Apache-2.0
// quantd token add|list|revoke: edits the file of --tokens. Needs no running server; one that runs follows the file.
#ifndef QUANT_SERVER_TOKEN_COMMAND_H_
#define QUANT_SERVER_TOKEN_COMMAND_H_

#include <string>
#include <vector>

namespace quant {

// `args`: what follows "token". Prints to stdout and stderr; returns the exit status: 0 done, 1 failed, 2 wrong usage.
int RunTokenCommand(const std::vector<std::string>& args);

}  // namespace quant

#endif  // QUANT_SERVER_TOKEN_COMMAND_H_

// SPDX-License-Identifier: Apache-2.0
// What the machine, or the container we are in, lets this process have: the defaults of --threads and --memory.
#ifndef QUANT_WORKER_AGENT_RESOURCES_H_
#define QUANT_WORKER_AGENT_RESOURCES_H_

#include <cstdint>
#include <filesystem>

namespace quant {

// CPUs this process may run on, at least 1.
int UsableCpus();

// The smaller of the machine's memory and the limits of our control group and its parents (cgroup v2), in bytes;
// 0 when neither can be read. `root` is "/" but in tests.
int64_t UsableMemory(const std::filesystem::path& root = "/");

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_RESOURCES_H_

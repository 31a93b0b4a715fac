// SPDX-License-Identifier: Apache-2.0
// What this process uses of the machine, for metrics under Prometheus' usual names process_…
#ifndef QUANT_COMMON_PROCESS_USAGE_H_
#define QUANT_COMMON_PROCESS_USAGE_H_

#include <cstdint>

namespace quant {

struct ProcessUsage {
  int64_t resident_bytes = 0;
  double cpu_seconds = 0;  // user and system, without children
  int64_t open_fds = 0;
  int64_t max_fds = 0;  // the soft limit
};
// A value that the kernel does not tell stays 0.
ProcessUsage ReadProcessUsage();

}  // namespace quant

#endif  // QUANT_COMMON_PROCESS_USAGE_H_

// SPDX-License-Identifier: Apache-2.0
#include "common/process_usage.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

namespace quant {

ProcessUsage ReadProcessUsage() {
  ProcessUsage out;
  if (FILE* const f = std::fopen("/proc/self/statm", "re"); f != nullptr) {
    long pages = 0;
    long resident = 0;
    if (std::fscanf(f, "%ld %ld", &pages, &resident) == 2) {  // NOLINT(cert-err34-c): the kernel wrote it
      out.resident_bytes = int64_t{resident} * ::sysconf(_SC_PAGESIZE);
    }
    std::fclose(f);
  }
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) {
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    out.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  if (DIR* const dir = ::opendir("/proc/self/fd"); dir != nullptr) {
    int64_t entries = 0;
    while (::readdir(dir) != nullptr) ++entries;
    ::closedir(dir);
    out.open_fds = entries - 3;  // ".", ".." and the one that lists
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) out.max_fds = static_cast<int64_t>(limit.rlim_cur);
  return out;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/resources.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace quant {
namespace {

// The number at the start of `line` after `prefix`; -1 when there is none ("max").
int64_t NumberAfter(const std::string& line, const std::string& prefix) {
  if (line.rfind(prefix, 0) != 0) return -1;
  int64_t value = -1;
  for (char c : line.substr(prefix.size())) {
    if (c >= '0' && c <= '9') {
      if (value > INT64_MAX / 10 - 10) return -1;
      value = std::max<int64_t>(value, 0) * 10 + (c - '0');
    } else if (value >= 0) {
      break;
    } else if (c != ' ') {
      return -1;
    }
  }
  return value;
}

}  // namespace

int UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

int64_t UsableMemory(const std::filesystem::path& root) {
  int64_t usable = 0;
  const auto cap = [&](int64_t bytes) {
    if (bytes > 0) usable = usable == 0 ? bytes : std::min(usable, bytes);
  };
  std::string line;
  for (std::ifstream meminfo(root / "proc/meminfo"); std::getline(meminfo, line);) {
    if (const int64_t kib = NumberAfter(line, "MemTotal:"); kib > 0) cap(kib * 1024);
  }
  for (std::ifstream groups(root / "proc/self/cgroup"); std::getline(groups, line);) {
    if (line.rfind("0::/", 0) != 0) continue;  // the v2 hierarchy: "0::/PATH"
    const std::filesystem::path mount = root / "sys/fs/cgroup";
    std::filesystem::path group = std::filesystem::path(line.substr(4)).lexically_normal();
    while (true) {
      std::ifstream limit(mount / group / "memory.max");
      if (std::getline(limit, line)) cap(NumberAfter(line, ""));
      if (group.empty() || group == ".") break;
      group = group.parent_path();
    }
    break;
  }
  return usable;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/orphans.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "worker/agent/steady.h"

namespace quant {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(2);

struct Family {
  Mutex mu;  // also held over fork, so that a child is known before anybody looks for strangers
  std::set<pid_t> children ABSL_GUARDED_BY(mu);
  bool adopts ABSL_GUARDED_BY(mu) = false;
};
Family& TheFamily() {
  static Family& family = *new Family;
  return family;
}

// Parent of a process, from /proc/PID/stat: "1234 (any name) S 1200 …"; -1: it is gone.
pid_t ParentOf(const char* pid) {
  const UniqueFd fd(::open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char text[512];
  const ssize_t n = fd.valid() ? ::read(fd.get(), text, sizeof(text) - 1) : -1;
  if (n <= 0) return -1;
  text[n] = '\0';
  const char* const name_end = std::strrchr(text, ')');
  int parent = -1;
  if (name_end == nullptr || std::sscanf(name_end + 1, " %*c %d", &parent) != 1) return -1;
  return parent;
}

std::vector<pid_t> Strangers(const std::set<pid_t>& known) {
  std::vector<pid_t> found;
  DIR* const proc = ::opendir("/proc");
  if (proc == nullptr) return found;
  const pid_t self = ::getpid();
  while (const dirent* entry = ::readdir(proc)) {
    const pid_t pid = std::atoi(entry->d_name);
    if (pid > 0 && !known.contains(pid) && ParentOf(entry->d_name) == self) found.push_back(pid);
  }
  ::closedir(proc);
  return found;
}

}  // namespace

void AdoptOrphans() {
  Family& family = TheFamily();
  MutexLock lock(&family.mu);
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) {
    PLOG(ERROR) << "prctl(PR_SET_CHILD_SUBREAPER)";
    return;
  }
  family.adopts = true;
}

pid_t ForkChild() {
  Family& family = TheFamily();
  MutexLock lock(&family.mu);
  const pid_t pid = ::fork();
  if (pid > 0) family.children.insert(pid);
  return pid;
}

void ForgetChild(pid_t pid) {
  Family& family = TheFamily();
  MutexLock lock(&family.mu);
  family.children.erase(pid);
}

void KillOrphans() {
  Family& family = TheFamily();
  MutexLock lock(&family.mu);
  if (!family.adopts) return;
  const SteadyTime end = SteadyNow() + kPatience;
  for (bool first = true;; first = false) {
    const std::vector<pid_t> strangers = Strangers(family.children);
    if (strangers.empty()) return;
    if (first) LOG(WARNING) << "killing " << strangers.size() << " processes that a job left behind";
    if (SteadyNow() >= end) {
      LOG(ERROR) << strangers.size() << " processes that a job left behind do not end";
      return;
    }
    for (const pid_t pid : strangers) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, WNOHANG);
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/testing/attempts.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace quant {
namespace {

int Errno(int64_t result) { return result < 0 ? errno : 0; }

int Open(const std::string& path, int flags, mode_t mode = 0) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return errno;
  ::close(fd);
  return 0;
}

int Read(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  char byte;
  const int error = Errno(::read(fd, &byte, 1));
  ::close(fd);
  return error;
}

int Write(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = Errno(::write(fd, "X", 1));
  ::close(fd);
  return error;
}

int Connect(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int error = Errno(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)));
  ::close(fd);
  return error;
}

int Datagrams() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  ::close(fd);
  return 0;
}

int List(const std::string& path) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) return errno;
  ::closedir(dir);
  return 0;
}

int Trace(pid_t pid) {
  if (::ptrace(PTRACE_ATTACH, pid, nullptr, nullptr) != 0) return errno;
  int status = 0;
  ::waitpid(pid, &status, 0);
  ::ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
  return 0;
}

int ReadMemory(pid_t pid) {
  char byte;
  iovec here = {.iov_base = &byte, .iov_len = 1};
  // Our own stack's address: very likely not mapped there, which is EFAULT and as good as a success.
  iovec there = here;
  const int error = Errno(::process_vm_readv(pid, &here, 1, &there, 1, 0));
  return error == EFAULT ? 0 : error;
}

int Forks(int count) {
  std::vector<pid_t> made;
  int error = 0;
  for (int i = 0; i < count && error == 0; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::sleep(60);
      ::_exit(0);
    }
    if (pid < 0) {
      error = errno;
    } else {
      made.push_back(pid);
    }
  }
  for (const pid_t pid : made) ::kill(pid, SIGKILL);
  for (const pid_t pid : made) ::waitpid(pid, nullptr, 0);
  return error;
}

int Detach(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0 || ::flock(fd, LOCK_EX) != 0) return errno;
  const pid_t pid = ::fork();
  if (pid < 0) {
    const int error = errno;
    ::close(fd);
    return error;
  }
  if (pid == 0) {
    if (::setsid() < 0) ::_exit(1);
    if (::fork() == 0) {
      while (true) ::sleep(60);
    }
    ::_exit(0);
  }
  ::close(fd);  // the lock stays with the process that has left
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EPERM;
}

int Exec(const std::string& program) {
  const char* argv[] = {program.c_str(), nullptr};
  const char* environment[] = {nullptr};
  const pid_t pid = ::fork();
  if (pid > 0) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : EPERM;
  }
  // Where fork is refused, this process itself becomes the program if it can.
  const int failed =
      Errno(::execve(program.c_str(), const_cast<char* const*>(argv), const_cast<char* const*>(environment)));
  if (pid == 0) ::_exit(failed);
  return failed;
}

int GiantFile(int64_t gib) {
  const std::string path = "output/giant";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return errno;
  const int error = Errno(::pwrite(fd, "X", 1, gib << 30));
  ::close(fd);
  ::unlink(path.c_str());
  return error;
}

int GiantMemory(int64_t gib) {
  const size_t bytes = static_cast<size_t>(gib) << 30;
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return errno;
  ::munmap(memory, bytes);
  return 0;
}

void* SleepForAMinute(void*) {
  ::sleep(60);
  return nullptr;
}

int Threads(int count) {
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  for (int i = 0; i < count; ++i) {
    pthread_t thread;
    if (const int error = pthread_create(&thread, &small, SleepForAMinute, nullptr); error != 0) return error;
    pthread_detach(thread);
  }
  return 0;
}

// Arguments of which each call refuses at least one, so that nothing happens where it is allowed.
int Call(const std::string& name) {
  static const std::map<std::string, long> kNumbers = {{"add_key", SYS_add_key},
                                                       {"bpf", SYS_bpf},
                                                       {"clone3", SYS_clone3},
                                                       {"finit_module", SYS_finit_module},
                                                       {"init_module", SYS_init_module},
                                                       {"io_uring_enter", SYS_io_uring_enter},
                                                       {"io_uring_register", SYS_io_uring_register},
                                                       {"io_uring_setup", SYS_io_uring_setup},
                                                       {"kexec_load", SYS_kexec_load},
                                                       {"keyctl", SYS_keyctl},
                                                       {"memfd_create", SYS_memfd_create},
                                                       {"mount", SYS_mount},
                                                       {"open_by_handle_at", SYS_open_by_handle_at},
                                                       {"perf_event_open", SYS_perf_event_open},
                                                       {"pidfd_getfd", SYS_pidfd_getfd},
                                                       {"pidfd_open", SYS_pidfd_open},
                                                       {"pidfd_send_signal", SYS_pidfd_send_signal},
                                                       {"pivot_root", SYS_pivot_root},
                                                       {"process_madvise", SYS_process_madvise},
                                                       {"process_vm_writev", SYS_process_vm_writev},
                                                       {"reboot", SYS_reboot},
                                                       {"rt_sigqueueinfo", SYS_rt_sigqueueinfo},
                                                       {"seccomp", SYS_seccomp},
                                                       {"setns", SYS_setns},
                                                       {"setpgid", SYS_setpgid},
                                                       {"setsid", SYS_setsid},
                                                       {"setxattr", SYS_setxattr},
                                                       {"shmget", SYS_shmget},
                                                       {"socketpair", SYS_socketpair},
                                                       {"umount2", SYS_umount2},
                                                       {"unshare", SYS_unshare},
                                                       {"userfaultfd", SYS_userfaultfd},
                                                       {"utimensat", SYS_utimensat}};
  const auto found = kNumbers.find(name);
  if (found == kNumbers.end()) return EDOM;
  return Errno(::syscall(found->second, -1L, -1L, -1L, -1L, -1L, -1L));
}

}  // namespace

int Attempt(const std::vector<std::string>& words) {
  const std::string& what = words.at(0);
  const auto arg = [&](size_t i) { return words.at(i); };
  if (what == "connect") return Connect(std::stoi(arg(1)));
  if (what == "socket") return Datagrams();
  if (what == "read") return Read(arg(1));
  if (what == "list") return List(arg(1));
  if (what == "write") return Write(arg(1));
  if (what == "create") return Open(arg(1), O_WRONLY | O_CREAT, 0644);
  if (what == "remove") return Errno(::unlink(arg(1).c_str()));
  if (what == "truncate") return Errno(::truncate(arg(1).c_str(), 0));
  if (what == "chmod") return Errno(::chmod(arg(1).c_str(), 0666));
  if (what == "link") return Errno(::link(arg(1).c_str(), arg(2).c_str()));
  if (what == "symlink") return Errno(::symlink(arg(1).c_str(), arg(2).c_str()));
  if (what == "rename") return Errno(::rename(arg(1).c_str(), arg(2).c_str()));
  if (what == "ptrace") return Trace(std::stoi(arg(1)));
  if (what == "readmem") return ReadMemory(std::stoi(arg(1)));
  if (what == "kill") return Errno(::kill(std::stoi(arg(1)), 0));
  if (what == "forks") return Forks(std::stoi(arg(1)));
  if (what == "detach") return Detach(arg(1));
  if (what == "exec") return Exec(arg(1));
  if (what == "file") return GiantFile(std::stoll(arg(1)));
  if (what == "memory") return GiantMemory(std::stoll(arg(1)));
  if (what == "threads") return Threads(std::stoi(arg(1)));
  if (what == "call") return Call(arg(1));
  return EDOM;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "common/shutdown.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/log/check.h"
#include "absl/log/log.h"
#include "absl/time/clock.h"

namespace quant {
namespace {

sigset_t Signals(bool hangup) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (hangup) sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

ShutdownSignal::ShutdownSignal(Hangup hangup) : hangup_(hangup), stop_(::eventfd(0, EFD_CLOEXEC)) {
  CHECK(stop_.valid()) << "eventfd failed, errno " << errno;
  const sigset_t set = Signals(hangup_ == Hangup::kCallback);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  thread_ = std::thread([this] { Run(); });
}

ShutdownSignal::~ShutdownSignal() {
  const uint64_t one = 1;
  CHECK_EQ(::write(stop_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  thread_.join();
  if (request_.joinable()) request_.join();
  UnblockInChild();
}

void ShutdownSignal::Run() {
  const sigset_t set = Signals(hangup_ == Hangup::kCallback);
  UniqueFd signals(::signalfd(-1, &set, SFD_CLOEXEC));
  CHECK(signals.valid()) << "signalfd failed, errno " << errno;
  pollfd fds[2] = {{.fd = signals.get(), .events = POLLIN, .revents = 0},
                   {.fd = stop_.get(), .events = POLLIN, .revents = 0}};
  bool seen = false;
  while (true) {
    if (::poll(fds, 2, -1) < 0) {
      CHECK_EQ(errno, EINTR);
      continue;
    }
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (::read(signals.get(), &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) continue;
    if (info.ssi_signo == SIGHUP) {
      std::function<void()> callback;
      {
        MutexLock lock(&mu_);
        callback = on_hangup_;
      }
      if (callback) callback();
      continue;
    }
    if (std::exchange(seen, true)) ::_exit(128 + static_cast<int>(info.ssi_signo));
    LOG(INFO) << "signal " << info.ssi_signo << ": shutting down; a second signal ends the process at once";
    // On a thread of its own, so that a slow callback does not keep the second signal from being seen.
    request_ = std::thread([this] { Request(); });
  }
}

void ShutdownSignal::Request() {
  std::vector<std::function<void()>> callbacks;
  {
    MutexLock lock(&mu_);
    if (requested_) return;
    requested_ = true;
    callbacks.swap(callbacks_);
    changed_.SignalAll();
  }
  for (const auto& callback : callbacks) callback();
}

void ShutdownSignal::OnSignal(std::function<void()> callback) {
  {
    MutexLock lock(&mu_);
    if (!requested_) {
      callbacks_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

void ShutdownSignal::OnHangup(std::function<void()> callback) {
  MutexLock lock(&mu_);
  on_hangup_ = std::move(callback);
}

void ShutdownSignal::Wait() { WaitFor(absl::InfiniteDuration()); }

bool ShutdownSignal::WaitFor(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  MutexLock lock(&mu_);
  while (!requested_) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    changed_.WaitFor(&mu_, left);
  }
  return requested_;
}

bool ShutdownSignal::Requested() const {
  MutexLock lock(&mu_);
  return requested_;
}

void ShutdownSignal::UnblockInChild() {
  const sigset_t set = Signals(/*hangup=*/true);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace quant

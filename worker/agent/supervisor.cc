// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/agent/child_output.h"

namespace quant {
namespace {

constexpr size_t kTailBytes = 16 * 1024;
// One read; bounds the time a chatty child can keep the loop from its guards.
constexpr size_t kReadBytes = 64 * 1024;
constexpr int kReadsPerRound = 16;
constexpr absl::Duration kLongestPoll = absl::Milliseconds(200);
constexpr double kMiB = 1024.0 * 1024.0;

// The loop's state; one object per child.
class Supervisor {
 public:
  Supervisor(ChildProcess& child, const ChildLimits& limits, ActiveLease& lease, const ChildEvents& events)
      : child_(child), limits_(limits), lease_(lease), events_(events), last_change_(SteadyNow()) {}

  ChildResult Run() {
    while (true) {
      Sleep();
      ReadPipes();
      if (child_.Exited()) break;
      ObeyOrder();
      Guard();
    }
    result_.exit = child_.Reap();  // ends the group too
    // What is left in the pipes; bounded, since a process that left the group may still be writing.
    for (int round = 0; round < 4 && ReadPipes(); ++round) {
    }
    if (events_.memory) events_.memory(0);
    result_.output_tail = std::string(tail_.Get());
    return std::move(result_);
  }

 private:
  void Sleep() {
    const SteadyTime now = SteadyNow();
    SteadyTime next = std::min(now + kLongestPoll, kill_at_);
    if (limits_.memory_bytes > 0 || limits_.threads > 0) next = std::min(next, now + limits_.usage_poll);
    if (result_.stopped == StopCause::kNone) next = std::min({next, limits_.end, last_change_ + HangTimeout()});
    // Without a pidfd the end is noticed by the pipes' closing and by asking often.
    if (child_.exit_fd() < 0) next = std::min(next, now + absl::Milliseconds(20));
    pollfd fds[] = {{.fd = output_open_ ? child_.output_fd() : -1, .events = POLLIN, .revents = 0},
                    {.fd = progress_open_ ? child_.progress_fd() : -1, .events = POLLIN, .revents = 0},
                    {.fd = child_.exit_fd(), .events = POLLIN, .revents = 0},
                    {.fd = lease_.wake_fd(), .events = POLLIN, .revents = 0}};
    const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(next - now, absl::Milliseconds(1)));
    ::poll(fds, 4, static_cast<int>(std::clamp<int64_t>(ms, 0, 1000)));  // EINTR: one round more
    lease_.ClearWake();
  }

  // False when there was nothing to read.
  bool ReadPipes() {
    bool any = false;
    for (int i = 0; i < kReadsPerRound; ++i) {
      const bool output =
          ReadOne(child_.output_fd(), output_open_, [this](std::string_view bytes) { tail_.Append(bytes); });
      const bool frames =
          ReadOne(child_.progress_fd(), progress_open_, [this](std::string_view bytes) { Frames(bytes); });
      if (!output && !frames) break;
      any = true;
    }
    return any;
  }

  template <typename Sink>
  bool ReadOne(int fd, bool& open, const Sink& sink) {
    if (!open) return false;
    const ssize_t n = ::read(fd, buffer_.get(), kReadBytes);
    if (n < 0) return false;  // EAGAIN, EINTR: next round
    if (n == 0) {
      open = false;
      return false;
    }
    sink(std::string_view(buffer_.get(), static_cast<size_t>(n)));
    return true;
  }

  void Frames(std::string_view bytes) {
    if (frames_broken_) return;
    const absl::Status status = frames_.Append(bytes, [this](std::string_view payload) {
      if (payload == last_payload_) {
        ++repeats_;
      } else {
        last_change_ = SteadyNow();
        last_payload_ = payload;
        repeats_ = 0;
      }
      return events_.progress ? events_.progress(payload) : absl::OkStatus();
    });
    if (status.ok()) return;
    frames_broken_ = true;  // a stream without known boundaries cannot be taken up again
    Stop(StopCause::kProtocol, SIGKILL, absl::ZeroDuration(), std::string(status.message()));
  }

  void ObeyOrder() {
    const LeaseOrder order = lease_.order();
    if (order <= obeyed_) return;
    obeyed_ = order;
    switch (order) {
      case LeaseOrder::kContinue:
        break;
      case LeaseOrder::kRelease:
        Stop(StopCause::kRelease, SIGTERM, limits_.release_grace, "");
        break;
      case LeaseOrder::kCancel:
        Stop(StopCause::kCancel, SIGTERM, limits_.cancel_grace, "");
        break;
      case LeaseOrder::kLost:
        Stop(StopCause::kLost, SIGKILL, absl::ZeroDuration(), "");
        break;
    }
  }

  void Guard() {
    const SteadyTime now = SteadyNow();
    if (now >= next_usage_) {
      next_usage_ = now + limits_.usage_poll;
      const ChildUsage usage = child_.ReadUsage();
      if (events_.memory) events_.memory(usage.rss);
      if (limits_.memory_bytes > 0 && usage.owned > limits_.memory_bytes && result_.stopped == StopCause::kNone) {
        Stop(StopCause::kMemory, SIGKILL, absl::ZeroDuration(),
             absl::StrCat("the job used ", static_cast<int64_t>(static_cast<double>(usage.owned) / kMiB),
                          " MiB of memory; its limit is ",
                          static_cast<int64_t>(static_cast<double>(limits_.memory_bytes) / kMiB), " MiB"));
      }
      if (limits_.threads > 0 && usage.threads > limits_.threads && result_.stopped == StopCause::kNone) {
        Stop(StopCause::kThreads, SIGKILL, absl::ZeroDuration(),
             absl::StrCat("it ran ", usage.threads, " threads; at most ", limits_.threads, " are allowed"));
      }
    }
    if (result_.stopped == StopCause::kNone && now - last_change_ >= HangTimeout()) {
      const std::string time = absl::FormatDuration(HangTimeout());
      Stop(StopCause::kHang, SIGKILL, absl::ZeroDuration(),
           repeats_ == 0 ? absl::StrCat("the job sent no sign of life for ", time)
                         : absl::StrCat("the job is alive but stuck: it told the same progress ", repeats_ + 1,
                                        " times in ", time));
    }
    if (result_.stopped == StopCause::kNone && now >= limits_.end) {
      Stop(StopCause::kTimeout, SIGKILL, absl::ZeroDuration(), "");
    }
    if (now >= kill_at_) {
      child_.Signal(SIGKILL);
      kill_at_ = now + absl::Seconds(1);  // again, should the child have forked in that very moment
    }
  }

  absl::Duration HangTimeout() const {
    if (limits_.phase_timeouts.empty()) return limits_.hang_timeout;
    const auto it = limits_.phase_timeouts.find(lease_.state().phase);
    return it == limits_.phase_timeouts.end() ? limits_.hang_timeout : it->second;
  }

  void Stop(StopCause cause, int signal, absl::Duration grace, std::string detail) {
    result_.stopped = cause;
    result_.stop_detail = std::move(detail);
    child_.Signal(signal);
    kill_at_ = std::min(kill_at_, SteadyNow() + grace);
  }

  ChildProcess& child_;
  const ChildLimits& limits_;
  ActiveLease& lease_;
  const ChildEvents& events_;

  ChildResult result_;
  LeaseOrder obeyed_ = LeaseOrder::kContinue;
  SteadyTime last_change_;
  std::string last_payload_;  // at most FrameSplitter::kMaxFrameBytes
  int64_t repeats_ = 0;       // of it
  SteadyTime next_usage_;     // zero: at once
  SteadyTime kill_at_ = absl::InfiniteDuration();
  bool output_open_ = true;
  bool progress_open_ = true;
  bool frames_broken_ = false;
  OutputTail tail_{kTailBytes};
  FrameSplitter frames_;
  std::unique_ptr<char[]> buffer_ = std::make_unique<char[]>(kReadBytes);
};

}  // namespace

const char* StopCauseName(StopCause cause) {
  switch (cause) {
    case StopCause::kNone:
      return "none";
    case StopCause::kRelease:
      return "release";
    case StopCause::kCancel:
      return "cancel";
    case StopCause::kLost:
      return "lost";
    case StopCause::kMemory:
      return "memory";
    case StopCause::kThreads:
      return "threads";
    case StopCause::kHang:
      return "hang";
    case StopCause::kTimeout:
      return "timeout";
    case StopCause::kProtocol:
      return "protocol";
  }
  return "none";
}

absl::StatusOr<ChildResult> RunChild(const ChildProcess::Command& command, const ChildLimits& limits,
                                     ActiveLease& lease, const ChildEvents& events) {
  ASSIGN_OR_RETURN(std::unique_ptr<ChildProcess> child, ChildProcess::Start(command));
  return Supervisor(*child, limits, lease, events).Run();
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// ShutdownSignal: turns SIGTERM and SIGINT into an ordinary function call on an ordinary thread.
//
//   int main() {
//     quant::ShutdownSignal shutdown;            // first thing, before any thread
//     ...
//     shutdown.OnSignal([&] { server.Drain(); });
//     shutdown.Wait();
//
// The constructor blocks both signals in the calling thread, and so in every thread made after it, and waits for them
// in one of its own. The first signal counts as the request; the second of the same process ends it at once with
// status 128 + signal: an impatient Ctrl-C must not hang.
//
// A child process inherits the blocked mask: between fork and exec call UnblockInChild().
//
// Make one per process. Thread-safe.
#ifndef QUANT_COMMON_SHUTDOWN_H_
#define QUANT_COMMON_SHUTDOWN_H_

#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace quant {

class ShutdownSignal {
 public:
  // What SIGHUP does.
  enum class Hangup {
    kTerminate,  // the system's default: it ends the process
    kCallback,   // it runs what OnHangup set, each time
  };
  explicit ShutdownSignal(Hangup hangup = Hangup::kTerminate);
  // Joins the thread and restores the caller's signal mask.
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // Runs `callback` once, on a thread of ours, at the first signal or Request(); at once, on this thread, when that
  // has happened. Callbacks run in the order they were added and may take locks, but should not block for long. They
  // must stay valid as long as this object.
  void OnSignal(std::function<void()> callback);

  // Runs `callback` at each SIGHUP, on a thread of ours. For Hangup::kCallback; a SIGHUP before this does nothing.
  void OnHangup(std::function<void()> callback);

  // Blocks until a signal or Request().
  void Wait();
  // As Wait, at most `timeout`. True when shutdown was requested.
  bool WaitFor(absl::Duration timeout);
  bool Requested() const;

  // As if a signal had come: for a program that wants to stop by itself, and for tests. Callbacks run on this thread.
  void Request();

  // Restores the mask of a program that has no ShutdownSignal. Async-signal-safe.
  static void UnblockInChild();

 private:
  void Run();

  const Hangup hangup_;
  UniqueFd stop_;  // eventfd: ends Run
  mutable Mutex mu_;
  CondVar changed_;
  bool requested_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::function<void()>> callbacks_ ABSL_GUARDED_BY(mu_);
  std::function<void()> on_hangup_ ABSL_GUARDED_BY(mu_);
  std::thread request_;  // runs the callbacks after a signal; set by Run
  std::thread thread_;   // Run
};

}  // namespace quant

#endif  // QUANT_COMMON_SHUTDOWN_H_

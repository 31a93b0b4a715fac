// SPDX-License-Identifier: Apache-2.0
// OpenCalls: a call is let in by what it shows when it begins; one that stays open for hours (a watch, a parked lease)
// is asked again every second, and ended when its token or certificate is good no more.
#ifndef QUANT_SERVER_AUTH_OPEN_CALLS_H_
#define QUANT_SERVER_AUTH_OPEN_CALLS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace quant {

// Thread-safe.
class OpenCalls {
 public:
  using Recheck = std::function<absl::Status()>;             // RecheckOf of the gate
  using End = std::function<void(const absl::Status& why)>;  // must not block

  explicit OpenCalls(absl::Duration interval = absl::Seconds(1)) : interval_(interval) {}
  // Ends no call. No other function may be running.
  ~OpenCalls();
  OpenCalls(const OpenCalls&) = delete;
  OpenCalls& operator=(const OpenCalls&) = delete;

  // Calls `end` at most once, with the first error of `recheck`, on a thread of this object; perhaps after a Remove.
  uint64_t Add(Recheck recheck, End end);
  // An unknown id does nothing.
  void Remove(uint64_t id);

 private:
  struct Call {
    Recheck recheck;
    End end;
  };
  void Run();

  const absl::Duration interval_;
  Mutex mu_;
  CondVar changed_;
  std::map<uint64_t, std::shared_ptr<const Call>> calls_ ABSL_GUARDED_BY(mu_);  // shared with the thread that asks
  uint64_t next_ ABSL_GUARDED_BY(mu_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mu_);  // from the first call on
};

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_OPEN_CALLS_H_

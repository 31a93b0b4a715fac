// SPDX-License-Identifier: Apache-2.0
// AuditLog: who did what, one JSON object a line, appended to a file:
//
//   {"time":"2026-11-26T12:00:00.000123Z","name":"ann","tenant":"acme","role":"user",
//    "method":"/quant.v1.JobService/SubmitJob","object":"j-…","outcome":"OK","peer":"ipv4:10.0.0.7:4711",
//    "request_id":"…","seconds":0.0021}
//
// A refused call has "reason" too, and "name" is "" when the caller is not known. No token, header or message of a
// request is ever in it. A line is handed to the kernel with one write before its call is answered, so it survives the
// death of the process; it is on disk at most kSyncInterval later, so a power cut may cost that much.
// Refusals of callers who are not known are at most kRefusalsPerSecond lines; what is left out is counted in
// "suppressed" of the next such line, so that a flood fills no disk.
#ifndef QUANT_SERVER_AUTH_AUDIT_LOG_H_
#define QUANT_SERVER_AUTH_AUDIT_LOG_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "server/auth/principal.h"

namespace quant {

struct AuditEntry {
  Principal caller;
  bool authenticated = false;
  std::string method;
  std::string object;  // id or digest; "" for none
  absl::Status status;
  std::string peer;
  std::string request_id;  // of the client's choice; cut and cleaned here
  absl::Duration duration;
};

// Thread-safe.
class AuditLog {
 public:
  static constexpr absl::Duration kSyncInterval = absl::Seconds(1);
  static constexpr int kRefusalsPerSecond = 50;

  // Appends to `file`, made with mode 0600 when missing.  Errors of the file.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(std::filesystem::path file, Clock* clock);
  ~AuditLog();

  // An error is logged, and the next Write tries to open the file again.
  void Write(const AuditEntry& entry);
  // Goes on in a new file of the same name: after a rotation, at SIGHUP.
  void Reopen();

 private:
  AuditLog(std::filesystem::path file, Clock* clock) : file_(std::move(file)), clock_(clock) {}
  absl::Status OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SyncLoop();

  const std::filesystem::path file_;
  Clock* const clock_;
  Mutex mu_;
  CondVar changed_;
  std::shared_ptr<UniqueFd> fd_ ABSL_GUARDED_BY(mu_);  // shared with a sync under way
  bool dirty_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time second_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();  // the one that refusals_ counts in
  int refusals_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t suppressed_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread syncer_;
};

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_AUDIT_LOG_H_

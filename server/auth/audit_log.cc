// SPDX-License-Identifier: Apache-2.0
#include "server/auth/audit_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/ascii.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/file_io.h"

namespace quant {
namespace {

constexpr size_t kMaxObject = 128;
constexpr size_t kMaxRequestId = 64;

// At most `max` visible ASCII characters; others become "?".
std::string Clean(std::string text, size_t max) {
  if (text.size() > max) text.resize(max);
  for (char& c : text) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) c = '?';
  }
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(std::filesystem::path file, Clock* clock) {
  auto log = std::unique_ptr<AuditLog>(new AuditLog(std::move(file), clock));
  {
    MutexLock lock(&log->mu_);
    RETURN_IF_ERROR(log->OpenLocked());
  }
  log->syncer_ = std::thread([raw = log.get()] { raw->SyncLoop(); });
  return log;
}

AuditLog::~AuditLog() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  if (syncer_.joinable()) syncer_.join();
}

absl::Status AuditLog::OpenLocked() {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(file_, O_WRONLY | O_CREAT | O_APPEND));
  fd_ = std::make_shared<UniqueFd>(std::move(fd));
  return absl::OkStatus();
}

void AuditLog::Write(const AuditEntry& entry) {
  const absl::Time now = clock_->Now();
  const bool ok = entry.status.ok();
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", now, absl::UTCTimeZone());
  line["name"] = entry.caller.name;
  line["tenant"] = entry.caller.tenant;
  line["role"] = entry.authenticated ? std::string(RoleName(entry.caller.role)) : "";
  line["method"] = entry.method;
  line["object"] = Clean(entry.object, kMaxObject);
  line["outcome"] = absl::StatusCodeToString(entry.status.code());
  if (!ok) line["reason"] = Clean(ReasonOf(entry.status), kMaxRequestId);
  line["peer"] = Clean(entry.peer, kMaxObject);
  line["request_id"] = Clean(entry.request_id, kMaxRequestId);
  line["seconds"] = absl::ToDoubleSeconds(entry.duration);

  MutexLock lock(&mu_);
  if (!entry.authenticated && !ok) {
    if (const absl::Time second = absl::FromUnixSeconds(absl::ToUnixSeconds(now)); second != second_) {
      second_ = second;
      refusals_ = 0;
    }
    if (++refusals_ > kRefusalsPerSecond) {
      ++suppressed_;
      return;
    }
    if (suppressed_ > 0) line["suppressed"] = std::exchange(suppressed_, 0);
  }
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (fd_ == nullptr) {
    if (const absl::Status opened = OpenLocked(); !opened.ok()) {
      LOG(ERROR) << "audit: " << opened;
      return;
    }
  }
  ssize_t written = 0;
  do written = ::write(fd_->get(), text.data(), text.size());
  while (written < 0 && errno == EINTR);
  if (written != static_cast<ssize_t>(text.size())) {
    LOG(ERROR) << "audit: a line of " << text.size()
               << " bytes could not be written: " << FileError(written < 0 ? errno : ENOSPC, "write", file_);
    fd_ = nullptr;
    return;
  }
  if (!std::exchange(dirty_, true)) changed_.SignalAll();
}

void AuditLog::Reopen() {
  MutexLock lock(&mu_);
  if (fd_ != nullptr) ::fdatasync(fd_->get());  // the next sync is of the new file
  if (const absl::Status opened = OpenLocked(); !opened.ok()) LOG(ERROR) << "audit: keeping the old file: " << opened;
}

void AuditLog::SyncLoop() {
  MutexLock lock(&mu_);
  while (true) {
    while (!dirty_ && !stopping_) changed_.Wait(&mu_);
    if (!dirty_) return;
    if (!stopping_) changed_.WaitFor(&mu_, kSyncInterval);  // gathers what comes meanwhile
    dirty_ = false;
    const std::shared_ptr<UniqueFd> fd = fd_;
    if (fd == nullptr) continue;
    mu_.Unlock();
    if (::fdatasync(fd->get()) != 0) LOG(ERROR) << "audit: " << FileError(errno, "sync", file_);
    mu_.Lock();
  }
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "server/queue/worker_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr size_t kMaxIdBytes = 128;
constexpr size_t kMaxTextBytes = 255;
constexpr int kMaxSlots = 1024;

bool IsIdByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

}  // namespace

absl::Status CheckWorkerInfo(const v1::WorkerInfo& info) {
  const std::string& id = info.id();
  if (id.empty() || id.size() > kMaxIdBytes || !std::all_of(id.begin(), id.end(), IsIdByte)) {
    return absl::InvalidArgumentError(absl::StrCat("worker.id is ", Quoted(id), " (", id.size(), " bytes): 1 to ",
                                                   kMaxIdBytes, " of [A-Za-z0-9._-] are wanted"));
  }
  if (info.slots() < 1 || info.slots() > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker.slots is ", info.slots(), " for ", id, ": 1 to ", kMaxSlots, " are wanted"));
  }
  if (info.threads() < 0 || info.memory_bytes() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("worker.threads is ", info.threads(), " and memory_bytes ",
                                                   info.memory_bytes(), " for ", id, ": neither may be negative"));
  }
  for (const std::string* text : {&info.host(), &info.isa(), &info.build()}) {
    if (text->size() > kMaxTextBytes) {
      return absl::InvalidArgumentError(absl::StrCat("worker.host, isa or build of ", id, " has ", text->size(),
                                                     " bytes; at most ", kMaxTextBytes, " are taken"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<KnownWorker*> WorkerTable::Touch(const v1::WorkerInfo& info, absl::Time now) {
  if (absl::Status status = CheckWorkerInfo(info); !status.ok()) return status;
  auto it = workers_.find(info.id());
  if (it == workers_.end()) {
    if (static_cast<int64_t>(workers_.size()) >= max_workers_) Forget(now);
    if (static_cast<int64_t>(workers_.size()) >= max_workers_) {
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                            workers_.size(), " workers were seen within ", absl::FormatDuration(retention_),
                            ", the limit is ", max_workers_, ": use one id for the life of a worker")),
                        "TOO_MANY_WORKERS", {}, absl::Minutes(1));
    }
    it = workers_.emplace(info.id(), KnownWorker{.registered = now}).first;
  }
  it->second.info = info;
  it->second.heard = now;
  return &it->second;
}

KnownWorker* WorkerTable::Find(std::string_view id) {
  const auto it = workers_.find(id);
  return it == workers_.end() ? nullptr : &it->second;
}

void WorkerTable::Forget(absl::Time now) {
  std::erase_if(workers_, [&](const auto& entry) { return now - entry.second.heard > retention_; });
}

std::vector<const KnownWorker*> WorkerTable::All() const {
  std::vector<const KnownWorker*> all;
  all.reserve(workers_.size());
  for (const auto& [id, worker] : workers_) all.push_back(&worker);
  return all;
}

}  // namespace quant

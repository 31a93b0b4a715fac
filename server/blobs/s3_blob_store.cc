// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_blob_store.h"

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/s3_blob_writer.h"
#include "server/blobs/s3_upload_state.h"

namespace quant {
namespace {

constexpr absl::Duration kDoomLasts = absl::Minutes(10);
constexpr size_t kMaxRemembered = 100'000;  // uses kept in memory: a few MB
constexpr int64_t kFirstRead = int64_t{1} << 20;

std::string UseKey(const std::string& sha256, absl::Time now) {
  return absl::StrCat("used/", sha256, "/", absl::StrFormat("%012d", absl::ToUnixSeconds(now)));
}
std::string DoomKey(const std::string& sha256, absl::Time now) {
  return absl::StrCat("used/", sha256, "/doomed-", absl::StrFormat("%012d", absl::ToUnixSeconds(now)));
}

// The hash in "sha256/ab/<hash>", or "".
std::string HashOf(const std::string& key) {
  return key.size() == 74 && IsSha256Hex(std::string_view(key).substr(10)) ? key.substr(10) : "";
}

}  // namespace

S3BlobStore::S3BlobStore(S3BlobStoreOptions options) : options_(std::move(options)), s3_(options_.s3) {}

absl::StatusOr<std::unique_ptr<S3BlobStore>> S3BlobStore::Open(S3BlobStoreOptions options) {
  std::unique_ptr<S3BlobStore> store(new S3BlobStore(std::move(options)));
  RETURN_IF_ERROR(store->ClaimPrefix());
  RETURN_IF_ERROR(store->s3_.List("sha256/", [&](const S3Client::Object& object) {
    if (HashOf(object.key).empty()) return;
    ++store->blobs_;
    store->bytes_ += object.size;
  }));
  return store;
}

absl::Status S3BlobStore::ClaimPrefix() {
  if (options_.owner.empty()) return absl::OkStatus();
  auto there = s3_.Get("OWNER");
  if (absl::IsNotFound(there.status())) {
    RETURN_IF_ERROR(s3_.Put("OWNER", options_.owner));
    there = s3_.Get("OWNER");  // somebody may have come between
  }
  RETURN_IF_ERROR(there.status());
  if (*there == options_.owner) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("s3://", options_.s3.bucket, "/", options_.s3.prefix, " keeps the blobs of ", Quoted(*there, 80),
                   ", not of ", options_.owner,
                   " (STORE_ID in the data folder): choose another prefix, or if its data folder is gone "
                   "for good remove the object OWNER"));
}

// ---------------------------------------------------------------- uses

// `name` is what follows used/<hash>/.
void S3BlobStore::AddUse(const std::string& key, std::string_view name, absl::Time now, Uses* uses) {
  int64_t seconds = 0;
  uses->keys.push_back(key);
  absl::string_view text = AbslView(name);
  if (absl::ConsumePrefix(&text, "doomed-")) {
    if (absl::SimpleAtoi(text, &seconds) && now - absl::FromUnixSeconds(seconds) < kDoomLasts) uses->doomed = true;
  } else if (absl::SimpleAtoi(text, &seconds)) {
    uses->newest = std::max(uses->newest, absl::FromUnixSeconds(seconds));
  }
}

absl::StatusOr<S3BlobStore::Uses> S3BlobStore::ReadUses(const std::string& sha256) {
  const std::string prefix = absl::StrCat("used/", sha256, "/");
  const absl::Time now = options_.clock->Now();
  Uses uses;
  RETURN_IF_ERROR(s3_.List(prefix, [&](const S3Client::Object& object) {
    AddUse(object.key, std::string_view(object.key).substr(prefix.size()), now, &uses);
  }));
  return uses;
}

bool S3BlobStore::UsedLately(const BlobId& blob) {
  MutexLock lock(&mu_);
  const auto it = used_.find(blob.sha256);
  return it != used_.end() && it->second.size == blob.size_bytes &&
         options_.clock->Now() - it->second.time < options_.touch_interval;
}

void S3BlobStore::Remember(const BlobId& blob, absl::Time used) {
  MutexLock lock(&mu_);
  if (used_.size() >= kMaxRemembered) used_.clear();
  used_[blob.sha256] = {used, blob.size_bytes};
}

void S3BlobStore::Forget(const std::string& sha256) {
  MutexLock lock(&mu_);
  used_.erase(sha256);
}

absl::StatusOr<bool> S3BlobStore::MarkUsed(const std::string& sha256) {
  RETURN_IF_ERROR(s3_.Put(UseKey(sha256, options_.clock->Now()), ""));
  ASSIGN_OR_RETURN(const Uses uses, ReadUses(sha256));
  return !uses.doomed;
}

absl::StatusOr<bool> S3BlobStore::Touch(const BlobId& blob) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  if (UsedLately(blob)) return true;
  const absl::Time now = options_.clock->Now();
  ASSIGN_OR_RETURN(const auto size, s3_.Head(S3BlobKey(blob.sha256)));
  if (size != blob.size_bytes) return false;
  ASSIGN_OR_RETURN(const bool marked, MarkUsed(blob.sha256));
  // Looked for again: a Remove may have ended between the two.
  ASSIGN_OR_RETURN(const auto still, s3_.Head(S3BlobKey(blob.sha256)));
  if (!marked || still != blob.size_bytes) return false;
  Remember(blob, now);
  return true;
}

// ---------------------------------------------------------------- write

absl::StatusOr<int64_t> S3BlobStore::CommittedSize(std::string_view upload_id, const BlobId& blob) {
  RETURN_IF_ERROR(CheckUploadId(upload_id));
  RETURN_IF_ERROR(CheckBlobId(blob));
  ASSIGN_OR_RETURN(const auto upload, LoadS3Upload(&s3_, S3UploadKey(upload_id, blob.sha256), blob));
  return upload.has_value() ? upload->state.committed() : 0;
}

absl::StatusOr<std::unique_ptr<BlobWriter>> S3BlobStore::OpenWriter(std::string_view upload_id, const BlobId& blob,
                                                                    int64_t write_offset) {
  RETURN_IF_ERROR(CheckUploadId(upload_id));
  RETURN_IF_ERROR(CheckBlobId(blob));
  if (blob.size_bytes > options_.max_blob_bytes) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("a blob of ", blob.size_bytes, " bytes is over the limit of ",
                                                  options_.max_blob_bytes, " (quantd --max-blob)")),
        "BLOB_TOO_LARGE", {{"limit", absl::StrCat(options_.max_blob_bytes)}});
  }
  const int64_t part_bytes =
      std::max(options_.part_bytes, (blob.size_bytes + options_.max_parts - 1) / options_.max_parts);
  const int64_t buffer_bytes = std::min(part_bytes, blob.size_bytes);
  std::string key = S3UploadKey(upload_id, blob.sha256);
  {
    MutexLock lock(&mu_);
    if (open_.contains(key)) {
      return WithReason(absl::AbortedError(absl::StrCat("another stream is writing upload ", Quoted(upload_id))),
                        "UPLOAD_BUSY", {}, absl::Seconds(1));
    }
    if (buffer_bytes_ + buffer_bytes > options_.max_buffer_bytes && !open_.empty()) {
      return WithReason(absl::UnavailableError(
                            absl::StrCat("the parts of ", open_.size(), " open uploads fill their memory; try again")),
                        "SERVER_BUSY", {}, absl::Seconds(1));
    }
    open_.insert(key);
    buffer_bytes_ += buffer_bytes;
  }
  auto resumed = LoadS3Upload(&s3_, key, blob);
  if (!resumed.ok()) {
    CloseUpload(key, buffer_bytes);
    return resumed.status();
  }
  const int64_t committed = resumed->has_value() ? (*resumed)->state.committed() : 0;
  auto writer =
      std::make_unique<S3BlobWriter>(this, std::move(key), blob, part_bytes, buffer_bytes, *std::move(resumed));
  if (write_offset != committed) {
    return WithReason(absl::OutOfRangeError(absl::StrCat("write_offset is ", write_offset, " but ", committed,
                                                         " bytes of upload ", Quoted(upload_id), " are committed")),
                      "UPLOAD_OFFSET_MISMATCH", {{"committed", absl::StrCat(committed)}});
  }
  return writer;
}

void S3BlobStore::CloseUpload(const std::string& key, int64_t buffer_bytes) {
  MutexLock lock(&mu_);
  open_.erase(key);
  buffer_bytes_ -= buffer_bytes;
}

absl::StatusOr<bool> S3BlobStore::PrepareToPublish(const BlobId& blob) {
  // The use comes first, so that there is no moment at which the blob is there and looks unused.
  ASSIGN_OR_RETURN(const bool marked, MarkUsed(blob.sha256));
  if (!marked) {
    return WithReason(absl::UnavailableError(absl::StrCat("blob ", blob.sha256, " is being removed; try again")),
                      "SERVER_BUSY", {}, absl::Seconds(1));
  }
  ASSIGN_OR_RETURN(const auto size, s3_.Head(S3BlobKey(blob.sha256)));
  return size.has_value();
}

void S3BlobStore::Published(const BlobId& blob, bool was_there) {
  Remember(blob, options_.clock->Now());
  if (was_there) return;
  ++blobs_;
  bytes_ += blob.size_bytes;
}

// ---------------------------------------------------------------- read

// Asks for more at a time as reading goes on, and keeps the last answer.
class S3BlobReader : public BlobReader {
 public:
  S3BlobReader(S3BlobStore* store, BlobId blob) : store_(store), blob_(std::move(blob)) {}

  absl::StatusOr<std::string> Read(int64_t offset, int64_t size) override {
    size = std::min(size, blob_.size_bytes - offset);
    if (offset < 0 || size <= 0) return std::string();
    MutexLock lock(&mu_);
    const int64_t end = start_ + std::ssize(window_);
    if (offset < start_ || offset + size > end) {
      const bool onwards = offset == end && offset > 0;
      next_ = onwards ? std::min(2 * next_, store_->options_.read_bytes) : kFirstRead;
      RETURN_IF_ERROR(Fetch(offset, onwards ? std::max(size, next_) : size));
    }
    return window_.substr(static_cast<size_t>(offset - start_), static_cast<size_t>(size));
  }

 private:
  absl::Status Fetch(int64_t offset, int64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!store_->UsedLately(blob_)) RETURN_IF_ERROR(store_->Touch(blob_).status());
    size = std::min(size, blob_.size_bytes - offset);
    auto bytes = store_->s3_.Get(S3BlobKey(blob_.sha256), offset, size);
    if (absl::IsNotFound(bytes.status())) store_->Forget(blob_.sha256);
    RETURN_IF_ERROR(bytes.status());
    if (std::ssize(*bytes) != size) {
      return absl::DataLossError(
          absl::StrCat("blob ", blob_.sha256, " has other bytes than its ", blob_.size_bytes, " in S3"));
    }
    window_ = *std::move(bytes);
    start_ = offset;
    return absl::OkStatus();
  }

  S3BlobStore* const store_;
  const BlobId blob_;
  Mutex mu_;
  std::string window_ ABSL_GUARDED_BY(mu_);
  int64_t start_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t next_ ABSL_GUARDED_BY(mu_) = kFirstRead;
};

absl::StatusOr<std::unique_ptr<BlobReader>> S3BlobStore::OpenReader(const BlobId& blob) {
  ASSIGN_OR_RETURN(const bool stored, Touch(blob));
  if (!stored) return absl::NotFoundError(absl::StrCat("no blob ", blob.sha256, " of ", blob.size_bytes, " bytes"));
  return std::make_unique<S3BlobReader>(this, blob);
}

// ---------------------------------------------------------------- housekeeping

absl::StatusOr<std::vector<BlobId>> S3BlobStore::Stale(absl::Time before) {
  // Some hundred bytes of memory per blob while it lasts.
  struct Seen {
    int64_t size = -1;
    absl::Time modified;
    Uses uses;
  };
  std::unordered_map<std::string, Seen> all;
  Stats found;
  RETURN_IF_ERROR(s3_.List("sha256/", [&](const S3Client::Object& object) {
    const std::string hash = HashOf(object.key);
    if (hash.empty()) return;
    ++found.blobs;
    found.bytes += object.size;
    all[hash] = {object.size, object.modified, {}};
  }));
  blobs_ = found.blobs;
  bytes_ = found.bytes;
  const absl::Time now = options_.clock->Now();
  RETURN_IF_ERROR(s3_.List("used/", [&](const S3Client::Object& object) {
    if (object.key.size() < 70 || object.key[69] != '/') return;
    AddUse(object.key, std::string_view(object.key).substr(70), now, &all[object.key.substr(5, 64)].uses);
  }));
  std::vector<BlobId> stale;
  for (const auto& [hash, seen] : all) {
    const bool stored = seen.size >= 0;
    // Without a recorded use (somebody removed it) the blob is as old as its object.
    const absl::Time used = seen.uses.newest > absl::InfinitePast() ? seen.uses.newest : seen.modified;
    if (stored && used < before) stale.push_back({hash, seen.size});
    // Older marks than the newest use say nothing any more.
    for (const std::string& key : seen.uses.keys) {
      const bool keep = key == UseKey(hash, seen.uses.newest) ? stored || seen.uses.newest >= before : seen.uses.doomed;
      if (!keep) RETURN_IF_ERROR(s3_.Delete(key));
    }
  }
  return stale;
}

absl::StatusOr<bool> S3BlobStore::Remove(const BlobId& blob, absl::Time before) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  const std::string blob_key = S3BlobKey(blob.sha256);
  std::optional<S3Client::Object> object;
  RETURN_IF_ERROR(s3_.List(blob_key, [&](S3Client::Object found) { object = std::move(found); }));
  if (!object.has_value()) return false;
  ASSIGN_OR_RETURN(Uses uses, ReadUses(blob.sha256));
  const auto young = [&] { return (uses.newest > absl::InfinitePast() ? uses.newest : object->modified) >= before; };
  if (young()) return false;
  const std::string doom = DoomKey(blob.sha256, options_.clock->Now());
  RETURN_IF_ERROR(s3_.Put(doom, ""));
  ASSIGN_OR_RETURN(uses, ReadUses(blob.sha256));
  if (young()) {
    RETURN_IF_ERROR(s3_.Delete(doom));
    return false;
  }
  Forget(blob.sha256);
  RETURN_IF_ERROR(s3_.Delete(blob_key));
  --blobs_;
  bytes_ -= object->size;
  for (const std::string& key : uses.keys) {
    if (key != doom) RETURN_IF_ERROR(s3_.Delete(key));
  }
  RETURN_IF_ERROR(s3_.Delete(doom));  // the last: until then nobody stores the blob anew
  return true;
}

absl::StatusOr<int64_t> S3BlobStore::DropUploads(absl::Time before) {
  std::vector<S3Client::Object> states;
  RETURN_IF_ERROR(s3_.List("uploads/", [&](S3Client::Object object) { states.push_back(std::move(object)); }));
  std::set<std::string> alive;  // multipart ids
  int64_t bytes = 0;
  for (const S3Client::Object& object : states) {
    const std::string_view key = object.key;
    if (key.size() < 8 + 66 || !IsSha256Hex(key.substr(key.size() - 64))) continue;  // not ours
    const auto text = s3_.Get(object.key);
    if (absl::IsNotFound(text.status())) continue;  // finished meanwhile
    RETURN_IF_ERROR(text.status());
    const std::optional<S3UploadState> state = S3UploadState::Decode(*text);
    {
      MutexLock lock(&mu_);
      if (open_.contains(object.key) || object.modified >= before) {
        if (state.has_value()) alive.insert(state->multipart_id);
        continue;
      }
      open_.insert(object.key);  // no writer opens it meanwhile
    }
    absl::Status status = s3_.Delete(object.key);
    if (status.ok() && state.has_value()) {
      bytes += state->committed();
      if (!state->multipart_id.empty())
        status = s3_.AbortUpload(S3BlobKey(key.substr(key.size() - 64)), state->multipart_id);
    }
    CloseUpload(object.key, 0);
    RETURN_IF_ERROR(status);
  }
  // Parts that a crash left before the first state was written.
  ASSIGN_OR_RETURN(const std::vector<S3Client::Upload> uploads, s3_.ListUploads("sha256/"));
  const auto open = [&](const std::string& hash) {
    MutexLock lock(&mu_);
    return std::any_of(open_.begin(), open_.end(), [&](const std::string& key) { return absl::EndsWith(key, hash); });
  };
  for (const S3Client::Upload& upload : uploads) {
    const std::string hash = HashOf(upload.key);
    if (hash.empty() || upload.initiated >= before || alive.contains(upload.id) || open(hash)) continue;
    RETURN_IF_ERROR(s3_.AbortUpload(upload.key, upload.id));
  }
  return bytes;
}

}  // namespace quant

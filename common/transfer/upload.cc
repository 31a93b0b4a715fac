// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "common/blob_message.h"
#include "common/grpc_status.h"
#include "common/transfer/internal.h"
#include "common/transfer/raw_call.h"
#include "common/transfer/transfer.h"
#include "common/unique_fd.h"
#include "quant/v1/artifacts.grpc.pb.h"

namespace quant {
namespace {

using transfer_internal::FileError;
using transfer_internal::Fill;
using transfer_internal::MoveAll;
using transfer_internal::Prepare;
using transfer_internal::RawCall;
using transfer_internal::StopFn;
using transfer_internal::TellFn;

constexpr size_t kDigestsPerCall = 10'000;  // the server's limit
constexpr int64_t kLargestMessage = int64_t{2} << 20;

// `size` bytes from `offset`; none at an early end of file.
absl::StatusOr<std::optional<grpc::Slice>> ReadFully(int fd, const std::filesystem::path& path, int64_t offset,
                                                     size_t size) {
  auto data = std::make_unique_for_overwrite<char[]>(size);
  for (size_t have = 0; have < size;) {
    const ssize_t n = pread(fd, data.get() + have, size - have, offset + static_cast<int64_t>(have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "read", path);
    if (n == 0) return std::nullopt;
    have += static_cast<size_t>(n);
  }
  return grpc::Slice(data.release(), size, [](void* bytes) { delete[] static_cast<char*>(bytes); });
}

absl::Status Changed(const LocalFile& file) {
  return absl::FailedPreconditionError(absl::StrCat(file.path.string(), " changed since it was hashed (it had ",
                                                    file.digest.size_bytes,
                                                    " bytes): run again when nothing writes to it"));
}

}  // namespace

std::string UploadId(const FileDigest& digest) { return digest.sha256; }

struct BlobUploader::Rep {
  Rep(std::shared_ptr<grpc::ChannelInterface> channel, TransferOptions opts)
      : stub(v1::ArtifactService::NewStub(channel)), raw(std::move(channel)), options(std::move(opts)) {}

  std::unique_ptr<v1::ArtifactService::StubInterface> stub;
  grpc::GenericStub raw;
  TransferOptions options;

  absl::Status Query(const FileDigest& digest, v1::QueryWriteStatusResponse& response) {
    grpc::ClientContext context;
    Prepare(options, options.call_deadline, context);
    v1::QueryWriteStatusRequest request;
    request.set_upload_id(UploadId(digest));
    Fill(digest, *request.mutable_digest());
    return FromGrpc(stub->QueryWriteStatus(&context, request, &response));
  }

  // One WriteBlob stream from `offset` to the end of the file.
  absl::Status Stream(int fd, const LocalFile& file, int64_t offset, const StopFn& stop,
                      const std::function<void(int64_t)>& sent) {
    grpc::ClientContext context;
    Prepare(options, options.stream_deadline, context);
    RawCall call(&raw, "/quant.v1.ArtifactService/WriteBlob", &context);
    v1::WriteBlobRequest request;  // but for its data
    request.set_upload_id(UploadId(file.digest));
    Fill(file.digest, *request.mutable_digest());
    const int64_t size = file.digest.size_bytes;
    absl::Status local;
    while (true) {
      if (stop()) {
        local = absl::CancelledError("upload stopped");
        break;
      }
      const int64_t count = std::min(options.message_bytes, size - offset);
      auto data = ReadFully(fd, file.path, offset, static_cast<size_t>(count));
      if (!data.ok() || !data->has_value()) {
        local = data.ok() ? Changed(file) : data.status();
        break;
      }
      request.set_write_offset(offset);
      request.set_finish_write(offset + count == size);
      // False: the server has answered or the connection is gone; End tells which.
      if (!call.Write(JoinMessage(request, v1::WriteBlobRequest::kDataFieldNumber, **std::move(data)))) break;
      offset += count;
      sent(offset);
      if (offset == size) break;
      request.clear_upload_id();
      request.clear_digest();
    }
    if (!local.ok()) context.TryCancel();
    call.WritesDone();
    grpc::ByteBuffer answer;
    const bool answered = call.Read(&answer);
    absl::Status status = call.End();
    if (!local.ok()) return local;
    if (!status.ok()) return status;
    v1::WriteBlobResponse response;
    if (!answered || !FromByteBuffer(&answer, &response).ok()) {
      return absl::InternalError("the server ended an upload without an answer");
    }
    if (response.complete()) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the server ended the upload at ", response.committed_size(), " of ", size, " bytes"));
  }

  absl::Status Upload(const LocalFile& file, const StopFn& stop, const TellFn& tell);
};

absl::Status BlobUploader::Rep::Upload(const LocalFile& file, const StopFn& stop, const TellFn& tell) {
  UniqueFd fd(open(file.path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return FileError(errno, "read", file.path);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return FileError(errno, "read", file.path);
  const int64_t size = file.digest.size_bytes;
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(file.path.string(), " is not a file"));
  if (info.st_size != size) return Changed(file);

  RetryOptions retry = options.retry;
  retry.cancelled = stop;
  Backoff backoff(retry);
  int64_t committed_before = 0;
  int64_t skipped = 0;
  bool began = false;
  while (true) {
    if (stop()) return absl::CancelledError("upload stopped");
    v1::QueryWriteStatusResponse at;
    absl::Status status = Query(file.digest, at);
    if (status.ok()) {
      const int64_t committed = at.complete() ? size : at.committed_size();
      if (committed < 0 || committed > size) {
        return absl::InternalError(absl::StrCat("the server says that ", committed, " of ", size, " bytes of ",
                                                file.digest.sha256, " are there"));
      }
      if (committed > committed_before) {
        backoff.Progress();
        committed_before = committed;
      }
      if (!began) skipped = committed;
      tell(committed, skipped,
           committed > 0 && !at.complete()
               ? absl::StrCat("resuming ", file.path.filename().string(), " at ", committed, " of ", size, " bytes")
               : "");
      began = true;
      if (at.complete()) return absl::OkStatus();
      status = Stream(fd.get(), file, committed, stop, [&](int64_t done) { tell(done, skipped, ""); });
    }
    if (status.ok()) {
      tell(size, skipped, "");
      return status;
    }
    if (stop()) return absl::CancelledError("upload stopped");
    const std::string reason = ReasonOf(status);
    if (reason == "BLOB_DIGEST_MISMATCH") {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat("the server got other bytes of ", file.path.string(),
                                                     " than were hashed: ", status.message(),
                                                     ". Did the file change? Run again when nothing writes to it")),
          reason);
    }
    const bool passes = reason == "UPLOAD_BUSY" || reason == "UPLOAD_OFFSET_MISMATCH" ||
                        (reason == "DISK_FULL" && options.wait_for_room);
    if (!IsBrokenStream(status) && !passes) return status;
    tell(committed_before, skipped,
         backoff.failures() > 0   ? ""
         : IsBrokenStream(status) ? absl::StrCat("lost the server (", status.message(), "); trying again")
                                  : absl::StrCat(status.message(), "; trying again"));
    if (absl::Status wait = backoff.Wait(status); !wait.ok()) return wait;
  }
}

BlobUploader::BlobUploader(std::shared_ptr<grpc::ChannelInterface> channel, TransferOptions options)
    : rep_(std::make_unique<Rep>(std::move(channel), std::move(options))) {
  rep_->options.message_bytes = std::clamp(rep_->options.message_bytes, int64_t{1}, kLargestMessage);
}
BlobUploader::~BlobUploader() = default;
BlobUploader::BlobUploader(BlobUploader&&) noexcept = default;
BlobUploader& BlobUploader::operator=(BlobUploader&&) noexcept = default;

absl::StatusOr<std::vector<FileDigest>> BlobUploader::FindMissing(const std::vector<FileDigest>& digests) {
  std::vector<FileDigest> missing;
  std::set<std::pair<std::string, int64_t>> asked;
  for (auto next = digests.begin(); next != digests.end();) {
    v1::FindMissingBlobsRequest request;
    for (; next != digests.end() && static_cast<size_t>(request.digests_size()) < kDigestsPerCall; ++next) {
      if (asked.emplace(next->sha256, next->size_bytes).second) Fill(*next, *request.add_digests());
    }
    if (request.digests().empty()) break;
    Backoff backoff(rep_->options.retry);
    v1::FindMissingBlobsResponse response;
    while (true) {
      grpc::ClientContext context;
      Prepare(rep_->options, rep_->options.call_deadline, context);
      response.Clear();
      absl::Status status = FromGrpc(rep_->stub->FindMissingBlobs(&context, request, &response));
      if (status.ok()) break;
      if (!IsWorthRepeating(status)) return status;
      if (absl::Status wait = backoff.Wait(status); !wait.ok()) return wait;
    }
    for (const v1::Digest& digest : response.missing()) missing.push_back({digest.sha256(), digest.size_bytes()});
  }
  return missing;
}

absl::Status BlobUploader::Upload(const LocalFile& file, const TransferProgressFn& progress) {
  return MoveAll({file}, rep_->options, progress, [&](const LocalFile& one, const StopFn& stop, const TellFn& tell) {
    return rep_->Upload(one, stop, tell);
  });
}

absl::Status BlobUploader::UploadMissing(const std::vector<LocalFile>& files, const TransferProgressFn& progress) {
  std::vector<FileDigest> digests;
  digests.reserve(files.size());
  for (const LocalFile& file : files) digests.push_back(file.digest);
  absl::StatusOr<std::vector<FileDigest>> missing = FindMissing(digests);
  if (!missing.ok()) return missing.status();
  std::set<std::string> wanted;
  for (const FileDigest& digest : *missing) wanted.insert(digest.sha256);
  std::vector<LocalFile> sent;
  for (const LocalFile& file : files) {
    if (wanted.erase(file.digest.sha256) != 0) sent.push_back(file);  // else stored, or sent under another path
  }
  return MoveAll(sent, rep_->options, progress, [&](const LocalFile& one, const StopFn& stop, const TellFn& tell) {
    return rep_->Upload(one, stop, tell);
  });
}

}  // namespace quant

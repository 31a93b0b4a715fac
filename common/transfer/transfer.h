// SPDX-License-Identifier: Apache-2.0
// Moves blobs between local files and a quant.v1.ArtifactService: resumable, verified, repeated when the connection or
// the server goes away. Used by quantctl and by the worker's agent.
//
//   BlobUploader up(channel, {});
//   absl::Status s = up.UploadMissing({{"/tmp/model.onnx", digest}}, [](const TransferProgress& p) { … });
//   BlobDownloader down(channel, {});
//   s = down.Download(digest, "/cache/ab12…");
//
// What is repeated: UNAVAILABLE and streams that broke (retry.h), from where the other side got to, until nothing moves
// for RetryOptions::give_up_after. What is never repeated: a digest that does not match, a refusal of any other kind.
#ifndef QUANT_COMMON_TRANSFER_TRANSFER_H_
#define QUANT_COMMON_TRANSFER_TRANSFER_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/digest.h"
#include "common/transfer/retry.h"

namespace grpc {
class ChannelArguments;
class ChannelInterface;
class ClientContext;
}  // namespace grpc

namespace quant {

struct TransferOptions {
  // Bytes per message, 1 to 2 MiB (the server's limit); values outside are clamped.
  int64_t message_bytes = int64_t{1} << 20;
  // Files moved at the same time, each in its own stream.
  int parallel = 4;
  // Deadline of a unary call.
  absl::Duration call_deadline = absl::Seconds(30);
  // Deadline of one stream. A transfer that takes longer goes on in a new stream from where this one ended, so this is
  // only how long a server may hang before it is noticed.
  absl::Duration stream_deadline = absl::Minutes(10);
  RetryOptions retry;
  // Treat the server's full disk (reason DISK_FULL) as something that passes, like a lost connection.
  bool wait_for_room = false;
  // Called on each new call's context, e.g. to add an authorization header.
  std::function<void(grpc::ClientContext&)> prepare;
};

// How far a transfer is. All counts are bytes over everything the call was asked to move.
struct TransferProgress {
  int64_t done_bytes = 0;     // on the other side for sure, or handed to the connection
  int64_t total_bytes = 0;    // of the files that are moved at all
  int64_t skipped_bytes = 0;  // part of done_bytes that was there already (a resume); the rest was moved by this call
  // A sentence when something worth telling happened ("resuming at 12 MiB of 40 MiB", "connection lost, …"); else
  // empty.
  std::string note;
};
// Called at least once per message, from one thread at a time, which may be another at each call.
using TransferProgressFn = std::function<void(const TransferProgress&)>;

// Sets the channel's windows and frames for messages of a megabyte; gRPC's defaults make each wait for the one before.
void TuneChannelForBlobs(grpc::ChannelArguments& args);

// Keeps freed memory of a message's size for the next message, up to 64 MiB; the allocator's default gives it back to
// the kernel and gets it again page by page. For main(), before threads.
void KeepMemoryForMessages();

// A file and what it must hash to.
struct LocalFile {
  std::filesystem::path path;
  FileDigest digest;
};

// The upload_id under which bytes with this digest are sent: the same for every run, so that a new run resumes what an
// earlier one left.
std::string UploadId(const FileDigest& digest);

// Uploads files as blobs. Thread-safe; each call uses its own streams.
class BlobUploader {
 public:
  BlobUploader(std::shared_ptr<grpc::ChannelInterface> channel, TransferOptions options);
  ~BlobUploader();
  BlobUploader(BlobUploader&&) noexcept;
  BlobUploader& operator=(BlobUploader&&) noexcept;

  // Those of `digests` that the server lacks, each once, in the order of their first appearance. Any number; asked in
  // portions of 10,000.
  absl::StatusOr<std::vector<FileDigest>> FindMissing(const std::vector<FileDigest>& digests);

  // Uploads one blob, beginning where the server says an earlier upload of it ended. OK once the server has verified
  // and published it (also when somebody else uploads it meanwhile).
  //   NOT_FOUND, PERMISSION_DENIED …: the file cannot be read.
  //   FAILED_PRECONDITION: the file changed since it was hashed (its size differs), or the server computed another
  //     digest (reason BLOB_DIGEST_MISMATCH): hash it again. Never repeated.
  //   UNAVAILABLE: nothing moved for retry.give_up_after.
  //   RESOURCE_EXHAUSTED and others: the server's refusal as it is.
  absl::Status Upload(const LocalFile& file, const TransferProgressFn& progress = nullptr);

  // FindMissing, then Upload of each missing file once, begun in the given order, several at a time. Progress counts
  // the missing files only. The first error stops the others, which go on where they were in a later run.
  absl::Status UploadMissing(const std::vector<LocalFile>& files, const TransferProgressFn& progress = nullptr);

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

// Downloads blobs to files. Thread-safe; each call uses its own streams.
class BlobDownloader {
 public:
  BlobDownloader(std::shared_ptr<grpc::ChannelInterface> channel, TransferOptions options);
  ~BlobDownloader();
  BlobDownloader(BlobDownloader&&) noexcept;
  BlobDownloader& operator=(BlobDownloader&&) noexcept;

  // Fetches a blob to `dst`, replacing what is there. The bytes go to ".NAME.<digest>.part" beside it and are renamed
  // only once their SHA-256 is right and they are on disk: dst never holds anything else. Such a part left by an
  // interrupted run is taken up again; two runs for one dst do not disturb each other.
  //   DATA_LOSS: the server sent other bytes than the digest says. (A part of an earlier run may be the cause, so then
  //     it is fetched once more from the start; otherwise never repeated.)
  //   RESOURCE_EXHAUSTED: the disk is full.  NOT_FOUND, UNAVAILABLE and others: as the server says, or as in Upload.
  absl::Status Download(const FileDigest& digest, const std::filesystem::path& dst,
                        const TransferProgressFn& progress = nullptr);

  // Download of each file to its path, begun in the given order, several at a time. The first error stops the others.
  absl::Status DownloadAll(const std::vector<LocalFile>& files, const TransferProgressFn& progress = nullptr);

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace quant

#endif  // QUANT_COMMON_TRANSFER_TRANSFER_H_

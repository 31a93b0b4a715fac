// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "common/background_task.h"
#include "common/blob_message.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/thread_pool.h"
#include "common/transfer/internal.h"
#include "common/transfer/raw_call.h"
#include "common/transfer/transfer.h"
#include "common/unique_fd.h"
#include "common/write_at.h"
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

// The file that a download is written to before its rename.
struct Part {
  std::filesystem::path path;
  UniqueFd fd;
  int64_t size = 0;  // bytes from an earlier run
};

// Opens the part file of `dst`: the one an earlier run left, if no other process is using it, else one of our own.
absl::StatusOr<Part> OpenPart(const std::filesystem::path& dst, const FileDigest& digest) {
  static std::atomic<int> counter{0};
  const std::string stem = absl::StrCat(".", dst.filename().string().substr(0, 120), ".", digest.sha256.substr(0, 32));
  Part part;
  part.path = dst.parent_path() / absl::StrCat(stem, ".part");
  part.fd = UniqueFd(open(part.path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (part.fd.get() < 0 && errno != ELOOP) return FileError(errno, "write", part.path);
  struct stat mine, named;
  // The lock holder may have renamed the file between our open and our lock: then the name is another file or none.
  if (part.fd.get() >= 0 && flock(part.fd.get(), LOCK_EX | LOCK_NB) == 0 && fstat(part.fd.get(), &mine) == 0 &&
      lstat(part.path.c_str(), &named) == 0 && mine.st_ino == named.st_ino && mine.st_dev == named.st_dev &&
      S_ISREG(mine.st_mode)) {
    part.size = mine.st_size;
    return part;
  }
  part.path = dst.parent_path() / absl::StrCat(stem, ".", getpid(), "-", counter++, ".part");
  part.fd = UniqueFd(open(part.path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (part.fd.get() < 0) return FileError(errno, "write", part.path);
  return part;
}

// Hashes the first `size` bytes; false if they are not all there.
absl::StatusOr<bool> HashPrefix(const Part& part, int64_t size, Sha256& hash) {
  std::string buffer(size_t{1} << 20, '\0');
  for (int64_t at = 0; at < size;) {
    const ssize_t n = pread(part.fd.get(), buffer.data(),
                            static_cast<size_t>(std::min<int64_t>(size - at, static_cast<int64_t>(buffer.size()))), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "read", part.path);
    if (n == 0) return false;
    hash.Update(std::string_view(buffer.data(), static_cast<size_t>(n)));
    at += n;
  }
  return true;
}

// Writes what a stream receives on a thread of its own, and hashes it at the same time on one of `helpers`, so that the
// thread that reads the stream is never away from the connection for long. The thread starts with the second message:
// most files are one.
class Sink {
 public:
  // `have` and `hash` are the sink's until Close; `received` is called by its thread.
  Sink(ThreadPool* helpers, const Part& part, const FileDigest& digest, int64_t& have, Sha256& hash,
       const std::function<void()>& received)
      : helpers_(helpers), part_(part), digest_(digest), have_(have), hash_(hash), received_(received) {}
  ~Sink() { Close().IgnoreError(); }

  // Takes the next bytes; waits while kDepth messages are ahead of them. The error of any bytes before.
  absl::Status Push(BlobData data) {
    if (first_) {
      first_ = false;
      return Take(data);
    }
    MutexLock lock(&mu_);
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
    while (status_.ok() && queue_.size() >= kDepth) changed_.Wait(&mu_);
    if (status_.ok()) queue_.push_back(std::move(data));
    changed_.SignalAll();
    return status_;
  }

  // Waits until everything is taken; the first error.
  absl::Status Close() {
    {
      MutexLock lock(&mu_);
      closed_ = true;
      changed_.SignalAll();
    }
    if (thread_.joinable()) thread_.join();
    MutexLock lock(&mu_);
    return status_;
  }

 private:
  static constexpr size_t kDepth = 4;

  void Run() {
    while (true) {
      BlobData data;
      {
        MutexLock lock(&mu_);
        while (queue_.empty() && !closed_) changed_.Wait(&mu_);
        if (queue_.empty() || !status_.ok()) return;
        data = std::move(queue_.front());
        queue_.pop_front();
        changed_.SignalAll();
      }
      const absl::Status status = Take(data);
      MutexLock lock(&mu_);
      status_ = status;
      changed_.SignalAll();
    }
  }

  absl::Status Take(const BlobData& data) {
    const int64_t size = data.size();
    if (size > digest_.size_bytes - have_) {
      return absl::DataLossError(
          absl::StrCat("the server sent more than the ", digest_.size_bytes, " bytes of blob ", digest_.sha256));
    }
    BackgroundTask hash = UpdateBeside(helpers_, hash_, data.pieces());
    const int error = WriteAt(part_.fd.get(), data.pieces(), have_);
    // Starts writing back now, so that the fsync at the end finds little left to wait for. Only a hint.
    ::sync_file_range(part_.fd.get(), have_, static_cast<off64_t>(size), SYNC_FILE_RANGE_WRITE);
    hash.Wait();
    if (error != 0) {
      const absl::Status failed = FileError(error, "write", part_.path);
      // Never to be repeated: the hash is past what was written.
      return IsBrokenStream(failed) ? absl::InternalError(failed.message()) : failed;
    }
    have_ += size;
    received_();
    return absl::OkStatus();
  }

  ThreadPool* const helpers_;
  const Part& part_;
  const FileDigest& digest_;
  int64_t& have_;
  Sha256& hash_;
  const std::function<void()>& received_;
  bool first_ = true;
  std::thread thread_;
  Mutex mu_;
  CondVar changed_;
  std::deque<BlobData> queue_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

struct BlobDownloader::Rep {
  Rep(std::shared_ptr<grpc::ChannelInterface> channel, TransferOptions opts)
      : raw(std::move(channel)), options(std::move(opts)) {}

  grpc::GenericStub raw;
  TransferOptions options;
  ThreadPool helpers{/*threads=*/2, /*max_waiting=*/4};

  // One ReadBlob stream from `have` on; `have` and `hash` tell what arrived, whatever the outcome.
  absl::Status Stream(const FileDigest& digest, const Part& part, int64_t& have, Sha256& hash, const StopFn& stop,
                      const std::function<void()>& received) {
    grpc::ClientContext context;
    Prepare(options, options.stream_deadline, context);
    v1::ReadBlobRequest request;
    Fill(digest, *request.mutable_digest());
    request.set_read_offset(have);
    absl::Status local;
    Sink sink(&helpers, part, digest, have, hash, received);
    RawCall call(&raw, "/quant.v1.ArtifactService/ReadBlob", &context);
    call.Write(ToByteBuffer(request));
    call.WritesDone();
    grpc::ByteBuffer message;
    while (call.Read(&message)) {
      v1::ReadBlobResponse response;
      BlobData data;
      local = stop() ? absl::CancelledError("download stopped")
                     : SplitMessage(&message, v1::ReadBlobResponse::kDataFieldNumber, &response, &data);
      if (local.ok()) local = sink.Push(std::move(data));
      if (!local.ok()) {
        context.TryCancel();
        break;
      }
    }
    if (absl::Status taken = sink.Close(); local.ok()) local = taken;
    absl::Status status = call.End();
    if (!local.ok()) return local;
    if (status.ok() && have < digest.size_bytes) {
      return absl::DataLossError(
          absl::StrCat("the server ended blob ", digest.sha256, " at ", have, " of ", digest.size_bytes, " bytes"));
    }
    return status;
  }

  // Streams until the part is whole, repeating what breaks.
  absl::Status Fetch(const FileDigest& digest, const Part& part, int64_t& have, Sha256& hash, const StopFn& stop,
                     const std::function<void(std::string)>& tell) {
    RetryOptions retry = options.retry;
    retry.cancelled = stop;
    Backoff backoff(retry);
    while (true) {
      if (stop()) return absl::CancelledError("download stopped");
      const int64_t before = have;
      absl::Status status = Stream(digest, part, have, hash, stop, [&] { tell(""); });
      if (status.ok()) return status;
      if (stop()) return absl::CancelledError("download stopped");
      if (!IsBrokenStream(status)) return status;
      if (have > before) backoff.Progress();
      if (backoff.failures() == 0) tell(absl::StrCat("lost the server (", status.message(), "); trying again"));
      if (absl::Status wait = backoff.Wait(status); !wait.ok()) return wait;
    }
  }

  absl::Status Download(const FileDigest& digest, const std::filesystem::path& dst, const StopFn& stop,
                        const TellFn& report);
};

BlobDownloader::BlobDownloader(std::shared_ptr<grpc::ChannelInterface> channel, TransferOptions options)
    : rep_(std::make_unique<Rep>(std::move(channel), std::move(options))) {}
BlobDownloader::~BlobDownloader() = default;
BlobDownloader::BlobDownloader(BlobDownloader&&) noexcept = default;
BlobDownloader& BlobDownloader::operator=(BlobDownloader&&) noexcept = default;

absl::Status BlobDownloader::Rep::Download(const FileDigest& digest, const std::filesystem::path& dst,
                                           const StopFn& stop, const TellFn& report) {
  if (!IsSha256Hex(digest.sha256) || digest.size_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a digest: \"", digest.sha256, "\" of ", digest.size_bytes, " bytes"));
  }
  absl::StatusOr<Part> part = OpenPart(dst, digest);
  if (!part.ok()) return part.status();
  bool keep = false;
  absl::Cleanup drop = [&] {
    if (!keep) unlink(part->path.c_str());
  };

  int64_t have = part->size;
  for (bool first = true;; first = false) {
    std::optional<Sha256> hash(std::in_place);
    if (have > digest.size_bytes || !first) have = 0;
    if (ftruncate(part->fd.get(), have) != 0) return FileError(errno, "write", part->path);
    absl::StatusOr<bool> hashed = HashPrefix(*part, have, *hash);
    if (!hashed.ok()) return hashed.status();
    if (!*hashed) {
      have = 0;
      hash.emplace();
    }
    const int64_t resumed = have;
    const auto tell = [&](std::string note) { report(have, resumed, std::move(note)); };
    tell(resumed > 0
             ? absl::StrCat("resuming ", dst.filename().string(), " at ", resumed, " of ", digest.size_bytes, " bytes")
             : "");
    if (have < digest.size_bytes || have == 0) {
      if (absl::Status status = Fetch(digest, *part, have, *hash, stop, tell); !status.ok()) {
        keep = have > 0 && IsBrokenStream(status);  // the next run goes on here
        return status;
      }
    }
    const std::string got = hash->Finish();
    if (got == digest.sha256) break;
    if (resumed == 0) {
      return absl::DataLossError(absl::StrCat("the server's bytes of blob ", digest.sha256, " hash to ", got,
                                              ": its store is damaged, or something changes bytes on the way"));
    }
  }
  if (fsync(part->fd.get()) != 0) return FileError(errno, "write", part->path);
  if (rename(part->path.c_str(), dst.c_str()) != 0) return FileError(errno, "write", dst);
  keep = true;
  return absl::OkStatus();
}

absl::Status BlobDownloader::DownloadAll(const std::vector<LocalFile>& files, const TransferProgressFn& progress) {
  return MoveAll(files, rep_->options, progress, [&](const LocalFile& file, const StopFn& stop, const TellFn& tell) {
    return rep_->Download(file.digest, file.path, stop, tell);
  });
}

absl::Status BlobDownloader::Download(const FileDigest& digest, const std::filesystem::path& dst,
                                      const TransferProgressFn& progress) {
  return DownloadAll({{dst, digest}}, progress);
}

}  // namespace quant

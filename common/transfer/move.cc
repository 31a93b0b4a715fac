// SPDX-License-Identifier: Apache-2.0
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <utility>

#include "common/mutex.h"
#include "common/transfer/internal.h"
#include "grpcpp/support/channel_arguments.h"

namespace quant {

void TuneChannelForBlobs(grpc::ChannelArguments& args) {
  args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 2 << 20);
  args.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
}

void KeepMemoryForMessages() {
  ::mallopt(M_MMAP_THRESHOLD, 8 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

}  // namespace quant

namespace quant::transfer_internal {
namespace {

// The sum over files. Thread-safe.
class Tally {
 public:
  Tally(const std::vector<LocalFile>& files, const TransferProgressFn& progress)
      : progress_(progress), done_(files.size()), skipped_(files.size()) {
    for (const LocalFile& file : files) sum_.total_bytes += std::max<int64_t>(0, file.digest.size_bytes);
  }

  void Tell(size_t file, int64_t done, int64_t skipped, std::string note) {
    if (!progress_) return;
    MutexLock lock(&mu_);
    sum_.done_bytes += done - std::exchange(done_[file], done);
    sum_.skipped_bytes += skipped - std::exchange(skipped_[file], skipped);
    sum_.note = std::move(note);
    progress_(sum_);
  }

 private:
  const TransferProgressFn& progress_;
  Mutex mu_;
  TransferProgress sum_ ABSL_GUARDED_BY(mu_);
  std::vector<int64_t> done_ ABSL_GUARDED_BY(mu_);
  std::vector<int64_t> skipped_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

absl::Status MoveAll(const std::vector<LocalFile>& files, const TransferOptions& options,
                     const TransferProgressFn& progress, const MoveFn& move) {
  Tally tally(files, progress);
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  Mutex mu;
  absl::Status first_error;  // guarded by mu
  const StopFn stop = [&] { return failed || (options.retry.cancelled && options.retry.cancelled()); };
  const auto work = [&] {
    for (size_t i; !failed && (i = next++) < files.size();) {
      const absl::Status status = move(files[i], stop, [&tally, i](int64_t done, int64_t skipped, std::string note) {
        tally.Tell(i, done, skipped, std::move(note));
      });
      if (status.ok()) continue;
      MutexLock lock(&mu);
      if (!failed.exchange(true)) first_error = status;
    }
  };
  const size_t count = std::min(files.size(), static_cast<size_t>(std::max(1, options.parallel)));
  std::vector<std::thread> others;
  for (size_t i = 1; i < count; ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  return first_error;
}

}  // namespace quant::transfer_internal

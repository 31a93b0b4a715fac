// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/file_blob_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/file_io.h"

namespace quant {
namespace {
// The number has a fixed width, so that writing it again replaces it wholly and within one disk sector.
constexpr size_t kNumberWidth = 20;
// A stream waits for its commit when the next one is due for this many times its distance.
constexpr int64_t kFarAhead = 4;

absl::Status Ended() { return absl::FailedPreconditionError("the upload has ended"); }

}  // namespace

std::filesystem::path CommittedPath(const std::filesystem::path& partial) {
  std::filesystem::path path = partial;
  path += ".committed";
  return path;
}

int64_t CommittedBytes(const std::filesystem::path& partial) {
  struct stat info;
  if (::stat(partial.c_str(), &info) != 0) return 0;
  const auto fd = OpenFile(CommittedPath(partial), O_RDONLY);
  if (!fd.ok()) return 0;
  const auto text = ReadAt(fd->get(), kNumberWidth, 0, partial);
  int64_t number = 0;
  if (!text.ok() || text->size() != kNumberWidth || !absl::SimpleAtoi(*text, &number) || number < 0) return 0;
  return std::min<int64_t>(number, info.st_size);
}

absl::StatusOr<std::unique_ptr<BlobWriter>> FileBlobWriter::Open(FileBlobStore* store, std::string key,
                                                                 const std::filesystem::path& partial,
                                                                 const BlobId& blob) {
  std::unique_ptr<FileBlobWriter> writer(new FileBlobWriter(store, std::move(key), partial, blob));
  RETURN_IF_ERROR(writer->Load());
  return writer;
}

FileBlobWriter::~FileBlobWriter() {
  commit_.Wait();
  // What was not committed does not count: it need not keep its room. Errors leave only bytes that Load cuts off.
  if (!done_ && fd_.valid()) {
    const bool failed = committed_ == 0 ? ::unlink(partial_.c_str()) != 0 : ::ftruncate(fd_.get(), committed_) != 0;
    LOG_IF(WARNING, failed) << "cannot trim " << Quoted(partial_.native()) << ", errno " << errno;
  }
  store_->CloseUpload(key_);
}

absl::Status FileBlobWriter::Load() {
  committed_ = begun_ = CommittedBytes(partial_);
  ASSIGN_OR_RETURN(fd_, OpenFile(partial_, O_RDWR | O_CREAT));
  if (::ftruncate(fd_.get(), committed_) != 0) return FileError(errno, "cut", partial_);
  while (offset_ < committed_) {
    ASSIGN_OR_RETURN(const std::string piece,
                     ReadAt(fd_.get(), std::min<int64_t>(committed_ - offset_, 1 << 20), offset_, partial_));
    if (piece.empty()) return absl::DataLossError(absl::StrCat(Quoted(partial_.native()), " shrank while it was read"));
    hash_.Update(piece);
    offset_ += static_cast<int64_t>(piece.size());
  }
  return absl::OkStatus();
}

absl::Status FileBlobWriter::Drop(std::string_view why) {
  commit_.Wait();  // it would make the second file again
  done_ = true;
  ::unlink(CommittedPath(partial_).c_str());
  ::unlink(partial_.c_str());
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat(AbslView(why), "; the bytes were dropped: read the source again")),
      "BLOB_DIGEST_MISMATCH", {{"sha256", blob_.sha256}});
}

absl::Status FileBlobWriter::Write(absl::Span<const std::string_view> pieces) {
  if (done_) return Ended();
  int64_t size = 0;
  for (const std::string_view piece : pieces) size += static_cast<int64_t>(piece.size());
  if (size > blob_.size_bytes - offset_) {
    return Drop(absl::StrCat("upload has more than the ", blob_.size_bytes, " bytes of its digest"));
  }
  BackgroundTask hash = UpdateBeside(&store_->helpers_, hash_, pieces);
  const absl::Status written = WriteAt(fd_.get(), pieces, offset_, partial_);
  // Starts writing back now, so that the commit finds little left to wait for. Only a hint: errors show at fsync.
  ::sync_file_range(fd_.get(), offset_, size, SYNC_FILE_RANGE_WRITE);
  hash.Wait();
  RETURN_IF_ERROR(written);
  offset_ += size;
  store_->NoteWritten(key_, size);
  // The last bytes are made durable by Finish.
  const int64_t due = offset_ - begun_;
  if (due < store_->options_.commit_bytes || offset_ == blob_.size_bytes) return absl::OkStatus();
  if (!commit_.Done() && due < kFarAhead * store_->options_.commit_bytes) return absl::OkStatus();
  RETURN_IF_ERROR(EndCommit());
  begun_ = offset_;
  commit_ = BackgroundTask(&store_->helpers_, [this, size = offset_] { sync_error_ = CommitTo(size); });
  return absl::OkStatus();
}

absl::Status FileBlobWriter::EndCommit() {
  commit_.Wait();
  // After a failed fsync the next one may succeed although pages were lost: this writer never commits again, and the
  // next one starts from what was committed before.
  return sync_error_;
}

absl::Status FileBlobWriter::CommitTo(int64_t size) {
  RETURN_IF_ERROR(SyncFile(fd_.get(), partial_));
  const std::filesystem::path path = CommittedPath(partial_);
  const bool first = !committed_fd_.valid();
  if (first) {
    ASSIGN_OR_RETURN(committed_fd_, OpenFile(path, O_WRONLY | O_CREAT));
  }
  const std::string number = absl::StrFormat("%020d", size);
  RETURN_IF_ERROR(WriteAt(committed_fd_.get(), {number}, 0, path));
  RETURN_IF_ERROR(SyncFile(committed_fd_.get(), path));
  if (first) RETURN_IF_ERROR(SyncFolder(partial_.parent_path()));  // the two names
  committed_ = size;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FileBlobWriter::Commit() {
  if (done_) return Ended();
  RETURN_IF_ERROR(EndCommit());
  if (offset_ == committed_) return committed_;
  begun_ = offset_;
  sync_error_ = CommitTo(offset_);
  RETURN_IF_ERROR(sync_error_);
  return committed_;
}

absl::Status FileBlobWriter::Finish() {
  if (done_) return Ended();
  if (offset_ != blob_.size_bytes) {
    return Drop(absl::StrCat("upload ended after ", offset_, " of ", blob_.size_bytes, " bytes"));
  }
  const std::string found = hash_.Finish();
  if (found != blob_.sha256) return Drop(absl::StrCat("upload hashes to ", found, ", not to ", blob_.sha256));
  RETURN_IF_ERROR(EndCommit());
  sync_error_ = SyncFile(fd_.get(), partial_);
  RETURN_IF_ERROR(sync_error_);
  done_ = true;
  RETURN_IF_ERROR(store_->Publish(partial_, blob_));
  ::unlink(CommittedPath(partial_).c_str());
  return absl::OkStatus();
}

}  // namespace quant

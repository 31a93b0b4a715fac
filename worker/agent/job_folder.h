// SPDX-License-Identifier: Apache-2.0
// JobFolder: the folder a job's child works in.
//
//   JOBS/<job_id>-<token>/
//     lease.pb                              binary quant.v1.Lease
//     model/ baseline/ calibration/ evaluation/   the input files at their manifest paths, links into the blob cache
//     output/                               empty; the child puts the files of its result here
//     resume/                               link to RESUME/<job_id>, where the child may keep what a later attempt of
//                                           the same job on this machine can go on from; it outlives this folder
//     work/                                 the child's scratch space, and its last word:
//     work/outcome.pb                       binary quant.v1.CompleteJobRequest, outcome only
//
// The child may write in output/, work/ and resume/ alone: the input files are hard links, through which it could
// change the cache.
//
// What the child leaves is hostile: sizes, counts and paths are checked, and links are not followed.
#ifndef QUANT_WORKER_AGENT_JOB_FOLDER_H_
#define QUANT_WORKER_AGENT_JOB_FOLDER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

namespace v1 {
class CompleteJobRequest;
class Lease;
}  // namespace v1

// A file of the result.
struct OutputFile {
  std::string path;            // relative to output/, a valid manifest path
  std::filesystem::path file;  // where it is
};

// Thread-compatible. Removes the folder at its end.
class JobFolder {
 public:
  static constexpr int64_t kMaxOutcomeBytes = int64_t{64} << 20;
  static constexpr size_t kMaxOutputFiles = 10'000;

  // Makes the folder with its sub-folders, replacing one that is there, and the job's folder in `resume` unless it is
  // there.
  //   INVALID_ARGUMENT: the job id is not 1 to 64 of [A-Za-z0-9-].  Others: the disk's answer.
  static absl::StatusOr<JobFolder> Create(const std::filesystem::path& jobs, const std::filesystem::path& resume,
                                          std::string_view job_id, int64_t token);
  ~JobFolder();
  JobFolder(JobFolder&& other) noexcept
      : path_(std::exchange(other.path_, {})), resume_(std::exchange(other.resume_, {})) {}
  JobFolder& operator=(JobFolder&&) = delete;

  const std::filesystem::path& path() const { return path_; }

  // Puts the cached file `cached` at `part`/`manifest_path`, as a hard link or, where the file system has none, a
  // symbolic link.
  //   INVALID_ARGUMENT: not a manifest path, or it collides with another one of the part.  Others: the disk's answer.
  absl::Status Link(std::string_view part, std::string_view manifest_path, const std::filesystem::path& cached);
  absl::Status WriteLease(const v1::Lease& lease);
  // Removes what the job kept for later attempts: there will be none.
  void DiscardResume();

  // Reads work/outcome.pb.
  //   NOT_FOUND: there is none.  INVALID_ARGUMENT: no regular file, too large, not a message, or without an outcome.
  absl::Status ReadOutcome(v1::CompleteJobRequest& outcome) const;
  // The files below output/, sorted by path.
  //   INVALID_ARGUMENT: a link, device or other special file, a name that no manifest takes, too many files.
  absl::StatusOr<std::vector<OutputFile>> ListOutput() const;

 private:
  JobFolder(std::filesystem::path path, std::filesystem::path resume)
      : path_(std::move(path)), resume_(std::move(resume)) {}
  std::filesystem::path path_;
  std::filesystem::path resume_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_JOB_FOLDER_H_

// SPDX-License-Identifier: Apache-2.0
// JobStore: where jobs live when every process is dead. A seam: SqliteJobStore (embedded default), PostgresJobStore
// (several servers) and MemoryJobStore (a fake for tests) pass one contract test, job_store_test.cc.
//
// A function that changes something returns OK only after the change is durable. Each change of a job is a
// compare-and-set on (id, state, newest lease token): it happens wholly, or not at all with ABORTED when the stored job
// is not as expected. So each edge of the state machine has one writer, whoever else may be racing.
#ifndef QUANT_SERVER_STORE_JOB_STORE_H_
#define QUANT_SERVER_STORE_JOB_STORE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"
#include "server/auth/principal.h"

namespace quant {

// A job with what the server knows beyond the resource. Times are kept to the nanosecond.
struct JobRow {
  v1::Job job;                                    // job.id, job.state and job.spec are always set
  std::string tenant = kDefaultTenant;            // whose job it is; never changes
  int64_t ordinal = 0;                            // order of submission from 1; assigned by Insert, never reused
  int64_t token = 0;                              // fencing token of the newest lease; 0 before the first
  int64_t completed_token = 0;                    // newest token whose outcome was taken; 0: none
  absl::Time deadline = absl::InfiniteFuture();   // leased: when the attempt must be over
  absl::Time cancel_time = absl::InfinitePast();  // CANCELLING: when that was asked for
  std::string cache_key;                          // the job's content as one name; empty: not to be answered from
};

// What a stored job must look like for a change to happen.
struct JobVersion {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  int64_t token = 0;
  bool undelivered = false;  // and no result was put under the token
  // And the job has this sequence; 0: whichever. For states without a lease, which a job may leave and come back to
  // under the same token. Asked by Update and Claim.
  int64_t sequence = 0;
};
inline JobVersion VersionOf(const JobRow& row) { return {.state = row.job.state(), .token = row.token}; }

// A submission that came with a request_id. Each tenant has request ids of its own.
struct SubmitRequest {
  std::string request_id;   // empty: none
  std::string body_digest;  // SHA-256 of what was submitted
};
struct StoredRequest {
  std::string body_digest;
  v1::Job first_answer;  // the job as it was when Submit answered
};

// Which jobs to list. Empty members do not restrict.
struct JobFilter {
  std::string tenant;
  std::vector<v1::JobState> states;
  std::string kind;                                         // "quantize", …
  std::vector<std::pair<std::string, std::string>> labels;  // all of them
  std::string cache_key;
};

class JobPeers;

// Thread-safe. Beside the errors named, everything may answer UNAVAILABLE (disk full, database locked) and DATA_LOSS (a
// stored row cannot be read).
class JobStore {
 public:
  virtual ~JobStore() = default;

  // Stores a new job and, with a request_id, the request; sets row->ordinal.
  //   ALREADY_EXISTS: the job's id, or the request_id in row->tenant, is taken.
  virtual absl::Status Insert(JobRow* row, const SubmitRequest& request) = 0;
  // The tenant's request of that id, if one came and was not purged since; it outlives a deleted job.
  virtual absl::StatusOr<std::optional<StoredRequest>> FindRequest(std::string_view tenant,
                                                                   std::string_view request_id) = 0;
  // Forgets requests whose job was created before `time`.
  virtual absl::Status PurgeRequests(absl::Time time) = 0;

  // NOT_FOUND: no such job.
  virtual absl::StatusOr<JobRow> Get(std::string_view id) = 0;
  // Replaces the row. The id, the tenant, the ordinal and the spec never change.
  //   NOT_FOUND.  ABORTED: the stored job is not as expected.
  virtual absl::Status Update(const JobRow& row, const JobVersion& expected) = 0;
  // As Update, with a new fencing token, greater than any before it over all jobs; sets row->token.
  virtual absl::Status Claim(JobRow* row, const JobVersion& expected) = 0;
  // Removes a job with its result.
  //   NOT_FOUND.  ABORTED.
  virtual absl::Status Delete(std::string_view id, const JobVersion& expected) = 0;

  // Keeps the outcome that lease `expected.token` delivered; replaces an earlier one of the job.
  //   NOT_FOUND.  ABORTED.
  virtual absl::Status PutResult(std::string_view id, const JobVersion& expected, std::string_view result) = 0;
  // The result with the token that delivered it.  NOT_FOUND: no result.
  struct Result {
    int64_t token = 0;
    std::string bytes;  // as given to PutResult
  };
  virtual absl::StatusOr<Result> GetResult(std::string_view id) = 0;

  // At most `limit` jobs with an ordinal below `before`, newest first.
  virtual absl::StatusOr<std::vector<JobRow>> List(const JobFilter& filter, int64_t before, int limit) = 0;
  // All jobs in QUEUED, RUNNING, RETRY_WAIT and CANCELLING, oldest first.
  virtual absl::StatusOr<std::vector<JobRow>> LoadUnfinished() = 0;
  // At most `limit` jobs whose expire_time is before `time`, oldest first.
  virtual absl::StatusOr<std::vector<JobRow>> Expired(absl::Time time, int limit) = 0;
  // Number of jobs in each state that occurs.
  virtual absl::StatusOr<std::map<v1::JobState, int64_t>> CountByState() = 0;

  // What other servers on the store do; null when a store has one server.
  virtual JobPeers* peers() { return nullptr; }
};

// "quantize", "calibrate", "benchmark", "analyze", "tune"; "" when no kind is set.
std::string_view JobKindName(const v1::JobSpec& spec);

}  // namespace quant

#endif  // QUANT_SERVER_STORE_JOB_STORE_H_

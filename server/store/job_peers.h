// SPDX-License-Identifier: Apache-2.0
// JobPeers: what several servers on one JobStore tell each other through it. MemoryJobStore (two queues in one test)
// and PostgresJobStore have it; job_store_test.cc holds both to it.
//
// A feed says which jobs others have changed, so that each server's memory follows. Signs of life of workers are
// shared, so that a heartbeat counts wherever it arrives. Ages are measured by the store's clock: servers need not
// agree on the time to agree on who is alive.
#ifndef QUANT_SERVER_STORE_JOB_PEERS_H_
#define QUANT_SERVER_STORE_JOB_PEERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/v1/workers.pb.h"
#include "server/store/job_store.h"

namespace quant {

// Thread-safe. Errors: those of JobStore.
class JobPeers {
 public:
  virtual ~JobPeers() = default;

  struct Changes {
    std::vector<JobRow> rows;          // as they are now
    std::vector<std::string> deleted;  // ids of jobs
    int64_t cursor = 0;                // for the next call
  };
  // Every change that was not yet visible when the call that returned `cursor` was made; some of before may come again.
  // This server's own changes are among them. The first call: any cursor, then ignore all but the new cursor.
  virtual absl::StatusOr<Changes> ChangesSince(int64_t cursor) = 0;

  // From now on `callback` is called, on a thread of the store, when another server may have changed something (within
  // milliseconds, and in any case every second), and with `reload` when notice may have been lost: then everything is
  // to be read again. Calls do not overlap.
  using Callback = std::function<void(bool reload)>;
  virtual void Listen(Callback callback) = 0;
  // No call is under way or begins once this returns.
  virtual void StopListening() = 0;

  struct LeaseId {
    std::string job_id;
    int64_t token = 0;
  };
  // A sign of life of a worker that holds these leases. Returns whether it is to drain: because it says so, or because
  // it was told to, at any server.
  virtual absl::StatusOr<bool> Hear(const v1::WorkerInfo& worker, bool draining,
                                    const std::vector<LeaseId>& leases) = 0;

  // What is known of a lease.
  struct Heard {
    int64_t token = 0;
    absl::Duration ago;      // since it was claimed, or named by its worker
    bool confirmed = false;  // its worker has named it
  };
  // By job id. A lease that is missing here was forgotten in a crash of the store.
  virtual absl::StatusOr<std::map<std::string, Heard>> HeardOf() = 0;
  // Remembers a forgotten lease as confirmed and heard of now; one that is known stays as it is.
  virtual absl::Status Remember(const LeaseId& lease) = 0;

  struct Worker {
    v1::WorkerInfo info;
    absl::Duration registered_ago;
    absl::Duration heard_ago;
    bool draining = false;
  };
  // By id; those silent for `retention` are forgotten first.
  virtual absl::StatusOr<std::vector<Worker>> Workers(absl::Duration retention) = 0;
  // From its next sign of life on the worker is told to drain.
  //   NOT_FOUND: no such worker is known.
  virtual absl::Status Drain(std::string_view worker_id) = 0;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_JOB_PEERS_H_

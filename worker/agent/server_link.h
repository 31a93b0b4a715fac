// SPDX-License-Identifier: Apache-2.0
// ServerLink: the agent's calls to quantd. The only file of the agent, with its .cc, that knows gRPC.
#ifndef QUANT_WORKER_AGENT_SERVER_LINK_H_
#define QUANT_WORKER_AGENT_SERVER_LINK_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/client_auth.h"
#include "common/digest.h"

namespace quant {

namespace v1 {
class CompleteJobRequest;
class CompleteJobResponse;
class HeartbeatRequest;
class HeartbeatResponse;
class LeaseJobRequest;
class LeaseJobResponse;
}  // namespace v1

// Thread-safe. All calls share one connection, which gRPC opens and reopens by itself, within a second of the server's
// return.
class ServerLink {
 public:
  // Polled while a transfer runs; true ends it with CANCELLED.
  using Stop = std::function<bool()>;
  using TransferProgressFn = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

  // `server`: HOST:PORT, or any gRPC target. `auth` is shown with every call.
  ServerLink(const std::string& server, std::shared_ptr<ClientAuth> auth);
  ~ServerLink();

  // One call each, as workers.proto says; nothing is repeated. UNAVAILABLE: not reachable.
  // LeaseJob waits as long as the request's `wait` and 15 s for the answer. Heartbeat waits up to its deadline for a
  // server that is not reachable (DEADLINE_EXCEEDED), and has the connection tried again at once after it.
  absl::Status LeaseJob(const v1::LeaseJobRequest& request, v1::LeaseJobResponse& response);
  absl::Status Heartbeat(const v1::HeartbeatRequest& request, absl::Duration deadline, v1::HeartbeatResponse& response);
  absl::Status CompleteJob(const v1::CompleteJobRequest& request, v1::CompleteJobResponse& response);

  // Ends the calls that wait in LeaseJob, and all later ones at once, with CANCELLED.
  void CancelLeaseCalls();

  // A blob to the file `dst`, verified. Goes on through outages of the server until `stop`.
  absl::Status Download(const FileDigest& blob, const std::filesystem::path& dst, const Stop& stop,
                        const TransferProgressFn& progress);
  // Those of `files` that the server lacks, as blobs. As Download.
  struct File {
    std::filesystem::path path;
    FileDigest digest;
  };
  absl::Status Upload(const std::vector<File>& files, const Stop& stop, const TransferProgressFn& progress);

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_SERVER_LINK_H_

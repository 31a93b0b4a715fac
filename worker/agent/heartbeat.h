// SPDX-License-Identifier: Apache-2.0
// The heartbeat loop: one call per interval for all leases, and what follows from its answers and from their absence.
#ifndef QUANT_WORKER_AGENT_HEARTBEAT_H_
#define QUANT_WORKER_AGENT_HEARTBEAT_H_

#include <functional>

#include "absl/time/time.h"
#include "worker/agent/agent_state.h"
#include "worker/agent/metrics.h"
#include "worker/agent/server_link.h"
#include "worker/agent/steady.h"

namespace quant {

namespace v1 {
class WorkerInfo;
}

// The agent's only reader of commands. Run() is to be called by one thread.
//
// The server gives up a worker that is silent for three intervals; so three intervals after the newest answered beat
// was *sent*, all leases are lost from our side too, and no slot may claim until a beat is answered again.
class HeartbeatLoop {
 public:
  // `first_answer` is called once, when the server has answered for the first time.
  HeartbeatLoop(const v1::WorkerInfo& worker, ServerLink& link, AgentState& state, AgentMetrics& metrics,
                std::function<void()> first_answer);

  // Beats until AgentState::Stop().
  void Run();

 private:
  // Sends one beat; true when it was answered.
  bool Beat();
  void Missed(const absl::Status& why, SteadyTime now);
  absl::Duration WaitAfter(bool answered) const;

  const v1::WorkerInfo& worker_;
  ServerLink& link_;
  AgentState& state_;
  AgentMetrics& metrics_;
  std::function<void()> first_answer_;
  absl::Duration interval_ = absl::Seconds(1);  // until the server tells
  SteadyTime answered_ = -absl::InfiniteDuration();
  int failures_ = 0;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_HEARTBEAT_H_

// SPDX-License-Identifier: Apache-2.0
// RpcMetrics: the metrics of rpcs, under the names that public dashboards use and, when asked, those of gRPC's proposal
// A66 as Prometheus spells them. A part of ServerMetrics.
#ifndef QUANT_SERVER_METRICS_RPC_METRICS_H_
#define QUANT_SERVER_METRICS_RPC_METRICS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/metrics/metric_families.h"

namespace quant {

// Thread-safe, EnableA66 aside: call it before the first rpc. Functions as in ServerMetrics.
class RpcMetrics {
 public:
  explicit RpcMetrics(prometheus::Registry& registry);
  void EnableA66();

  int Method(std::string_view full_method) const;
  bool WantsSizes(int method) const;
  void Started(int method);
  void Handled(int method, int code, absl::Duration duration);
  void Messages(int method, int64_t sent_bytes, int64_t received_bytes);

 private:
  static constexpr size_t kCodes = 17;
  // The series of one rpc.
  struct Rpc {
    std::string full_name;
    std::string a66_name;  // "quant.v1.JobService/GetJob", "other"
    bool ours = false;     // of quant.v1: its messages are protobuf messages
    prometheus::Counter* started = nullptr;
    std::array<prometheus::Counter*, kCodes> handled{};
    prometheus::Histogram* seconds = nullptr;
    // Null without A66.
    prometheus::Counter* a66_started = nullptr;
    prometheus::Histogram* sent = nullptr;
    prometheus::Histogram* received = nullptr;
  };

  prometheus::Registry& registry_;
  std::vector<Rpc> rpcs_;                            // the last is "other"
  std::unordered_map<std::string_view, int> index_;  // views into rpcs_
  prometheus::Family<prometheus::Histogram>* a66_seconds_ = nullptr;
};

}  // namespace quant

#endif  // QUANT_SERVER_METRICS_RPC_METRICS_H_

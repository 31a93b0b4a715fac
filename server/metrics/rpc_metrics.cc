// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/rpc_metrics.h"

#include <utility>

#include "externalscaler/externalscaler.pb.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/workers.pb.h"

namespace quant {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Histogram;
using prometheus::Labels;

constexpr std::array kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};
constexpr size_t kUnknown = 2;

const Buckets kSecondsBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                 0.25,   0.5,   1,      2.5,   5,    10,    30,   60};
// The bounds of A66.
const Buckets kSizeBuckets = {0,       1024,     4096,     16384,     65536,      262144,      1048576,
                              4194304, 16777216, 67108864, 268435456, 1073741824, 4294967296.0};

struct RpcName {
  std::string service;
  std::string method;
  std::string type;
};

std::vector<RpcName> KnownRpcs() {
  std::vector<RpcName> names;
  for (const auto* file : {v1::Digest::descriptor()->file(), v1::Job::descriptor()->file(),
                           v1::Worker::descriptor()->file(), externalscaler::ScaledObjectRef::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      const auto* const service = file->service(s);
      for (int m = 0; m < service->method_count(); ++m) {
        const auto* const method = service->method(m);
        const char* const type = method->client_streaming()
                                     ? (method->server_streaming() ? "bidi_stream" : "client_stream")
                                     : (method->server_streaming() ? "server_stream" : "unary");
        names.push_back({service->full_name(), method->name(), type});
      }
    }
  }
  names.push_back({"grpc.health.v1.Health", "Check", "unary"});
  names.push_back({"grpc.health.v1.Health", "Watch", "server_stream"});
  names.push_back({"grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", "bidi_stream"});
  names.push_back({"other", "other", "unary"});  // must be the last
  return names;
}

size_t CodeIndex(int code) {
  return code >= 0 && static_cast<size_t>(code) < kCodeNames.size() ? static_cast<size_t>(code) : kUnknown;
}

}  // namespace

RpcMetrics::RpcMetrics(prometheus::Registry& registry) : registry_(registry) {
  static_assert(kCodeNames.size() == kCodes);
  Family<Counter>& started = CounterFamily(registry, "grpc_server_started_total", "Rpcs begun.");
  Family<Counter>& handled = CounterFamily(registry, "grpc_server_handled_total", "Rpcs ended, by status code.");
  Family<Histogram>& seconds = HistogramFamily(registry, "grpc_server_handling_seconds", "Time of rpcs.");
  const std::vector<RpcName> names = KnownRpcs();
  rpcs_.reserve(names.size());
  for (const RpcName& name : names) {
    Labels labels = {{"grpc_type", name.type}, {"grpc_service", name.service}, {"grpc_method", name.method}};
    Rpc rpc;
    rpc.full_name = "/" + name.service + "/" + name.method;
    rpc.a66_name = name.service == "other" ? "other" : name.service + "/" + name.method;
    rpc.ours = name.service.rfind("quant.v1.", 0) == 0;
    rpc.started = &started.Add(labels);
    rpc.seconds = &seconds.Add(labels, kSecondsBuckets);
    for (size_t code = 0; code < kCodes; ++code) {
      labels["grpc_code"] = kCodeNames[code];
      rpc.handled[code] = &handled.Add(labels);
    }
    rpcs_.push_back(std::move(rpc));
  }
  for (size_t i = 0; i < rpcs_.size(); ++i) index_[rpcs_[i].full_name] = static_cast<int>(i);
}

void RpcMetrics::EnableA66() {
  if (a66_seconds_ != nullptr) return;
  Family<Counter>& started = CounterFamily(registry_, "grpc_server_call_started_total", "Rpcs begun.");
  a66_seconds_ = &HistogramFamily(registry_, "grpc_server_call_duration_seconds", "Time of rpcs, by status.");
  Family<Histogram>& sent = HistogramFamily(registry_, "grpc_server_call_sent_total_compressed_message_size_bytes",
                                            "Bytes of messages sent in one rpc; nothing is compressed.");
  Family<Histogram>& received = HistogramFamily(registry_, "grpc_server_call_rcvd_total_compressed_message_size_bytes",
                                                "Bytes of messages received in one rpc; nothing is compressed.");
  for (Rpc& rpc : rpcs_) {
    const Labels labels = {{"grpc_method", rpc.a66_name}};
    rpc.a66_started = &started.Add(labels);
    a66_seconds_->Add({{"grpc_method", rpc.a66_name}, {"grpc_status", "OK"}}, kSecondsBuckets);
    if (!rpc.ours) continue;
    rpc.sent = &sent.Add(labels, kSizeBuckets);
    rpc.received = &received.Add(labels, kSizeBuckets);
  }
}

int RpcMetrics::Method(std::string_view full_method) const {
  const auto it = index_.find(full_method);
  return it == index_.end() ? static_cast<int>(rpcs_.size()) - 1 : it->second;
}

bool RpcMetrics::WantsSizes(int method) const { return rpcs_[static_cast<size_t>(method)].sent != nullptr; }

void RpcMetrics::Started(int method) {
  const Rpc& rpc = rpcs_[static_cast<size_t>(method)];
  rpc.started->Increment();
  if (rpc.a66_started != nullptr) rpc.a66_started->Increment();
}

void RpcMetrics::Handled(int method, int code, absl::Duration duration) {
  const Rpc& rpc = rpcs_[static_cast<size_t>(method)];
  const size_t index = CodeIndex(code);
  rpc.handled[index]->Increment();
  rpc.seconds->Observe(Seconds(duration));
  if (a66_seconds_ == nullptr) return;
  a66_seconds_->Add({{"grpc_method", rpc.a66_name}, {"grpc_status", kCodeNames[index]}}, kSecondsBuckets)
      .Observe(Seconds(duration));
}

void RpcMetrics::Messages(int method, int64_t sent_bytes, int64_t received_bytes) {
  const Rpc& rpc = rpcs_[static_cast<size_t>(method)];
  if (rpc.sent == nullptr) return;
  rpc.sent->Observe(static_cast<double>(sent_bytes));
  rpc.received->Observe(static_cast<double>(received_bytes));
}

}  // namespace quant

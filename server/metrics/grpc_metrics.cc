// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/grpc_metrics.h"

#include <google/protobuf/message.h>
#include <grpcpp/support/interceptor.h>
#include <grpcpp/support/status.h>

#include <string_view>

#include "absl/time/clock.h"
#include "server/metrics/server_metrics.h"

namespace quant {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;

// The handlers that take messages as bytes (server/api/blob_streams.h).
bool IsUnparsed(std::string_view method) {
  return method == "/quant.v1.ArtifactService/WriteBlob" || method == "/quant.v1.ArtifactService/ReadBlob";
}

// Lives as long as one rpc; gRPC calls it from one thread at a time.
class RpcCounter : public Interceptor {
 public:
  RpcCounter(ServerMetrics* metrics, int method, bool unparsed)
      : metrics_(metrics),
        method_(method),
        sizes_(metrics->WantsMessageSizes(method)),
        unparsed_(unparsed),
        start_(absl::Now()) {
    metrics_->RpcStarted(method_);
  }
  ~RpcCounter() override { End(grpc::StatusCode::CANCELLED); }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (sizes_) Measure(methods);
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      End(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  // Only for rpcs of quant.v1, whose messages are protobuf messages here, or their bytes where a handler parses them.
  void Measure(InterceptorBatchMethods* methods) {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      if (const grpc::ByteBuffer* const bytes = methods->GetSerializedSendMessage(); bytes != nullptr) {
        sent_ += static_cast<int64_t>(bytes->Length());
      }
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      if (void* const message = methods->GetRecvMessage(); message != nullptr) {
        received_ += static_cast<int64_t>(unparsed_ ? static_cast<grpc::ByteBuffer*>(message)->Length()
                                                    : static_cast<google::protobuf::Message*>(message)->ByteSizeLong());
      }
    }
  }

  void End(grpc::StatusCode code) {
    if (ended_) return;
    ended_ = true;
    if (sizes_) metrics_->RpcMessages(method_, sent_, received_);
    metrics_->RpcHandled(method_, code, absl::Now() - start_);
  }

  ServerMetrics* const metrics_;
  const int method_;
  const bool sizes_;
  const bool unparsed_;
  const absl::Time start_;
  int64_t sent_ = 0;
  int64_t received_ = 0;
  bool ended_ = false;
};

class Factory : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(ServerMetrics* metrics) : metrics_(metrics) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    const std::string_view method = info->method() == nullptr ? "" : info->method();
    return new RpcCounter(metrics_, metrics_->RpcMethod(method), IsUnparsed(method));
  }

 private:
  ServerMetrics* const metrics_;
};

}  // namespace

std::unique_ptr<ServerInterceptorFactoryInterface> MakeMetricsInterceptor(ServerMetrics* metrics) {
  return std::make_unique<Factory>(metrics);
}

}  // namespace quant

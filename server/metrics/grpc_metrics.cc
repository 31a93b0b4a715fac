// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/grpc_metrics.h"

#include <grpcpp/support/interceptor.h>
#include <grpcpp/support/status.h>

#include "absl/time/clock.h"
#include "server/metrics/server_metrics.h"

namespace quant {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;

// Lives as long as one rpc; gRPC calls it from one thread at a time.
class RpcCounter : public Interceptor {
 public:
  RpcCounter(ServerMetrics* metrics, int method) : metrics_(metrics), method_(method), start_(absl::Now()) {
    metrics_->RpcStarted(method_);
  }
  ~RpcCounter() override { End(grpc::StatusCode::CANCELLED); }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      End(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void End(grpc::StatusCode code) {
    if (ended_) return;
    ended_ = true;
    metrics_->RpcHandled(method_, code, absl::Now() - start_);
  }

  ServerMetrics* const metrics_;
  const int method_;
  const absl::Time start_;
  bool ended_ = false;
};

class Factory : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(ServerMetrics* metrics) : metrics_(metrics) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new RpcCounter(metrics_, metrics_->RpcMethod(info->method() == nullptr ? "" : info->method()));
  }

 private:
  ServerMetrics* const metrics_;
};

}  // namespace

std::unique_ptr<ServerInterceptorFactoryInterface> MakeMetricsInterceptor(ServerMetrics* metrics) {
  return std::make_unique<Factory>(metrics);
}

}  // namespace quant

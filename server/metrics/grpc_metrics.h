// SPDX-License-Identifier: Apache-2.0
// A gRPC server interceptor that counts: grpc_server_started_total, grpc_server_handled_total (by status code) and
// grpc_server_handling_seconds; message sizes where ServerMetrics wants them. An rpc ends when its status is sent; one
// that is torn down before counts as CANCELLED.
#ifndef QUANT_SERVER_METRICS_GRPC_METRICS_H_
#define QUANT_SERVER_METRICS_GRPC_METRICS_H_

#include <grpcpp/support/server_interceptor.h>

#include <memory>

namespace quant {

class ServerMetrics;

// For ServerBuilder::experimental().SetInterceptorCreators. `metrics` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeMetricsInterceptor(ServerMetrics* metrics);

}  // namespace quant

#endif  // QUANT_SERVER_METRICS_GRPC_METRICS_H_

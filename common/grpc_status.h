// SPDX-License-Identifier: Apache-2.0
// The one pair of functions between absl::Status and grpc::Status.
//
// Codes map one to one (both use the canonical codes; an unknown number becomes UNKNOWN). The quant.v1.ErrorDetail of
// common/error_detail.h rides as grpc::Status::error_details(), which gRPC sends as the trailer
// `grpc-status-details-bin`. Other payloads are dropped. Messages are cut to 4 KiB, since HTTP/2 headers are limited,
// and made UTF-8.
#ifndef QUANT_COMMON_GRPC_STATUS_H_
#define QUANT_COMMON_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace quant {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace quant

#endif  // QUANT_COMMON_GRPC_STATUS_H_

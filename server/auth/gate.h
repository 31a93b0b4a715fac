// SPDX-License-Identifier: Apache-2.0
// Gate: every rpc passes through it before its handler runs. It finds out who calls, looks the method up in the table
// (method_table.h), and leaves the answer in the call's context, where the handler finds it:
//
//   ASSIGN_OR_RETURN(const Principal caller, CallerOf(context));
//
// What a handler needs of the queue and the stores asks for a Principal, and CallerOf is the only source of one: a
// handler cannot forget to ask. Should one answer OK all the same to a caller who was refused, the gate replaces that
// answer.
#ifndef QUANT_SERVER_AUTH_GATE_H_
#define QUANT_SERVER_AUTH_GATE_H_

#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "common/logging.h"
#include "server/auth/open_calls.h"
#include "server/auth/principal.h"

namespace quant {

class AuditLog;
class Authenticator;
class RateLimiter;

struct GateOptions {
  Authenticator* authenticator = nullptr;  // null: everybody is OpenPrincipal()
  RateLimiter* limiter = nullptr;          // null: no limit of requests
  AuditLog* audit = nullptr;               // null: no log
  OpenCalls* open_calls = nullptr;         // null: who was let in stays in
};

// Puts the gate into `builder` and returns its interceptor, which must be among the builder's interceptors. What
// `options` names must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> InstallGate(grpc::ServerBuilder* builder,
                                                                                   const GateOptions& options);

// Who makes this call.
//   UNAUTHENTICATED, PERMISSION_DENIED (reason ROLE_FORBIDS), RESOURCE_EXHAUSTED (reason RATE_LIMITED).
//   INTERNAL: the server was built without a gate.
absl::StatusOr<Principal> CallerOf(grpc::CallbackServerContext* context);

// The ids that log lines of this call have: its request id (the header x-request-id, or one made here) and its trace
// (the header traceparent where it is well-formed, or a new one).
LogFields LogFieldsOf(grpc::CallbackServerContext* context);

// For a call that may stay open for long: from now on until the result is destroyed the caller's credentials are looked
// at again every second, and when they are good no more, or for another principal, `end` is called (see OpenCalls::Add)
// with UNAUTHENTICATED, reason as Authenticator::Authenticate or TOKEN_CHANGED.
class StillGood {
 public:
  StillGood() = default;
  StillGood(OpenCalls* calls, uint64_t id) : calls_(calls), id_(id) {}
  StillGood(StillGood&& other) noexcept { *this = std::move(other); }
  StillGood& operator=(StillGood&& other) noexcept {
    std::swap(calls_, other.calls_);
    std::swap(id_, other.id_);
    return *this;
  }
  ~StillGood() {
    if (calls_ != nullptr) calls_->Remove(id_);
  }

 private:
  OpenCalls* calls_ = nullptr;
  uint64_t id_ = 0;
};
StillGood WhileOpen(grpc::CallbackServerContext* context, OpenCalls::End end);

// What the call is about, for the audit log: an id, or a digest. Empty: nothing.
void SetObject(grpc::CallbackServerContext* context, std::string_view object);

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_GATE_H_

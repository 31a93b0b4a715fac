// SPDX-License-Identifier: Apache-2.0
#include "server/auth/gate.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/interceptor.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/random_id.h"
#include "common/strings.h"
#include "common/trace_context.h"
#include "server/auth/audit_log.h"
#include "server/auth/authenticator.h"
#include "server/auth/method_table.h"
#include "server/auth/rate_limiter.h"

namespace quant {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;
using Headers = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string_view View(grpc::string_ref ref) { return {ref.data(), ref.size()}; }

// The context of a call with what the gate found out. gRPC makes one for each rpc of the callback API.
class CallContext : public grpc::CallbackServerContext {
 public:
  // Written by the interceptor before the handler starts, then only read.
  absl::StatusOr<Principal> caller = absl::InternalError("the call did not pass the gate");
  LogFields log;
  OpenCalls* open_calls = nullptr;  // null: nothing to look at again
  OpenCalls::Recheck recheck;

  void SetObject(std::string_view object) {
    MutexLock lock(&mu_);
    object_ = std::string(object);
  }
  std::string object() {
    MutexLock lock(&mu_);
    return object_;
  }

 private:
  Mutex mu_;
  std::string object_ ABSL_GUARDED_BY(mu_);
};

class Allocator : public grpc::ContextAllocator {
 public:
  grpc::CallbackServerContext* NewCallbackServerContext() override { return new CallContext; }
  grpc::GenericCallbackServerContext* NewGenericCallbackServerContext() override {
    return new grpc::GenericCallbackServerContext;
  }
  void Release(grpc::CallbackServerContext* context) override { delete context; }
  void Release(grpc::GenericCallbackServerContext* context) override { delete context; }
};

std::string Header(const Headers* headers, const char* name) {
  if (headers == nullptr) return "";
  const auto it = headers->find(name);
  return it == headers->end() ? "" : std::string(View(it->second));
}

// The client's id for the call where it can stand in a log as it is, else one of ours.
std::string RequestId(std::string id) {
  const bool good = !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
  return good ? id : RandomId("r-");
}

// Lives as long as one rpc; gRPC calls it from one thread at a time.
class GateInterceptor : public Interceptor {
 public:
  GateInterceptor(const GateOptions& options, ServerRpcInfo* info)
      : options_(options),
        context_(dynamic_cast<CallContext*>(info->server_context())),
        method_(info->method() == nullptr ? "" : info->method()),
        rule_(FindMethodRule(method_)) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (context_ != nullptr) {
      if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
        Decide(methods->GetRecvInitialMetadata());
      }
      if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
        grpc::Status status = methods->GetSendStatus();
        const bool open = rule_ != nullptr && rule_->anyone;
        if (status.ok() && !context_->caller.ok() && !open) {
          LOG(ERROR) << "the handler of " << method_ << " answered a caller who was refused";
          status = ToGrpc(context_->caller.status());
          methods->ModifySendStatus(status);
        }
        Record(status);
      }
    }
    methods->Proceed();
  }

 private:
  void Decide(const Headers* headers) {
    context_->log.request = RequestId(Header(headers, "x-request-id"));
    context_->log.traceparent = ParseTraceparent(Header(headers, kTraceparentHeader));
    if (context_->log.traceparent.empty()) context_->log.traceparent = NewTraceparent();
    const LogScope scope(context_->log);
    context_->caller = Check(headers);
    if (options_.authenticator != nullptr && options_.open_calls != nullptr && context_->caller.ok()) {
      context_->open_calls = options_.open_calls;
      context_->recheck = Recheck(headers);
    }
  }

  absl::StatusOr<Principal> Check(const Headers* headers) {
    if (rule_ == nullptr) {
      return WithReason(absl::PermissionDeniedError(absl::StrCat("nobody may call ", AbslView(method_))),
                        "ROLE_FORBIDS");
    }
    absl::StatusOr<Principal> caller = Identify(headers);
    if (!caller.ok()) return caller;
    who_ = *caller;
    if (!Allows(*rule_, caller->role)) {
      return WithReason(absl::PermissionDeniedError(absl::StrCat("the role ", AbslView(RoleName(caller->role)),
                                                                 " may not call ", AbslView(method_))),
                        "ROLE_FORBIDS");
    }
    if (options_.limiter != nullptr && caller->role == Role::kUser) {
      absl::Status admitted = options_.limiter->Admit(caller->tenant);
      if (!admitted.ok()) return admitted;
    }
    return caller;
  }

  // Asks the authenticator once more with what the call showed; good also after the call.
  OpenCalls::Recheck Recheck(const Headers* headers) {
    const Evidence shown = Shown(headers);
    std::vector<std::string> authorization(shown.authorization.begin(), shown.authorization.end());
    return [authenticator = options_.authenticator, authorization = std::move(authorization),
            names = shown.certificate_names, was = *context_->caller]() -> absl::Status {
      Evidence evidence{.authorization = {authorization.begin(), authorization.end()}, .certificate_names = names};
      const absl::StatusOr<Principal> now = authenticator->Authenticate(evidence);
      if (!now.ok()) return now.status();
      if (now->tenant == was.tenant && now->name == was.name && now->role == was.role) return absl::OkStatus();
      return WithReason(absl::UnauthenticatedError("what the token stands for has changed; call again"),
                        "TOKEN_CHANGED");
    };
  }

  absl::StatusOr<Principal> Identify(const Headers* headers) {
    if (options_.authenticator == nullptr) return OpenPrincipal();
    return options_.authenticator->Authenticate(Shown(headers));
  }

  // Points into `headers`.
  Evidence Shown(const Headers* headers) const {
    Evidence evidence;
    if (headers != nullptr) {
      const auto [begin, end] = headers->equal_range("authorization");
      for (auto it = begin; it != end; ++it) evidence.authorization.push_back(View(it->second));
    }
    const std::shared_ptr<const grpc::AuthContext> tls = context_->auth_context();
    if (tls != nullptr && tls->IsPeerAuthenticated()) {
      // URIs are told from names of hosts, and from common names that pretend, by their "://".
      for (const grpc::string_ref& name : tls->FindPropertyValues(GRPC_X509_SAN_PROPERTY_NAME)) {
        if (absl::StrContains(AbslView(View(name)), "://")) evidence.certificate_names.emplace_back(View(name));
      }
      for (const grpc::string_ref& name : tls->FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME)) {
        if (!absl::StrContains(AbslView(View(name)), "://")) evidence.certificate_names.emplace_back(View(name));
      }
    }
    return evidence;
  }

  void Record(const grpc::Status& status) {
    if (options_.audit == nullptr || rule_ == nullptr || rule_->anyone) return;
    const bool refused = !context_->caller.ok() || status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
    const std::string object = context_->object();
    const bool wanted = rule_->audit == Audit::kAll || (rule_->audit == Audit::kObjects && !object.empty());
    if (!refused && !wanted) return;
    options_.audit->Write({.caller = who_,
                           .authenticated = !who_.name.empty(),
                           .method = std::string(method_),
                           .object = object,
                           .status = FromGrpc(status),
                           .peer = context_->peer(),
                           .request_id = context_->log.request,
                           .duration = absl::Now() - start_});
  }

  const GateOptions& options_;
  CallContext* const context_;  // null for what is not of the callback API: gRPC's own reflection service
  const std::string_view method_;
  const MethodRule* const rule_;
  const absl::Time start_ = absl::Now();
  Principal who_{.tenant = "", .name = "", .role = Role::kUser};
};

class Factory : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(const GateOptions& options) : options_(options) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override { return new GateInterceptor(options_, info); }

 private:
  const GateOptions options_;
};

}  // namespace

std::unique_ptr<ServerInterceptorFactoryInterface> InstallGate(grpc::ServerBuilder* builder,
                                                               const GateOptions& options) {
  builder->SetContextAllocator(std::make_unique<Allocator>());
  return std::make_unique<Factory>(options);
}

absl::StatusOr<Principal> CallerOf(grpc::CallbackServerContext* context) {
  auto* const call = dynamic_cast<CallContext*>(context);
  if (call == nullptr) return absl::InternalError("the server has no gate");
  return call->caller;
}

LogFields LogFieldsOf(grpc::CallbackServerContext* context) {
  auto* const call = dynamic_cast<CallContext*>(context);
  return call == nullptr ? LogFields() : call->log;
}

StillGood WhileOpen(grpc::CallbackServerContext* context, OpenCalls::End end) {
  auto* const call = dynamic_cast<CallContext*>(context);
  if (call == nullptr || call->open_calls == nullptr) return {};
  return {call->open_calls, call->open_calls->Add(call->recheck, std::move(end))};
}

void SetObject(grpc::CallbackServerContext* context, std::string_view object) {
  if (auto* const call = dynamic_cast<CallContext*>(context)) call->SetObject(object);
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// PageAccess: who looks at a page, and whether it may.
//
// With tokens, a request shows one in `Authorization: Bearer …`, as on the gRPC port, or has the cookie of a login. The
// cookie is not the token: it is "<token id>.<expiry>.<HMAC-SHA256>" under a key that this process made at its start,
// good for pages alone and for 12 hours. The token's line is looked up for every page, so that a revoked or expired
// token opens nothing more. After a restart, or at another server, one logs in again.
//
// A token is 256 random bits, so no limit on guesses is needed to keep it secret; one on wrong ones (kWrongPerSecond,
// of all callers together) keeps a flood out of the logs. It never stands in the way of a right one.
//
// Where a token would cross a network in the clear, none is taken: a request that does not come from this machine (a
// TLS proxy or an ssh tunnel does) is refused, unless `insecure_tokens`. Without tokens the pages are as open as the
// gRPC port and not more: to this machine alone when that listens on loopback. And since a page that needs no login
// could be read by any web site that has its name point here (DNS rebinding), it is then served only under an address,
// "localhost" or a name without dots.
#ifndef QUANT_SERVER_PAGES_PAGE_ACCESS_H_
#define QUANT_SERVER_PAGES_PAGE_ACCESS_H_

#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/auth/principal.h"
#include "server/http/http_message.h"

namespace quant {

class AuditLog;
class Authenticator;
class RateLimiter;

struct PageAccessOptions {
  Authenticator* authenticator = nullptr;  // null: everybody is OpenPrincipal()
  RateLimiter* limiter = nullptr;          // of a tenant's requests; null: none
  AuditLog* audit = nullptr;               // null: no log
  bool insecure_tokens = false;            // take tokens from beyond this machine
  bool open_to_network = false;            // without tokens: serve callers beyond this machine
};

// Thread-safe.
class PageAccess {
 public:
  static constexpr absl::Duration kSession = absl::Hours(12);
  static constexpr int kWrongPerSecond = 10;

  PageAccess(const PageAccessOptions& options, Clock* clock);

  bool has_login() const { return options_.authenticator != nullptr; }

  // Whether pages are served to such a request at all, whoever it is.
  //   PERMISSION_DENIED: says why not and what to do.
  absl::Status CheckOrigin(const HttpRequest& request) const;

  // Who it is. A user's request counts for its tenant's limit.
  //   UNAUTHENTICATED: no, or no right, token or session.  RESOURCE_EXHAUSTED: too many requests, or wrong tokens.
  absl::StatusOr<Principal> Identify(const HttpRequest& request);

  // PERMISSION_DENIED: the role may not call this rpc ("/quant.v1.JobService/ListJobs").
  absl::Status Allow(const Principal& caller, std::string_view method) const;
  bool Allowed(const Principal& caller, std::string_view method) const { return Allow(caller, method).ok(); }

  // The Set-Cookie of a session for this token.  Errors as of Identify; PERMISSION_DENIED: another site sent it.
  absl::StatusOr<std::string> Login(const HttpRequest& request, std::string_view token);
  // The Set-Cookie that ends it.  PERMISSION_DENIED: another site sent it.
  absl::StatusOr<std::string> Logout(const HttpRequest& request) const;

  // A line of the audit log.
  void Audit(const HttpRequest& request, const Principal& caller, std::string_view method, std::string_view object,
             const absl::Status& status) const;

 private:
  absl::StatusOr<Principal> FromCookie(std::string_view cookies) const;
  std::string Sign(std::string_view text) const;
  absl::Status CountWrong(const HttpRequest& request, absl::Status status);

  const PageAccessOptions options_;
  Clock* const clock_;
  const std::string key_;
  Mutex mu_;
  double room_ ABSL_GUARDED_BY(mu_) = kWrongPerSecond;
  absl::Time filled_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace quant

#endif  // QUANT_SERVER_PAGES_PAGE_ACCESS_H_

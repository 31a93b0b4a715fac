// SPDX-License-Identifier: Apache-2.0
#include "server/pages/page_access.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error_detail.h"
#include "common/net.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/auth/audit_log.h"
#include "server/auth/authenticator.h"
#include "server/auth/method_table.h"
#include "server/auth/rate_limiter.h"

namespace quant {
namespace {

constexpr std::string_view kCookie = "quantd_session";
constexpr size_t kMaxToken = 200;

bool FromThisMachine(std::string_view peer) {
  if (absl::StartsWith(AbslView(peer), "::ffff:")) peer.remove_prefix(7);
  return IsLoopback(peer);
}

// The host of "host:port", "[::1]:port" or "host".
std::string_view HostOf(std::string_view authority) {
  if (!authority.empty() && authority.front() == '[') return authority.substr(0, authority.find(']') + 1);
  return authority.substr(0, authority.find(':'));
}

// An address or a name without dots: nothing that somebody on the internet can make point here.
bool CannotBeRebound(std::string_view host) {
  if (host.empty()) return false;
  if (host.front() == '[') return true;
  const bool number = std::all_of(
      host.begin(), host.end(), [](char c) { return c == '.' || absl::ascii_isdigit(static_cast<unsigned char>(c)); });
  return number || host.find('.') == std::string_view::npos;
}

// Whether a page of ours sent the form. Browsers say so in Sec-Fetch-Site (over TLS, or to localhost; a proxy cannot
// confuse it by another Host) or else in Origin. What says neither is no browser, and has no cookie that somebody else
// could use.
absl::Status CheckSameSite(const HttpRequest& request) {
  const std::string_view site = request.Header("sec-fetch-site");
  const std::string_view origin = request.Header("origin");
  bool same = true;
  if (!site.empty()) {
    same = site == "same-origin";
  } else if (!origin.empty()) {
    const size_t slashes = origin.find("://");
    same = slashes != std::string_view::npos && origin.substr(slashes + 3) == request.Header("host");
  }
  if (same) return absl::OkStatus();
  return absl::PermissionDeniedError("another site sent this form: log in and out on quantd's own page");
}

std::string CookieAttributes(const HttpRequest& request, int64_t max_age) {
  // A proxy with TLS in front of us says so. Who says it falsely only has a cookie that its browser does not send.
  const bool tls = request.Header("x-forwarded-proto") == "https";
  return absl::StrCat("; Path=/; HttpOnly; SameSite=Strict; Max-Age=", max_age, tls ? "; Secure" : "");
}

}  // namespace

// 50 characters of 36: more than 256 bits.
PageAccess::PageAccess(const PageAccessOptions& options, Clock* clock)
    : options_(options), clock_(clock), key_(RandomId("", 50)) {}

absl::Status PageAccess::CheckOrigin(const HttpRequest& request) const {
  const bool local = FromThisMachine(request.peer);
  if (has_login()) {
    if (local || options_.insecure_tokens) return absl::OkStatus();
    return absl::PermissionDeniedError(
        "a token would cross the network in the clear here: come through a proxy with TLS, or a tunnel, that runs on "
        "quantd's machine (ssh -L), or start quantd with --insecure-tokens");
  }
  if (!local && !options_.open_to_network) {
    return absl::PermissionDeniedError(
        "without --tokens, and with gRPC on loopback, the pages are for this machine alone");
  }
  if (!CannotBeRebound(HostOf(request.Header("host")))) {
    return absl::PermissionDeniedError(
        "without --tokens the pages are served under an address, localhost or a name without dots, not under this "
        "name: any web site could have it");
  }
  return absl::OkStatus();
}

absl::Status PageAccess::CountWrong(const HttpRequest& request, absl::Status status) {
  {
    MutexLock lock(&mu_);
    const absl::Time now = clock_->Now();
    if (filled_ != absl::InfinitePast() && now > filled_) {
      room_ = std::min<double>(kWrongPerSecond, room_ + kWrongPerSecond * absl::ToDoubleSeconds(now - filled_));
    }
    filled_ = now;
    if (room_ < 1) {
      return WithReason(absl::ResourceExhaustedError("too many wrong tokens: try again later"), "RATE_LIMITED", {},
                        absl::Seconds(1));
    }
    room_ -= 1;
  }
  Audit(request, Principal{.tenant = "", .name = ""}, "page/login", "", status);
  return status;
}

absl::StatusOr<Principal> PageAccess::Identify(const HttpRequest& request) {
  if (!has_login()) return OpenPrincipal();
  absl::StatusOr<Principal> caller;
  if (Evidence evidence{.authorization = request.All("authorization")}; !evidence.authorization.empty()) {
    caller = options_.authenticator->Authenticate(evidence);
    if (!caller.ok()) return CountWrong(request, caller.status());
  } else {
    caller = FromCookie(request.Header("cookie"));
    RETURN_IF_ERROR(caller.status());
  }
  if (options_.limiter != nullptr && caller->role == Role::kUser) {
    RETURN_IF_ERROR(options_.limiter->Admit(caller->tenant));
  }
  return caller;
}

absl::Status PageAccess::Allow(const Principal& caller, std::string_view method) const {
  const MethodRule* const rule = FindMethodRule(method);
  CHECK(rule != nullptr) << method;
  if (Allows(*rule, caller.role)) return absl::OkStatus();
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat("this page is not for the role ", AbslView(RoleName(caller.role)))),
      "ROLE_FORBIDS");
}

std::string PageAccess::Sign(std::string_view text) const {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()),
             reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &size) != nullptr);
  return absl::BytesToHexString({reinterpret_cast<const char*>(mac), size});
}

absl::StatusOr<Principal> PageAccess::FromCookie(std::string_view cookies) const {
  absl::Status none = WithReason(absl::UnauthenticatedError("log in with a token"), "TOKEN_MISSING");
  for (absl::string_view part : absl::StrSplit(AbslView(cookies), ';')) {
    part = absl::StripAsciiWhitespace(part);
    const size_t equals = part.find('=');
    if (equals == absl::string_view::npos || part.substr(0, equals) != AbslView(kCookie)) continue;
    const std::string_view value = StdView(part.substr(equals + 1));
    const size_t dot = value.rfind('.');
    if (dot == std::string_view::npos) return none;
    const std::string_view text = value.substr(0, dot), mac = value.substr(dot + 1);
    const std::string expected = Sign(text);
    if (mac.size() != expected.size() || CRYPTO_memcmp(mac.data(), expected.data(), mac.size()) != 0) return none;
    // What we signed has this form.
    const size_t middle = text.rfind('.');
    int64_t expiry = 0;
    if (middle == std::string_view::npos || !absl::SimpleAtoi(AbslView(text.substr(middle + 1)), &expiry)) return none;
    if (clock_->Now() >= absl::FromUnixSeconds(expiry)) {
      return WithReason(absl::UnauthenticatedError("the session has ended: log in again"), "TOKEN_EXPIRED");
    }
    return options_.authenticator->Find(text.substr(0, middle));
  }
  return none;
}

absl::StatusOr<std::string> PageAccess::Login(const HttpRequest& request, std::string_view token) {
  RETURN_IF_ERROR(CheckSameSite(request));
  token = StdView(absl::StripAsciiWhitespace(AbslView(token)));
  if (token.size() > kMaxToken) token = "";
  const std::string header = absl::StrCat("Bearer ", AbslView(token));
  const absl::StatusOr<Principal> caller = options_.authenticator->Authenticate({.authorization = {header}});
  if (!caller.ok()) return CountWrong(request, caller.status());
  Audit(request, *caller, "page/login", "", absl::OkStatus());
  const std::string text =
      absl::StrCat(AbslView(token.substr(0, token.find('.'))), ".", absl::ToUnixSeconds(clock_->Now() + kSession));
  return absl::StrCat(AbslView(kCookie), "=", text, ".", Sign(text),
                      CookieAttributes(request, absl::ToInt64Seconds(kSession)));
}

absl::StatusOr<std::string> PageAccess::Logout(const HttpRequest& request) const {
  RETURN_IF_ERROR(CheckSameSite(request));
  return absl::StrCat(AbslView(kCookie), "=", CookieAttributes(request, 0));
}

void PageAccess::Audit(const HttpRequest& request, const Principal& caller, std::string_view method,
                       std::string_view object, const absl::Status& status) const {
  if (options_.audit == nullptr) return;
  options_.audit->Write({.caller = caller,
                         .authenticated = !caller.name.empty(),
                         .method = std::string(method),
                         .object = std::string(object),
                         .status = status,
                         .peer = absl::StrCat("http:", request.peer),
                         .request_id = std::string(request.Header("x-request-id")),
                         .duration = absl::ZeroDuration()});
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "server/auth/authenticator.h"

#include <openssl/crypto.h>

#include <utility>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr size_t kMaxHeader = 256;
constexpr std::string_view kScheme = "Bearer ";
constexpr std::string_view kInvalid = "the token is not one of this server's";

absl::Status Refuse(std::string_view reason, std::string_view message) {
  return WithReason(absl::UnauthenticatedError(AbslView(message)), reason);
}

absl::StatusOr<Principal> Valid(const Credential& credential, absl::Time now) {
  if (credential.revoked) return Refuse("TOKEN_REVOKED", "the token was revoked");
  if (now >= credential.expires) return Refuse("TOKEN_EXPIRED", "the token has expired");
  return credential.principal;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Open(std::filesystem::path file, Clock* clock) {
  auto made = std::unique_ptr<Authenticator>(new Authenticator(std::move(file), clock));
  MutexLock lock(&made->mu_);
  RETURN_IF_ERROR(made->Load());
  return made;
}

absl::Status Authenticator::Load() {
  if (!watch_.Changed(clock_->Now())) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<Credential> all, ReadCredentials(watch_.file()));
  auto loaded = std::make_shared<Loaded>();
  for (const Credential& c : all) {
    if (!c.certificate.empty()) {
      if (!c.revoked) loaded->by_certificate[c.certificate] = c;
    } else {
      loaded->by_id[c.id] = c;
    }
  }
  LOG(INFO) << "credentials: " << loaded->by_id.size() << " tokens and " << loaded->by_certificate.size()
            << " certificates from " << watch_.file().native();
  loaded_ = std::move(loaded);
  watch_.Accept();
  return absl::OkStatus();
}

std::shared_ptr<const Authenticator::Loaded> Authenticator::Current() {
  MutexLock lock(&mu_);
  const absl::Status status = Load();
  LOG_IF(ERROR, !status.ok()) << "credentials: keeping what was read before: " << status;
  return loaded_;
}

absl::StatusOr<Principal> Authenticator::Authenticate(const Evidence& evidence) {
  const std::shared_ptr<const Loaded> loaded = Current();
  const absl::Time now = clock_->Now();
  if (evidence.authorization.empty()) {
    for (const std::string& name : evidence.certificate_names) {
      const auto it = loaded->by_certificate.find(name);
      if (it != loaded->by_certificate.end() && now < it->second.expires) return it->second.principal;
    }
    if (!evidence.certificate_names.empty()) {
      return Refuse("CERTIFICATE_UNKNOWN", "no token was sent, and the client's certificate is nobody's here");
    }
    return Refuse("TOKEN_MISSING", "this server wants a token: set QUANT_TOKEN");
  }
  absl::Status invalid = Refuse("TOKEN_INVALID", kInvalid);
  if (evidence.authorization.size() != 1) return invalid;
  std::string_view header = evidence.authorization.front();
  if (header.size() > kMaxHeader || !absl::StartsWithIgnoreCase(AbslView(header), AbslView(kScheme))) return invalid;
  const std::string_view token = header.substr(kScheme.size());
  const auto it = loaded->by_id.find(token.substr(0, token.find('.')));
  if (it == loaded->by_id.end()) return invalid;
  const Credential& credential = it->second;
  const std::string shown = Sha256Hex(token);
  if (CRYPTO_memcmp(shown.data(), credential.sha256.data(), shown.size()) != 0) return invalid;
  return Valid(credential, now);
}

absl::StatusOr<Principal> Authenticator::Find(std::string_view token_id) {
  const std::shared_ptr<const Loaded> loaded = Current();
  const auto it = loaded->by_id.find(token_id);
  if (it == loaded->by_id.end()) return Refuse("TOKEN_INVALID", kInvalid);
  return Valid(it->second, clock_->Now());
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// Authenticator: from what a caller shows (a bearer token, a certificate) to who it is. Follows the credential file: a
// change counts within a second, without a restart. A file that cannot be read any more changes nothing and is logged.
#ifndef QUANT_SERVER_AUTH_AUTHENTICATOR_H_
#define QUANT_SERVER_AUTH_AUTHENTICATOR_H_

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/auth/credential_file.h"
#include "server/auth/file_watch.h"

namespace quant {

// What a call shows. Headers are as the client sent them.
struct Evidence {
  std::vector<std::string_view> authorization;  // values of that header
  // From a verified client certificate: its common name and its URIs. Empty without mutual TLS.
  std::vector<std::string> certificate_names;
};

// Thread-safe.
class Authenticator {
 public:
  // Reads the file, with ReadCredentials' errors. `clock` must outlive the object.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Open(std::filesystem::path file, Clock* clock);

  // A token decides alone, when there is one; else a certificate may.
  //   UNAUTHENTICATED, reason TOKEN_MISSING, TOKEN_INVALID (unknown, malformed, more than one), TOKEN_REVOKED,
  //   TOKEN_EXPIRED (both only with the right secret), CERTIFICATE_UNKNOWN. No message repeats what was sent.
  absl::StatusOr<Principal> Authenticate(const Evidence& evidence);

  // Whose token has this id, for who showed the token itself before.
  //   UNAUTHENTICATED, reason TOKEN_INVALID, TOKEN_REVOKED, TOKEN_EXPIRED.
  absl::StatusOr<Principal> Find(std::string_view token_id);

 private:
  struct Loaded {
    std::map<std::string, Credential, std::less<>> by_id;
    std::map<std::string, Credential, std::less<>> by_certificate;
  };
  Authenticator(std::filesystem::path file, Clock* clock) : clock_(clock), watch_(std::move(file)) {}
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::shared_ptr<const Loaded> Current();

  Clock* const clock_;
  Mutex mu_;
  FileWatch watch_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const Loaded> loaded_ ABSL_GUARDED_BY(mu_);  // shared with the calls that look something up in it
};

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_AUTHENTICATOR_H_

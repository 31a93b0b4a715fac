// SPDX-License-Identifier: Apache-2.0
// The file of --tokens: who may call, one JSON object a line. `quantd token` edits it, a running quantd follows it.
//
//   {"id":"t-…","name":"ann","tenant":"acme","role":"user","sha256":"…","created":"2026-11-26T12:00:00Z"}
//   {"id":"t-…","name":"w1","tenant":"default","role":"worker","certificate":"spiffe://quant/worker",…}
//
// A token is "<id>.<64 hex digits>": 256 random bits. Only its SHA-256 is kept, which is enough: nothing can be guessed
// about such a secret, so that a slow hash would only cost time. A line with `certificate` instead is for callers that
// show a TLS certificate with that common name, or (with "://") that URI as subject alternative name.
#ifndef QUANT_SERVER_AUTH_CREDENTIAL_FILE_H_
#define QUANT_SERVER_AUTH_CREDENTIAL_FILE_H_

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/auth/principal.h"

namespace quant {

struct Credential {
  std::string id;  // "t-" and 16 of [a-z0-9]; not secret
  Principal principal;
  std::string sha256;       // of the token; "" for a certificate
  std::string certificate;  // common name or URI; "" for a token
  absl::Time created;
  absl::Time expires = absl::InfiniteFuture();
  bool revoked = false;
};

// All lines, in order.
//   NOT_FOUND: no such file.  FAILED_PRECONDITION: others than the owner may write to it.
//   INVALID_ARGUMENT: a line cannot be read (its number is named, never its content).
absl::StatusOr<std::vector<Credential>> ReadCredentials(const std::filesystem::path& file);

// Adds a line; makes the file, readable by the owner alone, where it is missing. Edits of several processes do not get
// lost, a reader sees the file before or after, and the change is durable on return.
//   ALREADY_EXISTS: a line that is not revoked has that name, or that certificate.
absl::Status AddCredential(const std::filesystem::path& file, const Credential& credential);

// Marks the lines with this id or name as revoked; returns how many.  NOT_FOUND: none.
absl::StatusOr<int> RevokeCredential(const std::filesystem::path& file, std::string_view id_or_name);

// A new token: credential->id and ->sha256 are set, the token is returned and exists nowhere else.
std::string MakeToken(Credential* credential);

// The role of that name.  INVALID_ARGUMENT.
absl::StatusOr<Role> ParseRole(std::string_view name);

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_CREDENTIAL_FILE_H_

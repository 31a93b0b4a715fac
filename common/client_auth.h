// SPDX-License-Identifier: Apache-2.0
// How quantctl and quant-worker show who they are, and know that they talk to the right server: flags, environment
// (QUANT_TOKEN, QUANT_TOKEN_FILE, QUANT_TLS_CA, QUANT_TLS_CERT, QUANT_TLS_KEY), and what is sent with each call.
#ifndef QUANT_COMMON_CLIENT_AUTH_H_
#define QUANT_COMMON_CLIENT_AUTH_H_

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/flags.h"
#include "common/mutex.h"
#include "common/tls.h"

namespace quant {

struct ClientAuthOptions {
  TlsFiles tls;                  // all empty: in the clear
  std::string token;             // sent as "authorization: Bearer TOKEN"; empty: none
  std::string token_file;        // the token is the first line of this file, which is followed; instead of `token`
  bool insecure_tokens = false;  // send it in the clear beyond this machine all the same

  // --tls-ca, --tls-cert, --tls-key, --token-file, --insecure-tokens.
  void AddFlags(FlagSet* flags);
  // Fills what no flag gave. getenv returns "" for what is not set.
  void FillFromEnvironment(const std::function<std::string(const char*)>& getenv);
};

// Thread-safe.
class ClientAuth {
 public:
  // For a server at `host` ("" is this machine).
  //   INVALID_ARGUMENT: a file cannot be used; the token has a character that no token has; a token would be sent in
  //     the clear beyond this machine.
  static absl::StatusOr<std::shared_ptr<ClientAuth>> Create(const ClientAuthOptions& options, const std::string& host);

  const std::shared_ptr<grpc::ChannelCredentials>& channel_credentials() const { return credentials_; }
  // Adds the token to a call, a request id of its own (x-request-id), and the trace of the calling thread's LogScope,
  // if it has one (traceparent).
  void Prepare(grpc::ClientContext& context);

 private:
  ClientAuth() = default;
  absl::Status ReadToken() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  std::shared_ptr<grpc::ChannelCredentials> credentials_;  // gRPC wants it shared
  std::string file_;
  Mutex mu_;
  std::string token_ ABSL_GUARDED_BY(mu_);
  std::filesystem::file_time_type read_ ABSL_GUARDED_BY(mu_);  // the file's time when it was read
};

}  // namespace quant

#endif  // QUANT_COMMON_CLIENT_AUTH_H_

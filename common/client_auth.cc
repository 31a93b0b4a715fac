// SPDX-License-Identifier: Apache-2.0
#include "common/client_auth.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/trace_context.h"

namespace quant {
namespace {

// A blank or a control character would end the header, or begin another.
absl::Status CheckToken(const std::string& token, const std::string& where) {
  for (const char c : token) {
    if (c < 0x21 || c > 0x7E) {
      return absl::InvalidArgumentError(absl::StrCat(where, " has a blank or a character outside ASCII"));
    }
  }
  if (token.size() > 200) return absl::InvalidArgumentError(absl::StrCat(where, " is longer than 200 bytes"));
  return absl::OkStatus();
}

}  // namespace

void ClientAuthOptions::AddFlags(FlagSet* flags) {
  flags->Add("tls-ca", &tls.ca, "FILE",
             "Use TLS; the server's certificate must come from these authorities (PEM). "
             "Default: $QUANT_TLS_CA.");
  flags->Add("tls-cert", &tls.cert, "FILE", "Certificate to show to the server (PEM). Default: $QUANT_TLS_CERT.");
  flags->Add("tls-key", &tls.key, "FILE", "Its private key (PEM). Default: $QUANT_TLS_KEY.");
  flags->Add("token-file", &token_file, "FILE",
             "File with the token to show. Default: $QUANT_TOKEN_FILE; $QUANT_TOKEN may hold the token itself.");
  flags->Add("insecure-tokens", &insecure_tokens, "",
             "Send the token without TLS beyond this machine, where others on the network can read it.");
}

void ClientAuthOptions::FillFromEnvironment(const std::function<std::string(const char*)>& getenv) {
  if (token_file.empty()) {
    token = getenv("QUANT_TOKEN");
    if (token.empty()) token_file = getenv("QUANT_TOKEN_FILE");
  }
  if (tls.ca.empty()) tls.ca = getenv("QUANT_TLS_CA");
  if (tls.cert.empty() && tls.key.empty()) {
    tls.cert = getenv("QUANT_TLS_CERT");
    tls.key = getenv("QUANT_TLS_KEY");
  }
}

absl::StatusOr<std::shared_ptr<ClientAuth>> ClientAuth::Create(const ClientAuthOptions& options,
                                                               const std::string& host) {
  auto made = std::shared_ptr<ClientAuth>(new ClientAuth);
  ASSIGN_OR_RETURN(made->credentials_, ClientTls(options.tls));
  MutexLock lock(&made->mu_);
  if (options.token_file.empty()) {
    RETURN_IF_ERROR(CheckToken(options.token, "QUANT_TOKEN"));
    made->token_ = options.token;
  } else {
    made->file_ = options.token_file;
    RETURN_IF_ERROR(made->ReadToken());
  }
  const bool here = host.empty() || IsLoopback(host);
  if (!made->token_.empty() && options.tls.empty() && !here && !options.insecure_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the token would be sent to ", host,
        " in the clear, where others can read it: give --tls-ca (QUANT_TLS_CA), or say --insecure-tokens"));
  }
  return made;
}

absl::Status ClientAuth::ReadToken() {
  std::error_code error;
  const auto time = std::filesystem::last_write_time(file_, error);
  if (!error && !token_.empty() && time == read_) return absl::OkStatus();
  std::ifstream in(file_);
  std::string token;
  if (!in || !std::getline(in, token) || token.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read a token from ", Quoted(file_)));
  }
  if (token.back() == '\r') token.pop_back();
  RETURN_IF_ERROR(CheckToken(token, absl::StrCat("the token in ", Quoted(file_))));
  token_ = std::move(token);
  read_ = time;
  return absl::OkStatus();
}

void ClientAuth::Prepare(grpc::ClientContext& context) {
  context.AddMetadata("x-request-id", RandomId("r-"));
  if (const std::string trace = LogScope::Current().traceparent; !trace.empty()) {
    context.AddMetadata(kTraceparentHeader, trace);
  }
  MutexLock lock(&mu_);
  if (!file_.empty()) {
    const absl::Status status = ReadToken();
    LOG_IF(WARNING, !status.ok()) << status << "; using the one read before";
  }
  if (!token_.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token_));
}

}  // namespace quant

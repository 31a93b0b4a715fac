// SPDX-License-Identifier: Apache-2.0
// TLS of both sides, from PEM files that are followed: a renewed certificate, key or authority counts for the
// connections made a few seconds later, without a restart. Replace key and certificate together (rename a folder or a
// link): between two halves of a pair no connection succeeds.
#ifndef QUANT_COMMON_TLS_H_
#define QUANT_COMMON_TLS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quant {

struct TlsFiles {
  std::string ca;    // authorities that the other side's certificate must come from
  std::string cert;  // our certificate, then the chain above it
  std::string key;   // its private key
  bool empty() const { return ca.empty() && cert.empty() && key.empty(); }
};

// What a server does with clients' certificates, when it has an authority for them.
enum class ClientCertificates { kRequired, kOptional };

// Needs `cert` and `key`. With `ca`, clients' certificates are asked for and verified.
//   INVALID_ARGUMENT: a file is missing or cannot be read, or key and certificate are not of one pair.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(const TlsFiles& files, ClientCertificates clients);

// Needs `ca`; the server's certificate must name the host that is connected to. With `cert` and `key` the client shows
// its own.  Empty files: a connection in the clear.  INVALID_ARGUMENT: as above.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientTls(const TlsFiles& files);

// When the first of the certificates in the file (PEM) expires.
//   INVALID_ARGUMENT: the file cannot be read, or has no certificate.
absl::StatusOr<absl::Time> CertificateExpiry(const std::string& file);

}  // namespace quant

#endif  // QUANT_COMMON_TLS_H_

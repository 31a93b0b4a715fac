// SPDX-License-Identifier: Apache-2.0
#include "common/tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kLookSeconds = 1;

absl::Status Bad(std::string_view what, const std::string& file) {
  char text[256] = "unknown error";
  if (const unsigned long error = ERR_peek_last_error(); error != 0) ERR_error_string_n(error, text, sizeof(text));
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat("cannot use ", AbslView(what), " ", Quoted(file), ": ", text));
}

// gRPC only finds out at each handshake, and then says nothing: so the files are tried here first.
absl::Status Try(const TlsFiles& files) {
  if (files.cert.empty() != files.key.empty()) {
    return absl::InvalidArgumentError("a certificate and its key go together: give both or neither");
  }
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_method()), SSL_CTX_free);
  if (!files.cert.empty()) {
    if (SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str()) != 1) {
      return Bad("the certificate", files.cert);
    }
    if (SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context.get()) != 1) {
      return Bad("the key", files.key);
    }
  }
  if (!files.ca.empty() && SSL_CTX_load_verify_locations(context.get(), files.ca.c_str(), nullptr) != 1) {
    return Bad("the authorities", files.ca);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(const TlsFiles& files, ClientCertificates clients) {
  if (files.cert.empty()) return absl::InvalidArgumentError("TLS needs a certificate and its key");
  RETURN_IF_ERROR(Try(files));
  auto provider = std::make_shared<FileWatcherCertificateProvider>(files.key, files.cert, files.ca, kLookSeconds);
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(clients == ClientCertificates::kRequired
                                      ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientTls(const TlsFiles& files) {
  if (files.empty()) return grpc::InsecureChannelCredentials();
  if (files.ca.empty()) {
    return absl::InvalidArgumentError("TLS needs the authority of the server's certificate: --tls-ca or QUANT_TLS_CA");
  }
  RETURN_IF_ERROR(Try(files));
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      files.cert.empty()
          ? std::make_shared<FileWatcherCertificateProvider>(files.ca, kLookSeconds)
          : std::make_shared<FileWatcherCertificateProvider>(files.key, files.cert, files.ca, kLookSeconds));
  options.watch_root_certs();
  if (!files.cert.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

absl::StatusOr<absl::Time> CertificateExpiry(const std::string& file) {
  const std::unique_ptr<BIO, int (*)(BIO*)> in(BIO_new_file(file.c_str(), "r"), BIO_free);
  if (in == nullptr) return Bad("the certificate", file);
  absl::Time expiry = absl::InfiniteFuture();
  while (true) {
    const std::unique_ptr<X509, void (*)(X509*)> certificate(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr),
                                                             X509_free);
    if (certificate == nullptr) break;
    tm end{};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &end) != 1) return Bad("the certificate", file);
    expiry = std::min(expiry, absl::FromUnixSeconds(::timegm(&end)));
  }
  if (expiry == absl::InfiniteFuture()) return Bad("the certificate", file);
  ERR_clear_error();  // the end of the file is an error to OpenSSL
  return expiry;
}

}  // namespace quant

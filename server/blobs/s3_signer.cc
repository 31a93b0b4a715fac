// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_signer.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"
#include "common/strings.h"

namespace quant {
namespace {

std::string Hmac(std::string_view key, std::string_view text) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
       text.size(), out, &size);
  return {reinterpret_cast<const char*>(out), size};
}

}  // namespace

std::string UriEncode(std::string_view text, bool keep_slash) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_' || c == '~' ||
        (c == '/' && keep_slash)) {
      out += c;
    } else {
      constexpr char kHex[] = "0123456789ABCDEF";
      const auto byte = static_cast<unsigned char>(c);
      out += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return out;
}

std::string EncodeQuery(const std::map<std::string, std::string>& query) {
  // Sorted by encoded name: '%' sorts before letters and digits, so the order may differ from that of the plain names.
  std::map<std::string, std::string> encoded;
  for (const auto& [name, value] : query) encoded[UriEncode(name, false)] = UriEncode(value, false);
  return absl::StrJoin(encoded, "&", absl::PairFormatter("="));
}

std::string AmzDate(absl::Time now) { return absl::FormatTime("%Y%m%dT%H%M%SZ", now, absl::UTCTimeZone()); }

std::string Authorization(const SignableRequest& request, const S3Credentials& credentials, std::string_view region,
                          std::string_view service, absl::Time now) {
  const std::string date = AmzDate(now);
  const std::string day = date.substr(0, 8);
  std::string headers;
  for (const auto& [name, value] : request.headers) {
    absl::StrAppend(&headers, name, ":", absl::StripAsciiWhitespace(value), "\n");
  }
  const std::string names = absl::StrJoin(
      request.headers, ";", [](std::string* out, const auto& header) { absl::StrAppend(out, header.first); });
  const std::string canonical =
      absl::StrCat(request.method, "\n", UriEncode(request.path, true), "\n", EncodeQuery(request.query), "\n", headers,
                   "\n", names, "\n", request.payload_sha256);
  const std::string scope = absl::StrCat(day, "/", AbslView(region), "/", AbslView(service), "/aws4_request");
  const std::string to_sign = absl::StrCat("AWS4-HMAC-SHA256\n", date, "\n", scope, "\n", Sha256Hex(canonical));
  const std::string key =
      Hmac(Hmac(Hmac(Hmac(absl::StrCat("AWS4", credentials.secret_key), day), region), service), "aws4_request");
  return absl::StrCat("AWS4-HMAC-SHA256 Credential=", credentials.access_key, "/", scope, ", SignedHeaders=", names,
                      ", Signature=", absl::BytesToHexString(Hmac(key, to_sign)));
}

}  // namespace quant

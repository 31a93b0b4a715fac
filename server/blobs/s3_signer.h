// SPDX-License-Identifier: Apache-2.0
// AWS Signature Version 4 (docs.aws.amazon.com, "Signature Version 4 signing process"), for requests with headers.
// libcurl has one of its own, which leaves out x-amz-content-sha256 and does not sort the query.
#ifndef QUANT_SERVER_BLOBS_S3_SIGNER_H_
#define QUANT_SERVER_BLOBS_S3_SIGNER_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace quant {

struct S3Credentials {
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // of temporary credentials; else empty
};

struct SignableRequest {
  std::string method;  // "GET"
  std::string path;    // not encoded, begins with "/"
  // Names and values, not encoded.
  std::map<std::string, std::string> query;
  // What is signed: lower-case names, with "host" and all that begin with x-amz-.
  std::map<std::string, std::string> headers;
  std::string payload_sha256;  // 64 hex digits
};

// RFC 3986: all but [A-Za-z0-9_.~-] as %XX; in a path also "/" stays.
std::string UriEncode(std::string_view text, bool keep_slash);
// "a=1&b=%20", sorted by name, names and values encoded; what is signed, and what must be sent.
std::string EncodeQuery(const std::map<std::string, std::string>& query);

// The value of the Authorization header. `service` is "s3" but in AWS's test vectors. The request's headers must have
// x-amz-date as AmzDate(now) has it.
std::string Authorization(const SignableRequest& request, const S3Credentials& credentials, std::string_view region,
                          std::string_view service, absl::Time now);

// "20150830T123600Z".
std::string AmzDate(absl::Time now);

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_S3_SIGNER_H_

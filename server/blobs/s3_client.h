// SPDX-License-Identifier: Apache-2.0
// S3Client: the calls of the S3 API that S3BlobStore needs, over libcurl, signed (s3_signer.h), path-style addresses.
//
// Every call is safe to repeat, and is repeated after connection errors and 5xx and 429 answers, with backoff, for
// S3Options::give_up_after. Each body carries its SHA-256 (x-amz-content-sha256), which the server checks.
//
// Errors of all calls:
//   UNAVAILABLE, reason BLOB_STORE_UNREACHABLE: no good answer in that time.
//   UNAVAILABLE, reason BLOB_STORE_REFUSED: credentials or permissions (401, 403); not repeated.
//   RESOURCE_EXHAUSTED, reason DISK_FULL: the server has no room (507, or a quota).
//   NOT_FOUND: no such object, upload or bucket.  INTERNAL: any other refusal; the message has S3's code and text.
#ifndef QUANT_SERVER_BLOBS_S3_CLIENT_H_
#define QUANT_SERVER_BLOBS_S3_CLIENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/blobs/s3_signer.h"

namespace quant {

struct S3Options {
  std::string endpoint;  // "https://HOST[:PORT]"
  std::string region = "us-east-1";
  std::string bucket;
  std::string prefix;  // of all keys: empty, or ends with "/"
  S3Credentials credentials;
  absl::Duration connect_timeout = absl::Seconds(5);
  absl::Duration stall_timeout = absl::Seconds(20);  // an answer in which nothing moves for so long has failed
  absl::Duration give_up_after = absl::Seconds(15);
};

// "s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME][&credentials=FILE]". Without an endpoint it is AWS's of the
// region. Credentials come from FILE (the format of ~/.aws/credentials, its [default] part), else from the
// environment's AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
//   INVALID_ARGUMENT: malformed; FAILED_PRECONDITION: no credentials.
absl::StatusOr<S3Options> ParseS3Url(std::string_view url);

// Keys are without the prefix. Thread-safe; a call blocks its thread.
class S3Client {
 public:
  struct Object {
    std::string key;
    int64_t size = 0;
    absl::Time modified;  // by the server's clock
  };
  struct Part {
    int number = 0;  // from 1
    int64_t size = 0;
    std::string etag;
  };
  struct Upload {
    std::string key;
    std::string id;
    absl::Time initiated;
  };

  explicit S3Client(S3Options options);
  ~S3Client();

  absl::Status Put(std::string_view key, std::string_view body);
  // Bytes [offset, offset + size), fewer at the end of the object; size 0: all of it.
  absl::StatusOr<std::string> Get(std::string_view key, int64_t offset = 0, int64_t size = 0);
  // The object's size; nothing when there is none.
  absl::StatusOr<std::optional<int64_t>> Head(std::string_view key);
  // One that is not there is fine.
  absl::Status Delete(std::string_view key);
  // All objects whose key begins with `prefix`, in the order of their keys.
  absl::Status List(std::string_view prefix, const std::function<void(Object)>& visit);

  absl::StatusOr<std::string> CreateUpload(std::string_view key);
  absl::StatusOr<Part> PutPart(std::string_view key, std::string_view upload, int number, std::string_view body);
  absl::StatusOr<std::vector<Part>> ListParts(std::string_view key, std::string_view upload);
  // Makes the object of exactly these parts. NOT_FOUND also when the upload was completed or aborted before.
  absl::Status CompleteUpload(std::string_view key, std::string_view upload, const std::vector<Part>& parts);
  absl::Status AbortUpload(std::string_view key, std::string_view upload);
  absl::StatusOr<std::vector<Upload>> ListUploads(std::string_view prefix);

 private:
  struct Request;
  struct Answer;
  struct Handles;

  absl::StatusOr<Answer> Call(const Request& request);
  absl::StatusOr<Answer> CallOnce(const Request& request);

  const S3Options options_;
  std::string host_;
  const std::unique_ptr<Handles> handles_;
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_S3_CLIENT_H_

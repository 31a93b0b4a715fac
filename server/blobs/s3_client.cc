// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/log/check.h"
#include "absl/log/log.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/s3_xml.h"

namespace quant {
namespace {

constexpr size_t kMaxAnswer = size_t{64} << 20;  // of listings and errors; a Get has its own limit
constexpr absl::Duration kFirstWait = absl::Milliseconds(100);
constexpr absl::Duration kLongestWait = absl::Seconds(2);

absl::Status Unreachable(std::string_view message) {
  return WithReason(absl::UnavailableError(AbslView(message)), "BLOB_STORE_UNREACHABLE", {}, absl::Seconds(2));
}

// Waits somewhat less or more than `wait`, so that many callers do not come back at once.
void SleepAbout(absl::Duration wait) {
  thread_local std::minstd_rand random(std::random_device{}());
  absl::SleepFor(wait * std::uniform_real_distribution<double>(0.75, 1.25)(random));
}

int64_t ToInt(const std::string& text) {
  int64_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

absl::Time ToTime(const std::string& text) {
  absl::Time time;
  std::string error;
  return absl::ParseTime(absl::RFC3339_full, text, &time, &error) ? time : absl::Now();
}

// What a truncated listing says of where its next page begins: the texts of `names`, the first not empty. Empty: it was
// the last page.
//   INTERNAL: it begins where the page before did, so that the listing would not end.
absl::StatusOr<std::vector<std::string>> NextPage(std::string_view body, const std::vector<std::string>& names,
                                                  const std::vector<std::string>& before) {
  std::vector<std::string> next;
  next.reserve(names.size());
  for (const std::string& name : names) next.push_back(XmlText(body, name));
  if (XmlText(body, "IsTruncated") != "true" || next.front().empty()) return std::vector<std::string>();
  if (next == before) {
    return absl::InternalError(absl::StrCat("S3 answers the same page of a listing again, with ", names.front(), " ",
                                            Quoted(next.front(), 100)));
  }
  return next;
}

}  // namespace

struct S3Client::Request {
  std::string method;
  std::string key;  // without the prefix; not used when `bucket` is set
  bool bucket = false;
  std::map<std::string, std::string> query;
  std::string_view body;
  std::string range;  // "bytes=0-9"
  size_t max_answer = kMaxAnswer;
};

struct S3Client::Answer {
  long status = 0;
  std::string etag;
  int64_t content_length = 0;
  std::string body;
  size_t max_body = 0;

  static size_t OnBody(char* data, size_t, size_t size, void* answer) {
    auto* const self = static_cast<Answer*>(answer);
    if (size > self->max_body - self->body.size()) return 0;  // ends the transfer with an error
    self->body.append(data, size);
    return size;
  }
  static size_t OnHeader(char* data, size_t, size_t size, void* answer) {
    auto* const self = static_cast<Answer*>(answer);
    const absl::string_view line(data, size);
    if (absl::StartsWithIgnoreCase(line, "etag:")) self->etag = std::string(absl::StripAsciiWhitespace(line.substr(5)));
    if (absl::StartsWithIgnoreCase(line, "content-length:"))
      self->content_length = ToInt(std::string(absl::StripAsciiWhitespace(line.substr(15))));
    return size;
  }
};

// Idle handles, each with its open connection.
struct S3Client::Handles {
  Mutex mu;
  std::vector<CURL*> idle ABSL_GUARDED_BY(mu);

  CURL* Take() {
    {
      MutexLock lock(&mu);
      if (!idle.empty()) {
        CURL* const handle = idle.back();
        idle.pop_back();
        return handle;
      }
    }
    CURL* const handle = curl_easy_init();
    CHECK(handle != nullptr) << "libcurl has no memory for a handle";
    return handle;
  }
  void Give(CURL* handle) {
    MutexLock lock(&mu);
    idle.push_back(handle);
  }
  ~Handles() {
    MutexLock lock(&mu);
    for (CURL* const handle : idle) curl_easy_cleanup(handle);
  }
};

S3Client::S3Client(S3Options options) : options_(std::move(options)), handles_(std::make_unique<Handles>()) {
  static const CURLcode initialized = curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(initialized == CURLE_OK) << curl_easy_strerror(initialized);
  const bool https = absl::StartsWith(options_.endpoint, "https://");
  absl::string_view host = absl::string_view(options_.endpoint).substr(https ? 8 : 7);
  absl::ConsumeSuffix(&host, https ? ":443" : ":80");  // as in the Host header
  host_ = std::string(host);
}
S3Client::~S3Client() = default;

absl::StatusOr<S3Client::Answer> S3Client::CallOnce(const Request& request) {
  const absl::Time now = absl::Now();
  SignableRequest signable = {.method = request.method,
                              .path = request.bucket
                                          ? absl::StrCat("/", options_.bucket)
                                          : absl::StrCat("/", options_.bucket, "/", options_.prefix, request.key),
                              .query = request.query,
                              .payload_sha256 = Sha256Hex(request.body)};
  signable.headers = {{"host", host_}, {"x-amz-content-sha256", signable.payload_sha256}, {"x-amz-date", AmzDate(now)}};
  if (!request.range.empty()) signable.headers["range"] = request.range;
  if (!options_.credentials.session_token.empty())
    signable.headers["x-amz-security-token"] = options_.credentials.session_token;
  const std::string authorization = Authorization(signable, options_.credentials, options_.region, "s3", now);

  std::string url = absl::StrCat(options_.endpoint, UriEncode(signable.path, true));
  if (!signable.query.empty()) absl::StrAppend(&url, "?", EncodeQuery(signable.query));

  CURL* const curl = handles_->Take();
  curl_slist* headers = nullptr;
  absl::Cleanup give_back = [&] {
    curl_slist_free_all(headers);
    curl_easy_reset(curl);  // keeps the connection
    handles_->Give(curl);
  };
  const auto add_header = [&](const std::string& line) {
    curl_slist* const longer = curl_slist_append(headers, line.c_str());
    CHECK(longer != nullptr) << "libcurl has no memory for a header";
    headers = longer;
  };
  for (const auto& [name, value] : signable.headers) add_header(absl::StrCat(name, ": ", value));
  add_header(absl::StrCat("Authorization: ", authorization));
  add_header("Content-Type: application/octet-stream");
  add_header("Expect:");  // no question before a large body

  Answer answer;
  answer.max_body = request.max_answer;
  char reason[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Answer::OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Answer::OnHeader);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &answer);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L << 10);
  curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, 512L << 10);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(options_.connect_timeout)));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                   std::max(1L, static_cast<long>(absl::ToInt64Seconds(options_.stall_timeout))));
  if (request.method == "HEAD") {
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  } else if (request.method != "GET") {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.body.data() == nullptr ? "" : request.body.data());  // no copy
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
  const CURLcode code = curl_easy_perform(curl);
  const std::string what = absl::StrCat("S3 at ", options_.endpoint, ", ", request.method, " ", signable.path);
  if (code != CURLE_OK) {
    return Unreachable(absl::StrCat(what, ": ", reason[0] == '\0' ? curl_easy_strerror(code) : reason));
  }
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  // A Complete may fail after its 200 was sent.
  const std::string error = answer.status / 100 == 2 && request.method != "POST" ? "" : XmlText(answer.body, "Code");
  if (answer.status / 100 == 2 && error.empty()) return answer;
  const std::string message =
      absl::StrCat(what, " answers ", answer.status, " ", error, " ", Quoted(XmlText(answer.body, "Message"), 200));
  switch (answer.status) {
    case 401:
    case 403:
      return WithReason(absl::UnavailableError(absl::StrCat(message, ": are the credentials and the region right?")),
                        "BLOB_STORE_REFUSED", {}, absl::Seconds(10));
    case 404:
      return absl::NotFoundError(message);
    case 507:
      return WithReason(absl::ResourceExhaustedError(message), "DISK_FULL", {}, absl::Seconds(30));
    default:
      break;
  }
  if (absl::StrContains(error, "Quota") || error == "InsufficientStorage") {
    return WithReason(absl::ResourceExhaustedError(message), "DISK_FULL", {}, absl::Seconds(30));
  }
  if (answer.status >= 500 || answer.status == 429 || answer.status == 408 || answer.status == 200) {
    return Unreachable(message);
  }
  return absl::InternalError(message);
}

absl::StatusOr<S3Client::Answer> S3Client::Call(const Request& request) {
  const absl::Time give_up = absl::Now() + options_.give_up_after;
  for (absl::Duration wait = kFirstWait;; wait = std::min(2 * wait, kLongestWait)) {
    absl::StatusOr<Answer> answer = CallOnce(request);
    if (ReasonOf(answer.status()) != "BLOB_STORE_UNREACHABLE" || absl::Now() + wait > give_up) return answer;
    LOG_EVERY_N_SEC(WARNING, 5) << answer.status().message() << "; trying again";
    SleepAbout(wait);
  }
}

absl::Status S3Client::Put(std::string_view key, std::string_view body) {
  return Call({.method = "PUT", .key = std::string(key), .body = body}).status();
}

absl::StatusOr<std::string> S3Client::Get(std::string_view key, int64_t offset, int64_t size) {
  Request request = {.method = "GET", .key = std::string(key)};
  if (size > 0) {
    request.range = absl::StrCat("bytes=", offset, "-", offset + size - 1);
    request.max_answer = std::max(static_cast<size_t>(size), size_t{1} << 16);  // or an error's text
  }
  ASSIGN_OR_RETURN(Answer answer, Call(request));
  return std::move(answer.body);
}

absl::StatusOr<std::optional<int64_t>> S3Client::Head(std::string_view key) {
  const auto answer = Call({.method = "HEAD", .key = std::string(key)});
  if (absl::IsNotFound(answer.status())) return std::nullopt;
  RETURN_IF_ERROR(answer.status());
  return answer->content_length;
}

absl::Status S3Client::Delete(std::string_view key) {
  const absl::Status status = Call({.method = "DELETE", .key = std::string(key)}).status();
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status S3Client::List(std::string_view prefix, const std::function<void(Object)>& visit) {
  Request request = {.method = "GET", .bucket = true};
  request.query = {{"list-type", "2"}, {"prefix", absl::StrCat(options_.prefix, AbslView(prefix))}};
  std::vector<std::string> page;
  while (true) {
    ASSIGN_OR_RETURN(const Answer answer, Call(request));
    for (const std::string_view record : XmlElements(answer.body, "Contents")) {
      Object object = {XmlText(record, "Key"), ToInt(XmlText(record, "Size")), ToTime(XmlText(record, "LastModified"))};
      if (!absl::StartsWith(object.key, options_.prefix)) continue;
      object.key.erase(0, options_.prefix.size());
      visit(std::move(object));
    }
    ASSIGN_OR_RETURN(page, NextPage(answer.body, {"NextContinuationToken"}, page));
    if (page.empty()) return absl::OkStatus();
    request.query["continuation-token"] = page[0];
  }
}

absl::StatusOr<std::string> S3Client::CreateUpload(std::string_view key) {
  ASSIGN_OR_RETURN(const Answer answer, Call({.method = "POST", .key = std::string(key), .query = {{"uploads", ""}}}));
  std::string id = XmlText(answer.body, "UploadId");
  if (id.empty())
    return absl::InternalError(absl::StrCat("S3 at ", options_.endpoint, " began an upload without an id"));
  return id;
}

absl::StatusOr<S3Client::Part> S3Client::PutPart(std::string_view key, std::string_view upload, int number,
                                                 std::string_view body) {
  ASSIGN_OR_RETURN(Answer answer,
                   Call({.method = "PUT",
                         .key = std::string(key),
                         .query = {{"partNumber", absl::StrCat(number)}, {"uploadId", std::string(upload)}},
                         .body = body}));
  return Part{number, static_cast<int64_t>(body.size()), std::move(answer.etag)};
}

absl::StatusOr<std::vector<S3Client::Part>> S3Client::ListParts(std::string_view key, std::string_view upload) {
  Request request = {.method = "GET", .key = std::string(key), .query = {{"uploadId", std::string(upload)}}};
  std::vector<Part> parts;
  std::vector<std::string> page;
  while (true) {
    ASSIGN_OR_RETURN(const Answer answer, Call(request));
    for (const std::string_view record : XmlElements(answer.body, "Part")) {
      parts.push_back({static_cast<int>(ToInt(XmlText(record, "PartNumber"))), ToInt(XmlText(record, "Size")),
                       XmlText(record, "ETag")});
    }
    ASSIGN_OR_RETURN(page, NextPage(answer.body, {"NextPartNumberMarker"}, page));
    if (page.empty()) return parts;
    request.query["part-number-marker"] = page[0];
  }
}

absl::Status S3Client::CompleteUpload(std::string_view key, std::string_view upload, const std::vector<Part>& parts) {
  std::string body = "<CompleteMultipartUpload>";
  for (const Part& part : parts) {
    absl::StrAppend(&body, "<Part><PartNumber>", part.number, "</PartNumber><ETag>", XmlEscape(part.etag),
                    "</ETag></Part>");
  }
  body += "</CompleteMultipartUpload>";
  return Call({.method = "POST", .key = std::string(key), .query = {{"uploadId", std::string(upload)}}, .body = body})
      .status();
}

absl::Status S3Client::AbortUpload(std::string_view key, std::string_view upload) {
  const absl::Status status =
      Call({.method = "DELETE", .key = std::string(key), .query = {{"uploadId", std::string(upload)}}}).status();
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::StatusOr<std::vector<S3Client::Upload>> S3Client::ListUploads(std::string_view prefix) {
  Request request = {.method = "GET", .bucket = true};
  request.query = {{"uploads", ""}, {"prefix", absl::StrCat(options_.prefix, AbslView(prefix))}};
  std::vector<Upload> uploads;
  std::vector<std::string> page;
  while (true) {
    ASSIGN_OR_RETURN(const Answer answer, Call(request));
    for (const std::string_view record : XmlElements(answer.body, "Upload")) {
      Upload upload = {XmlText(record, "Key"), XmlText(record, "UploadId"), ToTime(XmlText(record, "Initiated"))};
      if (!absl::StartsWith(upload.key, options_.prefix)) continue;
      upload.key.erase(0, options_.prefix.size());
      uploads.push_back(std::move(upload));
    }
    ASSIGN_OR_RETURN(page, NextPage(answer.body, {"NextKeyMarker", "NextUploadIdMarker"}, page));
    if (page.empty()) return uploads;
    request.query["key-marker"] = page[0];
    request.query["upload-id-marker"] = page[1];
  }
}

}  // namespace quant

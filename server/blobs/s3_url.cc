// SPDX-License-Identifier: Apache-2.0
// ParseS3Url of s3_client.h, and where credentials come from.
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/s3_client.h"

namespace quant {
namespace {

std::string Env(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// The [default] part of a file in the form of ~/.aws/credentials.
absl::StatusOr<S3Credentials> ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::FailedPreconditionError(absl::StrCat("cannot read the S3 credentials in ", Quoted(path)));
  S3Credentials credentials;
  bool in_default = true;  // a file without parts is one
  for (std::string line; std::getline(file, line);) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (absl::StartsWith(text, "[")) in_default = text == "[default]";
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    const absl::string_view name = absl::StripAsciiWhitespace(parts.first);
    const std::string value(absl::StripAsciiWhitespace(parts.second));
    if (!in_default) continue;
    if (name == "aws_access_key_id") credentials.access_key = value;
    if (name == "aws_secret_access_key") credentials.secret_key = value;
    if (name == "aws_session_token") credentials.session_token = value;
  }
  if (credentials.access_key.empty() || credentials.secret_key.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(path), " has no aws_access_key_id and aws_secret_access_key in its [default] part"));
  }
  return credentials;
}

absl::StatusOr<S3Credentials> FindCredentials(const std::string& file) {
  if (!file.empty()) return ReadFile(file);
  S3Credentials credentials = {Env("AWS_ACCESS_KEY_ID"), Env("AWS_SECRET_ACCESS_KEY"), Env("AWS_SESSION_TOKEN")};
  if (credentials.access_key.empty() || credentials.secret_key.empty()) {
    return absl::FailedPreconditionError(
        "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file: s3://…?credentials=FILE");
  }
  return credentials;
}

bool IsName(absl::string_view name, absl::string_view also) {
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains(also, c)) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<S3Options> ParseS3Url(std::string_view url) {
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " in ", Quoted(url, 300),
                     "; wanted is s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME][&credentials=FILE]"));
  };
  absl::string_view rest = AbslView(url);
  if (!absl::ConsumePrefix(&rest, "s3://")) return wrong("no s3://");
  const std::pair<absl::string_view, absl::string_view> halves = absl::StrSplit(rest, absl::MaxSplits('?', 1));
  const std::pair<std::string, std::string> place = absl::StrSplit(halves.first, absl::MaxSplits('/', 1));
  S3Options options;
  options.bucket = place.first;
  if (options.bucket.size() < 3 || options.bucket.size() > 63 || !IsName(options.bucket, "-."))
    return wrong("a bucket has 3 to 63 of [A-Za-z0-9.-]: wrong one");
  options.prefix = place.second;
  if (!IsName(options.prefix, "-._/") || absl::StartsWith(options.prefix, "/") ||
      absl::StrContains(options.prefix, "//"))
    return wrong("a prefix has [A-Za-z0-9._-] and single \"/\": wrong one");
  if (!options.prefix.empty() && !absl::EndsWith(options.prefix, "/")) options.prefix += '/';

  std::string credentials_file;
  for (const absl::string_view setting : absl::StrSplit(halves.second, '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, std::string> pair = absl::StrSplit(setting, absl::MaxSplits('=', 1));
    if (pair.first == "endpoint") {
      options.endpoint = pair.second;
    } else if (pair.first == "region") {
      options.region = pair.second;
    } else if (pair.first == "credentials") {
      credentials_file = pair.second;
    } else {
      return wrong(absl::StrCat("unknown setting \"", pair.first, "\""));
    }
  }
  if (options.region.empty() || !IsName(options.region, "-")) return wrong("wrong region");
  if (options.endpoint.empty()) options.endpoint = absl::StrCat("https://s3.", options.region, ".amazonaws.com");
  while (absl::EndsWith(options.endpoint, "/")) options.endpoint.pop_back();
  absl::string_view host = options.endpoint;
  if (!(absl::ConsumePrefix(&host, "http://") || absl::ConsumePrefix(&host, "https://")) || host.empty() ||
      !IsName(host, ".-:[]")) {
    return wrong("an endpoint is http(s)://HOST[:PORT]: wrong one");
  }
  ASSIGN_OR_RETURN(options.credentials, FindCredentials(credentials_file));
  return options;
}

}  // namespace quant

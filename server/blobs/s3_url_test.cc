// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/random_id.h"
#include "common/strings.h"
#include "server/blobs/s3_client.h"

namespace quant {
namespace {

class S3UrlTest : public ::testing::Test {
 protected:
  S3UrlTest() {
    ::setenv("AWS_ACCESS_KEY_ID", "id", 1);
    ::setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
    ::unsetenv("AWS_SESSION_TOKEN");
  }
};

TEST_F(S3UrlTest, ReadsAllItsParts) {
  const auto options = ParseS3Url("s3://quant-blobs/a/b?endpoint=http://127.0.0.1:8080/&region=eu-west-1");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->bucket, "quant-blobs");
  EXPECT_EQ(options->prefix, "a/b/");
  EXPECT_EQ(options->endpoint, "http://127.0.0.1:8080");
  EXPECT_EQ(options->region, "eu-west-1");
  EXPECT_EQ(options->credentials.access_key, "id");
  EXPECT_EQ(options->credentials.secret_key, "secret");
}

TEST_F(S3UrlTest, NeedsOnlyABucket) {
  const auto options = ParseS3Url("s3://quant");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->endpoint, "https://s3.us-east-1.amazonaws.com");
  EXPECT_EQ(options->prefix, "");
}

TEST_F(S3UrlTest, RefusesWhatIsMalformed) {
  for (const char* url : {"", "s3:/b", "s3://", "s3://ab", "s3://b c d", "s3://bucket//x", "s3://bucket/a b",
                          "s3://bucket?endpoint=ftp://x", "s3://bucket?endpoint=http://", "s3://bucket?colour=red",
                          "s3://bucket?endpoint=http://user:pw@host", "s3://bucket?region="}) {
    EXPECT_EQ(ParseS3Url(url).status().code(), absl::StatusCode::kInvalidArgument) << url;
  }
}

TEST_F(S3UrlTest, WithoutCredentialsItSaysHowToGiveThem) {
  ::unsetenv("AWS_SECRET_ACCESS_KEY");
  const absl::Status status = ParseS3Url("s3://bucket").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(StdView(status.message())), ::testing::HasSubstr("AWS_SECRET_ACCESS_KEY"));
}

TEST_F(S3UrlTest, ReadsTheDefaultPartOfACredentialsFile) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / RandomId("credentials-");
  std::ofstream(path)
      << "[other]\naws_access_key_id = no\naws_secret_access_key = no\n"
         "[default]\naws_access_key_id = file-id\n aws_secret_access_key=a=b/c\n[more]\naws_access_key_id=no\n";
  const auto options = ParseS3Url("s3://bucket?credentials=" + path.string());
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->credentials.access_key, "file-id");
  EXPECT_EQ(options->credentials.secret_key, "a=b/c");
  std::ofstream(path) << "[other]\naws_access_key_id = no\n";
  EXPECT_EQ(ParseS3Url("s3://bucket?credentials=" + path.string()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  std::filesystem::remove(path);
  EXPECT_EQ(ParseS3Url("s3://bucket?credentials=" + path.string()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace quant

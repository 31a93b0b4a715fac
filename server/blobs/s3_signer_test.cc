// SPDX-License-Identifier: Apache-2.0
// Vectors: AWS's Signature Version 4 test suite (get-vanilla, get-vanilla-query-order-key-case, post-x-www-form-…), and
// the examples of "Authenticating Requests: Using the Authorization Header" in the S3 API reference.
#include "server/blobs/s3_signer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/civil_time.h"
#include "common/digest.h"

namespace quant {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

const S3Credentials kSuite = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ""};
const absl::Time kSuiteTime = absl::FromCivil(absl::CivilSecond(2015, 8, 30, 12, 36, 0), absl::UTCTimeZone());

std::string SignSuite(SignableRequest request) {
  request.headers["host"] = "example.amazonaws.com";
  request.headers["x-amz-date"] = "20150830T123600Z";
  request.path = "/";
  if (request.payload_sha256.empty()) request.payload_sha256 = Sha256Hex("");
  return Authorization(request, kSuite, "us-east-1", "service", kSuiteTime);
}

TEST(S3SignerTest, TestSuiteGetVanilla) {
  EXPECT_EQ(
      SignSuite({.method = "GET"}),
      "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
      "SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
}

TEST(S3SignerTest, TestSuiteSortsTheQuery) {
  EXPECT_THAT(SignSuite({.method = "GET", .query = {{"Param2", "value2"}, {"Param1", "value1"}}}),
              EndsWith("Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"));
}

TEST(S3SignerTest, TestSuitePostVanilla) {
  EXPECT_THAT(SignSuite({.method = "POST"}),
              EndsWith("Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"));
}

const S3Credentials kS3 = {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""};
const absl::Time kS3Time = absl::FromCivil(absl::CivilSecond(2013, 5, 24, 0, 0, 0), absl::UTCTimeZone());

std::string SignS3(SignableRequest request, std::string_view payload) {
  request.payload_sha256 = Sha256Hex(payload);
  request.headers["host"] = "examplebucket.s3.amazonaws.com";
  request.headers["x-amz-content-sha256"] = request.payload_sha256;
  request.headers["x-amz-date"] = AmzDate(kS3Time);
  return Authorization(request, kS3, "us-east-1", "s3", kS3Time);
}

TEST(S3SignerTest, GetObjectWithARange) {
  const std::string header = SignS3({.method = "GET", .path = "/test.txt", .headers = {{"range", "bytes=0-9"}}}, "");
  EXPECT_THAT(header, HasSubstr("SignedHeaders=host;range;x-amz-content-sha256;x-amz-date"));
  EXPECT_THAT(header, EndsWith("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"));
}

TEST(S3SignerTest, PutObjectWithASpecialCharacterInItsName) {
  EXPECT_THAT(
      SignS3({.method = "PUT",
              .path = "/test$file.text",
              .headers = {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}}},
             "Welcome to Amazon S3."),
      EndsWith("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
}

TEST(S3SignerTest, GetBucketLifecycleHasAQueryWithoutAValue) {
  EXPECT_THAT(SignS3({.method = "GET", .path = "/", .query = {{"lifecycle", ""}}}, ""),
              EndsWith("Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
}

TEST(S3SignerTest, ListObjects) {
  EXPECT_THAT(SignS3({.method = "GET", .path = "/", .query = {{"prefix", "J"}, {"max-keys", "2"}}}, ""),
              EndsWith("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
}

TEST(S3SignerTest, EncodesAllButUnreservedBytes) {
  EXPECT_EQ(UriEncode("a/b c~_.-\xc3\xa4+", false), "a%2Fb%20c~_.-%C3%A4%2B");
  EXPECT_EQ(UriEncode("/a/b=c", true), "/a/b%3Dc");
  EXPECT_EQ(EncodeQuery({{"a", ""}, {"b c", "/"}}), "a=&b%20c=%2F");
}

}  // namespace
}  // namespace quant

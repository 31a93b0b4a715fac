// SPDX-License-Identifier: Apache-2.0
// What S3Client makes of answers that no good server gives. The good ones come from a real server: s3_blob_store_test.
#include "server/blobs/s3_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "server/http/http_server.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::HasSubstr;

class S3ClientTest : public ::testing::Test {
 protected:
  // A client of a server that answers the n-th request, from 1, with answer(n).
  S3Client Client(std::function<std::string(int n)> answer) {
    requests_ = 0;
    auto page = [this, answer = std::move(answer)](const HttpRequest&) {
      HttpResponse response;
      response.body = answer(++requests_);
      return response;
    };
    auto server = HttpServer::Start({"127.0.0.1", 0}, {.metrics = {}, .ready = {}, .page = std::move(page)});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    S3Options options;
    options.endpoint = absl::StrCat("http://127.0.0.1:", server_->port());
    options.bucket = "bucket";
    options.credentials = {.access_key = "a", .secret_key = "b", .session_token = ""};
    return S3Client(std::move(options));
  }

  std::atomic<int> requests_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(S3ClientTest, AListingThatDoesNotEndIsAnError) {
  S3Client s3 = Client(
      [](int) { return "<L><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></L>"; });
  EXPECT_THAT(s3.List("", [](S3Client::Object) {}),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("same page of a listing again")));
  EXPECT_EQ(requests_, 2);
}

TEST_F(S3ClientTest, PartsThatDoNotEndAreAnErrorToo) {
  S3Client s3 = Client(
      [](int) { return "<L><IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker></L>"; });
  EXPECT_THAT(s3.ListParts("key", "upload"), StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(requests_, 2);
}

// More uploads of one key than a page has: the key stays, the id moves on.
TEST_F(S3ClientTest, PagesOfUploadsGoOnWhereKeyOrIdDiffer) {
  S3Client s3 = Client([](int n) {
    return absl::StrCat("<L><IsTruncated>", n < 3 ? "true" : "false",
                        "</IsTruncated><NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>", n,
                        "</NextUploadIdMarker><Upload><Key>k</Key><UploadId>", n, "</UploadId></Upload></L>");
  });
  const auto uploads = s3.ListUploads("");
  ASSERT_THAT(uploads, IsOk());
  EXPECT_EQ(uploads->size(), 3u);
}

}  // namespace
}  // namespace quant

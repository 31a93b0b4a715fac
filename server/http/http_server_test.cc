// SPDX-License-Identifier: Apache-2.0
#include "server/http/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/unique_fd.h"

namespace quant {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The whole answer to one raw request.
std::string Ask(int port, const std::string& request) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "no connection";
  if (::write(fd.get(), request.data(), request.size()) != static_cast<ssize_t>(request.size())) return "no write";
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0;) answer.append(buffer, static_cast<size_t>(n));
  return answer;
}

std::string Get(int port, const std::string& path, const std::string& method = "GET") {
  return Ask(port, absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
}

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServerTest() {
    auto server = HttpServer::Start(
        {"127.0.0.1", 0}, {.metrics = [] { return std::string("quant_x 1\n"); }, .ready = [this] { return ready_; }});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  absl::Status ready_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, ServesMetricsInPrometheusFormat) {
  ASSERT_GT(server_->port(), 0);
  EXPECT_THAT(Get(server_->port(), "/metrics"),
              AllOf(StartsWith("HTTP/1.1 200 OK"), HasSubstr("version=0.0.4"), HasSubstr("\r\n\r\nquant_x 1\n")));
}

TEST_F(HttpServerTest, LiveAndReadyAreDifferentQuestions) {
  EXPECT_THAT(Get(server_->port(), "/readyz"), StartsWith("HTTP/1.1 200"));
  ready_ = absl::UnavailableError("draining");
  EXPECT_THAT(Get(server_->port(), "/readyz"), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("not ready: draining")));
  EXPECT_THAT(Get(server_->port(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, OtherPathsMethodsAndGarbageAreErrors) {
  EXPECT_THAT(Get(server_->port(), "/"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(server_->port(), "/metrics/x"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(server_->port(), "/../../etc/passwd"), Not(HasSubstr("root:")));
  EXPECT_THAT(Get(server_->port(), "/metrics", "POST"), StartsWith("HTTP/1.1 405"));
  const std::string head = Get(server_->port(), "/metrics", "HEAD");
  EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("Content-Length: 10"), Not(HasSubstr("quant_x"))));
  EXPECT_THAT(Ask(server_->port(), "nonsense\r\n\r\n"), Not(StartsWith("HTTP/1.1 200")));
  EXPECT_THAT(Get(server_->port(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST(HttpServerPages, OtherPathsAreThePagesOwnAndBodiesAreBounded) {
  HttpRequest seen;
  auto server =
      HttpServer::Start({"127.0.0.1", 0}, {.metrics = [] { return std::string("quant_x 1\n"); },
                                           .ready = [] { return absl::OkStatus(); },
                                           .page = [&seen](const HttpRequest& request) -> HttpResponse {
                                             seen = request;
                                             return {.code = 303, .body = "page", .headers = {{"Location", "/x"}}};
                                           }});
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  EXPECT_THAT(Get(port, "/jobs/%41?x=%42&y"), AllOf(StartsWith("HTTP/1.1 303 See Other"), HasSubstr("Location: /x\r\n"),
                                                    HasSubstr("Cache-Control: no-store"), HasSubstr("\r\n\r\npage")));
  EXPECT_EQ(seen.path, "/jobs/A");
  EXPECT_EQ(seen.query, "x=%42&y");
  EXPECT_EQ(seen.peer, "127.0.0.1");
  EXPECT_EQ(seen.Header("host"), "x");
  EXPECT_THAT(Get(port, "/x", "HEAD"), AllOf(HasSubstr("Content-Length: 4"), Not(HasSubstr("page"))));
  EXPECT_THAT(Get(port, "/metrics"), HasSubstr("quant_x 1"));  // as without pages

  const auto post = [&](const std::string& path, const std::string& length, const std::string& body) {
    return Ask(port, absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\n", length, "\r\n", body));
  };
  EXPECT_THAT(post("/login", "Content-Length: 7\r\n", "token=a"), StartsWith("HTTP/1.1 303"));
  EXPECT_EQ(seen.body, "token=a");
  EXPECT_THAT(post("/login", "Content-Length: 4097\r\n", std::string(4097, 'a')), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(post("/login", "", ""), StartsWith("HTTP/1.1 4"));
  EXPECT_THAT(post("/metrics", "Content-Length: 0\r\n", ""), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Get(port, "/x", "DELETE"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Get(port, absl::StrCat("/", std::string(40000, 'a'))), Not(StartsWith("HTTP/1.1 303")));
}

TEST_F(HttpServerTest, AddressInUseIsAnErrorThatNamesIt) {
  const auto second = HttpServer::Start({"127.0.0.1", server_->port()}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(absl::StrCat("127.0.0.1:", server_->port())));
}

}  // namespace
}  // namespace quant

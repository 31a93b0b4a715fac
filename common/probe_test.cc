// SPDX-License-Identifier: Apache-2.0
#include "common/probe.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/unique_fd.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

// Answers one connection with `answer` and closes it; with "" it says nothing until the client is gone.
class OneAnswer {
 public:
  explicit OneAnswer(std::string answer) : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, answer = std::move(answer)] {
      const UniqueFd fd(::accept(listener_.get(), nullptr, nullptr));
      char buffer[4096];
      const ssize_t got = ::recv(fd.get(), buffer, sizeof(buffer), 0);
      if (got > 0) request_.assign(buffer, static_cast<size_t>(got));
      if (!answer.empty()) {
        EXPECT_EQ(::send(fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL), static_cast<ssize_t>(answer.size()));
      } else {
        EXPECT_EQ(::recv(fd.get(), buffer, sizeof(buffer), 0), 0);
      }
    });
  }
  ~OneAnswer() {
    if (thread_.joinable()) thread_.join();
  }
  int port() const { return port_; }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  const std::string& Request() {
    thread_.join();
    return request_;
  }

 private:
  const UniqueFd listener_;
  int port_ = 0;
  std::string request_;
  std::thread thread_;
};

// A port where nobody listens.
int FreePort() {
  OneAnswer server("x");
  const int port = server.port();
  (void)HttpGet({"", port}, "/", absl::Seconds(10));  // lets it end
  return port;
}

ProbedProgram Program() {
  return {.name = "thing",
          .default_address = "127.0.0.1:1",
          .path = "/readyz",
          .ready_means = "it is ready",
          .judge = [](const HttpAnswer& answer) {
            return answer.code == 200 ? absl::OkStatus() : absl::UnavailableError("draining");
          }};
}

TEST(Probe, GetsCodeAndBody) {
  OneAnswer server("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nnot\r\n\r\nready");
  const auto answer = HttpGet({"", server.port()}, "/readyz", absl::Seconds(30));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->code, 503);
  EXPECT_EQ(answer->body, "not\r\n\r\nready");
  EXPECT_THAT(server.Request(), HasSubstr("GET /readyz HTTP/1.0\r\n"));
}

TEST(Probe, NobodyThereSilenceAndNonsenseAreErrors) {
  const auto refused = HttpGet({"127.0.0.1", FreePort()}, "/", absl::Seconds(30));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable) << refused.status();
  {
    OneAnswer silent("");
    const auto answer = HttpGet({"127.0.0.1", silent.port()}, "/", absl::Milliseconds(50));
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kDeadlineExceeded) << answer.status();
  }
  for (const char* text : {"hello", "HTTP/1.1 200", "HTTP/1.1 abc OK\r\n\r\n", "SSH-2.0-x\r\n\r\n0123456789"}) {
    OneAnswer server(text);
    const auto answer = HttpGet({"127.0.0.1", server.port()}, "/", absl::Seconds(30));
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(Probe, ExitStatusSaysWhetherItIsReady) {
  {
    OneAnswer good("HTTP/1.1 200 OK\r\n\r\nok");
    EXPECT_EQ(RunProbe(Program(), {"--metrics", good.address()}), 0);
  }
  {
    OneAnswer good("HTTP/1.1 200 OK\r\n\r\nok");  // the flag as the program itself has it
    EXPECT_EQ(RunProbe(Program(), {"--metrics", absl::StrCat("0.0.0.0:", good.port())}), 0);
  }
  {
    OneAnswer draining("HTTP/1.1 503 Service Unavailable\r\n\r\nno");
    testing::internal::CaptureStderr();
    EXPECT_EQ(RunProbe(Program(), {"--metrics", draining.address()}), 1);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), absl::StrCat("thing at ", draining.address(), ": draining\n"));
  }
  EXPECT_EQ(RunProbe(Program(), {"--metrics", absl::StrCat(":", FreePort())}), 1);
}

TEST(Probe, WrongUsageAndHelp) {
  EXPECT_EQ(RunProbe(Program(), {"--metrics", "nonsense"}), 2);
  EXPECT_EQ(RunProbe(Program(), {"--timeout", "5"}), 2);
  EXPECT_EQ(RunProbe(Program(), {"word"}), 2);
  testing::internal::CaptureStdout();
  EXPECT_EQ(RunProbe(Program(), {"--help"}), 0);
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("Exit status: 0 it is ready, 1"));
}

}  // namespace
}  // namespace quant

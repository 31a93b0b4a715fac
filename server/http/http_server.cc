// SPDX-License-Identifier: Apache-2.0
#include "server/http/http_server.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/strings.h"
#include "common/unique_fd.h"

namespace quant {

struct HttpServer::Impl {
  HttpHandlers handlers;
  mg_context* context = nullptr;
  int port = 0;

  std::string host;

  ~Impl() {
    if (context == nullptr) return;
    // civetweb's listener looks at its stop flag every 2 s, or when somebody connects: so somebody does.
    std::atomic<bool> stopped{false};
    std::thread nudge([this, &stopped] {
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<uint16_t>(port));
      if (::inet_pton(AF_INET, host.empty() ? "127.0.0.1" : host.c_str(), &address.sin_addr) != 1) return;
      while (!stopped) {
        UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        // Refused or in progress will do as well: the listener has woken, or is gone.
        const bool refused = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 &&
                             errno != EINPROGRESS;
        absl::SleepFor(absl::Milliseconds(refused ? 50 : 10));
      }
    });
    mg_stop(context);
    stopped = true;
    nudge.join();
  }
};

namespace {

// Where LogMessage puts what is logged on this thread, while Start runs.
thread_local std::string* start_error = nullptr;

void Answer(mg_connection* connection, int code, std::string_view reason, std::string_view type, std::string_view body,
            bool head) {
  const std::string header =
      absl::StrCat("HTTP/1.1 ", code, " ", AbslView(reason), "\r\nContent-Type: ", AbslView(type),
                   "\r\nContent-Length: ", body.size(), "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
  mg_write(connection, header.data(), header.size());
  if (!head) mg_write(connection, body.data(), body.size());
}

int Handle(mg_connection* connection, void* data) {
  const auto* const handlers = static_cast<const HttpHandlers*>(data);
  const mg_request_info* const info = mg_get_request_info(connection);
  const std::string_view method = info->request_method == nullptr ? "" : info->request_method;
  const std::string_view path = info->local_uri == nullptr ? "" : info->local_uri;
  constexpr std::string_view kText = "text/plain; charset=utf-8";
  const bool head = method == "HEAD";
  if (method != "GET" && !head) {
    Answer(connection, 405, "Method Not Allowed", kText, "only GET and HEAD\n", false);
    return 405;
  }
  if (path == "/metrics") {
    Answer(connection, 200, "OK", "text/plain; version=0.0.4; charset=utf-8", handlers->metrics(), head);
    return 200;
  }
  if (path == "/healthz") {
    Answer(connection, 200, "OK", kText, "ok\n", head);
    return 200;
  }
  if (path == "/readyz") {
    const absl::Status ready = handlers->ready();
    if (ready.ok()) {
      Answer(connection, 200, "OK", kText, "ok\n", head);
      return 200;
    }
    Answer(connection, 503, "Service Unavailable", kText, absl::StrCat("not ready: ", ready.message(), "\n"), head);
    return 503;
  }
  Answer(connection, 404, "Not Found", kText, "there are /metrics, /healthz and /readyz\n", head);
  return 404;
}

int LogMessage(const mg_connection*, const char* message) {
  LOG(WARNING) << "http: " << message;
  if (start_error != nullptr) absl::StrAppend(start_error, start_error->empty() ? "" : "; ", message);
  return 1;
}

}  // namespace

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;
int HttpServer::port() const { return impl_->port; }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HostPort& address, HttpHandlers handlers) {
  auto impl = std::make_unique<Impl>();
  impl->handlers = std::move(handlers);
  // civetweb wants addresses, not names.
  HostPort numeric = address;
  if (numeric.host == "localhost") numeric.host = "127.0.0.1";
  const std::string port = numeric.host.empty() ? absl::StrCat(numeric.port) : numeric.ToString();
  const char* options[] = {
      "listening_ports",    port.c_str(), "num_threads",           "2",  // a scrape and a probe at once
      "request_timeout_ms", "10000",      "keep_alive_timeout_ms", "0", nullptr};
  mg_callbacks callbacks{};
  callbacks.log_message = LogMessage;
  std::string error;
  start_error = &error;
  mg_context* const context = mg_start(&callbacks, nullptr, options);
  start_error = nullptr;
  if (context == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot serve HTTP on ", address.ToString(), ": ",
                                               error.empty() ? "civetweb gave no reason" : error));
  }
  impl->context = context;
  mg_server_port used{};
  if (mg_get_server_ports(context, 1, &used) != 1) return absl::InternalError("civetweb does not tell its port");
  impl->port = used.port;
  impl->host = numeric.host;
  mg_set_request_handler(context, "/", Handle, &impl->handlers);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

}  // namespace quant

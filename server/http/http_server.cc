// SPDX-License-Identifier: Apache-2.0
#include "server/http/http_server.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/ascii.h"
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

constexpr std::string_view kText = "text/plain; charset=utf-8";

std::string_view ReasonPhrase(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 303:
      return "See Other";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 429:
      return "Too Many Requests";
    case 503:
      return "Service Unavailable";
    default:
      return "Error";
  }
}

int Answer(mg_connection* connection, const HttpResponse& response, bool head) {
  std::string header = absl::StrCat("HTTP/1.1 ", response.code, " ", AbslView(ReasonPhrase(response.code)),
                                    "\r\nContent-Type: ", response.type, "\r\nContent-Length: ", response.body.size(),
                                    "\r\nCache-Control: no-store\r\nConnection: close\r\n");
  for (const auto& [name, value] : response.headers) absl::StrAppend(&header, name, ": ", value, "\r\n");
  header += "\r\n";
  mg_write(connection, header.data(), header.size());
  if (!head) mg_write(connection, response.body.data(), response.body.size());
  return response.code;
}

int AnswerText(mg_connection* connection, int code, std::string text, bool head) {
  return Answer(connection, {.code = code, .type = std::string(kText), .body = std::move(text)}, head);
}

// The rest of the request for a page; or an answer that says why it is not taken.
std::optional<HttpResponse> ReadRequest(mg_connection* connection, const mg_request_info& info, HttpRequest* request) {
  if (info.query_string != nullptr) request->query = info.query_string;
  request->peer = info.remote_addr;
  for (int i = 0; i < info.num_headers; ++i) {
    const auto& header = info.http_headers[i];
    request->headers.emplace(absl::AsciiStrToLower(header.name), header.value);
  }
  if (request->method != "POST") return std::nullopt;
  const auto refuse = [](int code, std::string text) {
    return HttpResponse{.code = code, .type = std::string(kText), .body = std::move(text)};
  };
  if (info.content_length < 0) return refuse(411, "a POST needs Content-Length\n");
  if (info.content_length > HttpServer::kMaxBody) {
    return refuse(
        413, absl::StrCat("a body of ", info.content_length, " bytes; at most ", HttpServer::kMaxBody, " are taken\n"));
  }
  request->body.resize(static_cast<size_t>(info.content_length));
  size_t have = 0;
  while (have < request->body.size()) {
    const int n = mg_read(connection, request->body.data() + have, request->body.size() - have);
    if (n <= 0) return refuse(400, "the body ended early\n");
    have += static_cast<size_t>(n);
  }
  return std::nullopt;
}

int Handle(mg_connection* connection, void* data) {
  const auto* const handlers = static_cast<const HttpHandlers*>(data);
  const mg_request_info* const info = mg_get_request_info(connection);
  HttpRequest request;
  request.method = info->request_method == nullptr ? "" : info->request_method;
  request.path = info->local_uri == nullptr ? "" : info->local_uri;
  const bool head = request.method == "HEAD";
  const bool fixed = request.path == "/metrics" || request.path == "/healthz" || request.path == "/readyz";
  const bool pages = handlers->page != nullptr && !fixed;
  if (request.method != "GET" && !head && !(pages && request.method == "POST")) {
    return AnswerText(connection, 405, pages ? "only GET, HEAD and POST\n" : "only GET and HEAD\n", false);
  }
  if (request.path == "/metrics") {
    return Answer(connection, {.type = "text/plain; version=0.0.4; charset=utf-8", .body = handlers->metrics()}, head);
  }
  if (request.path == "/healthz") return AnswerText(connection, 200, "ok\n", head);
  if (request.path == "/readyz") {
    const absl::Status ready = handlers->ready();
    if (ready.ok()) return AnswerText(connection, 200, "ok\n", head);
    return AnswerText(connection, 503, absl::StrCat("not ready: ", ready.message(), "\n"), head);
  }
  if (!pages) return AnswerText(connection, 404, "there are /metrics, /healthz and /readyz\n", head);
  if (const auto refused = ReadRequest(connection, *info, &request)) return Answer(connection, *refused, head);
  return Answer(connection, handlers->page(request), head);
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
  // A scrape and a probe at once; and browsers, whose slow connections must not keep these waiting.
  const char* const threads = impl->handlers.page == nullptr ? "2" : "16";
  const char* options[] = {"listening_ports",       port.c_str(), "num_threads", threads, "request_timeout_ms", "10000",
                           "keep_alive_timeout_ms", "0",          nullptr};
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

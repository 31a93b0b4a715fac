// SPDX-License-Identifier: Apache-2.0
// HttpServer: the little HTTP that Prometheus, probes and a browser want. civetweb inside.
//
//   GET /metrics   200, Prometheus text format 0.0.4
//   GET /healthz   200 "ok" while the process serves HTTP at all: restart it when this fails
//   GET /readyz    200 "ok", or 503 with one line that says why not: send it no work meanwhile
//   others         HttpHandlers::page; 404 where there is none
//
// Methods are GET and HEAD, for pages also POST with a body of at most kMaxBody; others answer 405. No TLS. The three
// above want no authentication: bind it to loopback or to a network that only monitoring reaches.
#ifndef QUANT_SERVER_HTTP_HTTP_SERVER_H_
#define QUANT_SERVER_HTTP_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/net.h"
#include "server/http/http_message.h"

namespace quant {

struct HttpHandlers {
  std::function<std::string()> metrics;
  std::function<absl::Status()> ready;  // OK, or why not; called on threads of the server
  // All other paths; may be empty. Called on several threads at once.
  std::function<HttpResponse(const HttpRequest&)> page;
};

// Thread-safe.
class HttpServer {
 public:
  static constexpr int kMaxBody = 4096;

  // Listens on `address` (port 0: any free one).
  //   UNAVAILABLE: the address is in use or not ours.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HostPort& address, HttpHandlers handlers);
  // Ends open requests and joins the threads.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // The port that is really used.
  int port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_HTTP_HTTP_SERVER_H_

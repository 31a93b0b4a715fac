// SPDX-License-Identifier: Apache-2.0
// A request to and a response of HttpServer.
#ifndef QUANT_SERVER_HTTP_HTTP_MESSAGE_H_
#define QUANT_SERVER_HTTP_HTTP_MESSAGE_H_

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quant {

struct HttpRequest {
  std::string method;                               // GET, HEAD or POST
  std::string path;                                 // decoded, without "..": "/jobs/j-…"
  std::string query;                                // as sent, without "?"
  std::multimap<std::string, std::string> headers;  // names in lower case
  std::string body;                                 // of a POST
  std::string peer;                                 // address, without port

  // All values of a header.
  std::vector<std::string_view> All(const std::string& name) const {
    std::vector<std::string_view> values;
    const auto [begin, end] = headers.equal_range(name);
    for (auto it = begin; it != end; ++it) values.emplace_back(it->second);
    return values;
  }
  // Its value; "" where there is none or more than one.
  std::string_view Header(const std::string& name) const {
    const auto values = All(name);
    return values.size() == 1 ? values.front() : std::string_view();
  }
};

struct HttpResponse {
  int code = 200;
  std::string type = "text/html; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // without line ends
};

}  // namespace quant

#endif  // QUANT_SERVER_HTTP_HTTP_MESSAGE_H_

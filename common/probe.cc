// SPDX-License-Identifier: Apache-2.0
#include "common/probe.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"

namespace quant {
namespace {

constexpr int kNotReady = 1;
constexpr int kWrongUsage = 2;
constexpr size_t kMaxAnswer = size_t{16} << 20;

absl::Status Broken(std::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat(std::string(what), ": ", std::strerror(error)));
}

absl::Status WaitFor(int fd, short events, absl::Time deadline) {
  while (true) {
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0) return absl::DeadlineExceededError("it did not answer in time");
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Broken("poll", errno);
  }
}

absl::StatusOr<UniqueFd> Connect(const HostPort& address, absl::Time deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string host = address.host.empty() ? "127.0.0.1" : address.host;
  if (const int error = ::getaddrinfo(host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found); error != 0) {
    return absl::UnavailableError(::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  absl::Status status = absl::UnavailableError("no address");
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    UniqueFd fd(::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) {
      status = Broken("socket", errno);
      continue;
    }
    if (::connect(fd.get(), a->ai_addr, a->ai_addrlen) != 0) {
      int error = errno;
      if (error == EINPROGRESS) {
        RETURN_IF_ERROR(WaitFor(fd.get(), POLLOUT, deadline));
        socklen_t size = sizeof(error);
        if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
      }
      if (error != 0) {
        status = Broken("no connection", error);
        continue;
      }
    }
    return fd;
  }
  return status;
}

absl::Status SendAll(int fd, std::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    RETURN_IF_ERROR(WaitFor(fd, POLLOUT, deadline));
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno != EINTR && errno != EAGAIN) {
      return Broken("the connection broke", errno);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReceiveAll(int fd, absl::Time deadline) {
  std::string bytes;
  char buffer[16 << 10];
  while (true) {
    RETURN_IF_ERROR(WaitFor(fd, POLLIN, deadline));
    const ssize_t got = ::recv(fd, buffer, sizeof(buffer), 0);
    if (got == 0) return bytes;
    if (got > 0) {
      bytes.append(buffer, static_cast<size_t>(got));
      if (bytes.size() > kMaxAnswer) return absl::InvalidArgumentError("it answers with more than 16 MiB");
    } else if (errno != EINTR && errno != EAGAIN) {
      return Broken("the connection broke", errno);
    }
  }
}

}  // namespace

absl::StatusOr<HttpAnswer> HttpGet(const HostPort& address, std::string_view path, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  ASSIGN_OR_RETURN(const UniqueFd fd, Connect(address, deadline));
  // 1.0: the body comes in one piece and ends with the connection.
  const std::string request =
      absl::StrCat("GET ", std::string(path), " HTTP/1.0\r\nHost: ", address.ToString(), "\r\n\r\n");
  RETURN_IF_ERROR(SendAll(fd.get(), request, deadline));
  ASSIGN_OR_RETURN(const std::string answer, ReceiveAll(fd.get(), deadline));
  // "HTTP/1.1 200 OK\r\n…\r\n\r\nbody"
  const size_t blank = answer.find("\r\n\r\n");
  HttpAnswer out;
  if (answer.rfind("HTTP/1.", 0) != 0 || answer.size() < 12 || blank == std::string::npos ||
      !absl::SimpleAtoi(answer.substr(9, 3), &out.code)) {
    return absl::InvalidArgumentError("it does not answer in HTTP");
  }
  out.body = answer.substr(blank + 4);
  return out;
}

int RunProbe(const ProbedProgram& program, const std::vector<std::string>& args) {
  std::string metrics = program.default_address;
  absl::Duration timeout = absl::Seconds(3);
  FlagSet flags(absl::StrCat(program.name, " probe"),
                absl::StrCat(program.name, " probe [flags]\n\nAsks the ", program.name,
                             " that runs beside it whether it is ready, for the health check of a container."));
  flags.Add("metrics", &metrics, "ADDR:PORT",
            absl::StrCat("Where the running ", program.name, " serves HTTP: its own --metrics."));
  flags.Add("timeout", &timeout, "TIME", "How long it has to answer.");
  flags.SetEpilog(absl::StrCat("Example:\n  ", program.name, " probe --metrics ", program.default_address,
                               "\n      Asks for http://", program.default_address, program.path,
                               ".\n\nExit status: 0 ", program.ready_means,
                               ", 1 it is not ready or does not answer (stderr says why), 2 wrong usage."));
  absl::Status status = flags.Parse(args, nullptr);
  if (status.ok() && flags.help_requested()) {
    std::cout << flags.Help();
    return 0;
  }
  absl::StatusOr<HostPort> address = HostPort{};
  if (status.ok()) {
    address = ParseHostPort(metrics);
    status = address.status();
  }
  if (!status.ok()) {
    std::cerr << program.name << ": " << status.message() << "; " << program.name << " probe --help tells more\n";
    return kWrongUsage;
  }
  if (address->host == "0.0.0.0") address->host.clear();  // a copied --metrics: all interfaces, so this machine's too
  const absl::StatusOr<HttpAnswer> answer = HttpGet(*address, program.path, timeout);
  status = answer.ok() ? program.judge(*answer) : answer.status();
  if (status.ok()) {
    std::cout << "ready\n";
    return 0;
  }
  std::cerr << program.name << " at " << metrics << ": " << status.message() << "\n";
  return kNotReady;
}

}  // namespace quant

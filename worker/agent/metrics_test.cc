// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <csignal>
#include <set>
#include <sstream>
#include <string>

#include "absl/status/status_matchers.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;

TEST(AgentMetrics, HasTheseNamesFromTheStart) {
  AgentMetrics metrics;
  metrics.SetInfo("0.1.0", "avx2", 2, 1000);
  metrics.SetSandbox("partial");
  std::set<std::string> names;
  std::istringstream text(metrics.Text());
  for (std::string line; std::getline(text, line);) {
    if (line.rfind("# TYPE ", 0) == 0) names.insert(line.substr(7));
  }
  EXPECT_EQ(names, (std::set<std::string>{
                       "process_cpu_seconds_total counter",
                       "process_max_fds gauge",
                       "process_open_fds gauge",
                       "process_resident_memory_bytes gauge",
                       "process_start_time_seconds gauge",
                       "quant_worker_cache_bytes gauge",
                       "quant_worker_cache_evicted_bytes_total counter",
                       "quant_worker_cache_hit_bytes_total counter",
                       "quant_worker_cache_limit_bytes gauge",
                       "quant_worker_cache_miss_bytes_total counter",
                       "quant_worker_children_killed_total counter",
                       "quant_worker_children_total counter",
                       "quant_worker_connected gauge",
                       "quant_worker_cpu_seconds_total counter",
                       "quant_worker_heartbeat_failures_total counter",
                       "quant_worker_info gauge",
                       "quant_worker_job_peak_rss_bytes histogram",
                       "quant_worker_job_rss_bytes gauge",
                       "quant_worker_jobs_total counter",
                       "quant_worker_last_heartbeat_timestamp_seconds gauge",
                       "quant_worker_sandbox gauge",
                       "quant_worker_slots gauge",
                       "quant_worker_uploaded_bytes_total counter",
                   }));
  EXPECT_THAT(metrics.Text(), HasSubstr("quant_worker_slots{state=\"free\"} 2\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("quant_worker_jobs_total{outcome=\"failed\",reason=\"OUT_OF_MEMORY\"} 0\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("quant_worker_children_killed_total{cause=\"hang\"} 0\n"));
}

TEST(AgentMetrics, CountsWhatItIsTold) {
  AgentMetrics metrics;
  metrics.SetInfo("0.1.0", "avx2", 2, 1000);
  metrics.SlotBusy(true);
  metrics.JobEnded("failed", "TIMEOUT");
  metrics.ChildEnded(
      {.stopped = StopCause::kTimeout, .exit = {.peak_rss_bytes = int64_t{1} << 29, .cpu_seconds = 1.5}});
  metrics.SetCache({.bytes = 7, .hit_bytes = 3, .miss_bytes = 4, .evicted_bytes = 0});
  metrics.SetCache({.bytes = 9, .hit_bytes = 5, .miss_bytes = 4, .evicted_bytes = 2});
  const std::string text = metrics.Text();
  for (const char* line :
       {"quant_worker_slots{state=\"busy\"} 1\n", "quant_worker_slots{state=\"free\"} 1\n",
        "quant_worker_jobs_total{outcome=\"failed\",reason=\"TIMEOUT\"} 1\n",
        "quant_worker_children_killed_total{cause=\"timeout\"} 1\n", "quant_worker_children_total{end=\"stopped\"} 1\n",
        "quant_worker_cpu_seconds_total 1.5\n", "quant_worker_job_peak_rss_bytes_bucket{le=\"536870912\"} 1\n",
        "quant_worker_cache_bytes 9\n", "quant_worker_cache_hit_bytes_total 5\n",
        "quant_worker_cache_miss_bytes_total 4\n", "quant_worker_cache_evicted_bytes_total 2\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(AgentMetrics, TellsHowChildrenEnded) {
  AgentMetrics metrics;
  const auto exited = [](int status) { return ChildResult{.exit = {.wait_status = status}}; };
  metrics.ChildEnded(exited(0));
  metrics.ChildEnded(exited(3 << 8));
  metrics.ChildEnded(exited(SIGSEGV));
  metrics.ChildEnded(exited(SIGKILL));  // by a kernel that is short of memory
  metrics.ChildEnded({.stopped = StopCause::kMemory, .exit = {.wait_status = SIGKILL}});
  metrics.ChildEnded({.stopped = StopCause::kCancel, .exit = {.wait_status = SIGKILL}});
  const std::string text = metrics.Text();
  for (const char* line : {"{end=\"ok\"} 1\n", "{end=\"exit\"} 1\n", "{end=\"signal\"} 1\n", "{end=\"oom\"} 2\n",
                           "{end=\"stopped\"} 1\n"}) {
    EXPECT_THAT(text, HasSubstr(std::string("quant_worker_children_total") + line));
  }
}

TEST(AgentMetrics, ServesOverHttp) {
  AgentMetrics metrics;
  const absl::StatusOr<int> port = metrics.Serve("127.0.0.1:0");
  ASSERT_THAT(port, IsOk());
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(*port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  ASSERT_EQ(::send(fd.get(), request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, static_cast<size_t>(n));
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("quant_worker_connected 0"));

  AgentMetrics other;
  EXPECT_THAT(other.Serve("127.0.0.1:" + std::to_string(*port)), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(other.Serve("localhost:0"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(other.Serve("nonsense"), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quant

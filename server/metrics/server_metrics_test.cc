// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/server_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace quant {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Every name with its type and label names, one a line, as metrics_golden.txt holds them.
std::string Shape(const std::string& text) {
  std::istringstream in(text);
  std::set<std::string> lines;
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind("# TYPE ", 0) == 0) lines.insert(line.substr(7));
    if (line.empty() || line[0] == '#') continue;
    std::string labels;
    const size_t open = line.find('{');
    const size_t blank = line.rfind(' ');
    const std::string name = line.substr(0, std::min(open, blank));
    for (size_t at = open; at != std::string::npos && at < blank;) {
      const size_t equals = line.find("=\"", at + 1);
      if (equals == std::string::npos) break;
      labels += " " + line.substr(at + 1, equals - at - 1);
      at = line.find('"', equals + 2) + 1;
      if (line[at] != ',') break;
    }
    lines.insert(name + "{" + (labels.empty() ? "" : labels.substr(1)) + "}");
  }
  std::string out;
  for (const std::string& l : lines) out += l + "\n";
  return out;
}

ServerMetrics::ModelSample Model(const std::string& name) {
  return {.model = name,
          .variant = "int8",
          .dataset = "evaluation",
          .method = "static",
          .format = "onnx",
          .isa = "avx2",
          .accuracy = {{"top1", 0.97}},
          .drop = {{"top1", 0.01}},
          .latency = {{0.5, absl::Milliseconds(2)}},
          .size_bytes = 1000,
          .speedup = 2.5};
}

// One sample of everything that does not exist at 0.
void Exercise(ServerMetrics& metrics) {
  metrics.JobFinished("quantize", "static", "succeeded", "", absl::Seconds(1), absl::Seconds(2), absl::Seconds(3));
  metrics.JobPhase("calibrate", "static", absl::Seconds(1));
  metrics.SetWorkers({{.id = "w1", .up = true, .last_heartbeat = absl::FromUnixSeconds(5), .slots = 2, .busy = 1}});
  metrics.SetBuildInfo("1.2.3", "avx2");
  metrics.SetQuotaUsed("acme", "queued_jobs", 0.5);
  metrics.SetCasCapacity(1000);
  metrics.SetCertificateExpiry("certificate", absl::FromUnixSeconds(5));
  metrics.EnableA66();
  const int get_job = metrics.RpcMethod("/quant.v1.JobService/GetJob");
  metrics.RpcHandled(get_job, 0, absl::Milliseconds(3));
  metrics.RpcMessages(get_job, 10, 20);
  metrics.SetModels({Model("shapes")});
}

TEST(ServerMetrics, NamesTypesAndLabelsAreTheGoldenOnes) {
  ServerMetrics metrics;
  Exercise(metrics);
  if (std::getenv("QUANT_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(QUANT_METRICS_GOLDEN) << Shape(metrics.Serialize());
    GTEST_SKIP() << "wrote " << QUANT_METRICS_GOLDEN;
  }
  std::ifstream file(QUANT_METRICS_GOLDEN);
  ASSERT_TRUE(file) << QUANT_METRICS_GOLDEN;
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(Shape(metrics.Serialize()), golden.str())
      << "names are an interface: review the change, run this with QUANT_UPDATE_GOLDEN=1, and tell docs/metrics.md";
}

TEST(ServerMetrics, CountersExistAtZeroFromTheStart) {
  ServerMetrics metrics;
  const std::string text = metrics.Serialize();
  for (const char* line : {
           "quant_jobs_submitted_total{kind=\"quantize\",method=\"gptq\"} 0",
           "quant_jobs{state=\"dead\"} 0",
           "quant_queue_depth{priority=\"5\"} 0",
           "quant_lease_expirations_total{cause=\"deadline\"} 0",
           "quant_upload_digest_mismatch_total 0",
           "quant_workers{state=\"up\"} 0",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, HasSubstr("grpc_method=\"WriteBlob\""));
  EXPECT_THAT(text, HasSubstr("grpc_method=\"LeaseJob\""));
}

TEST(ServerMetrics, HostileLabelsMakeNoNewSeries) {
  ServerMetrics metrics;
  metrics.JobSubmitted("quantize\"}\n", "static");
  metrics.JobSubmitted("quantize", std::string(1000, 'x'));
  metrics.JobSubmitted("benchmark", "");
  metrics.JobRetried("SOMETHING");
  metrics.SetJobs("no such state", 7);
  metrics.SetQueueDepth(6, 7);
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("quant_jobs_submitted_total{kind=\"other\",method=\"static\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_jobs_submitted_total{kind=\"quantize\",method=\"other\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_jobs_submitted_total{kind=\"benchmark\",method=\"none\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_job_retries_total{reason=\"other\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("xxxx")));
  EXPECT_THAT(text, Not(HasSubstr(" 7\n")));
}

TEST(ServerMetrics, WorkersThatAreGoneDisappearAndTheListIsBounded) {
  ServerMetrics metrics;
  std::vector<ServerMetrics::WorkerSample> workers;
  workers.reserve(150);
  for (int i = 0; i < 150; ++i) workers.push_back({.id = "w" + std::to_string(i), .up = i < 140, .slots = 1});
  workers.push_back(workers.front());  // an id twice is harmless
  metrics.SetWorkers(workers);
  std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("quant_worker_up{worker=\"w99\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("worker=\"w100\"")));
  EXPECT_THAT(text, HasSubstr("quant_workers{state=\"lost\"} 10"));
  metrics.SetWorkers({{.id = "only", .up = true, .draining = true, .slots = 2, .busy = 2}});
  text = metrics.Serialize();
  EXPECT_THAT(text, Not(HasSubstr("worker=\"w99\"")));
  EXPECT_THAT(text, HasSubstr("quant_workers{state=\"draining\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_worker_slots{state=\"free\"} 0"));
  EXPECT_THAT(text, HasSubstr("quant_worker_slots{state=\"busy\"} 2"));
}

TEST(ServerMetrics, TheListOfTenantsIsBounded) {
  ServerMetrics metrics;
  for (int i = 0; i < 200; ++i) {
    metrics.QuotaRejected("t" + std::to_string(i), "requests");
    metrics.SetQuotaUsed("t" + std::to_string(i), "queued_jobs", 0.25);
  }
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("quant_quota_rejections_total{resource=\"requests\",tenant=\"t48\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_quota_rejections_total{resource=\"requests\",tenant=\"other\"} 151"));
  EXPECT_THAT(text, HasSubstr("quant_tenant_quota_used_ratio{resource=\"queued_jobs\",tenant=\"t48\"} 0.25"));
  EXPECT_THAT(text, Not(HasSubstr("t49")));
}

TEST(ServerMetrics, ModelsAreReplacedAsAWhole) {
  ServerMetrics metrics;
  metrics.SetModels({Model("a"), Model("a"), Model("b")});  // the same twice is harmless
  std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("quant_model_latency_seconds{dataset=\"evaluation\",method=\"static\",model=\"a\","
                              "quantile=\"0.5\",variant=\"int8\"} 0.002"));
  metrics.SetModels({Model("b")});
  metrics.SetModels({Model("b")});
  text = metrics.Serialize();
  EXPECT_THAT(text, Not(HasSubstr("model=\"a\"")));
  EXPECT_THAT(text, HasSubstr("model=\"b\",variant=\"int8\"} 2.5"));
}

TEST(ServerMetrics, A66IsThereWhenAsked) {
  ServerMetrics metrics;
  const int get_job = metrics.RpcMethod("/quant.v1.JobService/GetJob");
  EXPECT_FALSE(metrics.WantsMessageSizes(get_job));
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("grpc_server_call_")));
  metrics.EnableA66();
  EXPECT_TRUE(metrics.WantsMessageSizes(get_job));
  EXPECT_FALSE(metrics.WantsMessageSizes(metrics.RpcMethod("/no/Such"))) << "its messages are none of ours";
  metrics.RpcStarted(get_job);
  metrics.RpcHandled(get_job, 5, absl::Milliseconds(3));
  metrics.RpcMessages(get_job, 10, 20);
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("grpc_server_call_started_total{grpc_method=\"quant.v1.JobService/GetJob\"} 1"));
  EXPECT_THAT(text, HasSubstr("grpc_server_call_duration_seconds_count{grpc_method=\"quant.v1.JobService/GetJob\","
                              "grpc_status=\"NOT_FOUND\"} 1"));
  EXPECT_THAT(text, HasSubstr("grpc_server_call_rcvd_total_compressed_message_size_bytes_sum{grpc_method=\""
                              "quant.v1.JobService/GetJob\"} 20"));
}

TEST(ServerMetrics, RunningJobsByPhase) {
  ServerMetrics metrics;
  metrics.SetRunning({{"calibrate", 2}, {"", 1}, {"x", 3}, {"y", 4}});
  std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("quant_jobs_running{phase=\"calibrate\"} 2"));
  EXPECT_THAT(text, HasSubstr("quant_jobs_running{phase=\"none\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_jobs_running{phase=\"other\"} 7"));
  metrics.SetRunning({});
  EXPECT_THAT(metrics.Serialize(), HasSubstr("quant_jobs_running{phase=\"calibrate\"} 0"));
}

TEST(ServerMetrics, UnknownRpcsAreOther) {
  ServerMetrics metrics;
  const int known = metrics.RpcMethod("/quant.v1.JobService/GetJob");
  const int other = metrics.RpcMethod("/evil/\"}\n");
  EXPECT_NE(known, other);
  metrics.RpcStarted(known);
  metrics.RpcHandled(known, 5, absl::Milliseconds(3));
  metrics.RpcStarted(other);
  metrics.RpcHandled(other, 12345, -absl::Seconds(1));
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"NOT_FOUND\",grpc_method=\"GetJob\","
                              "grpc_service=\"quant.v1.JobService\",grpc_type=\"unary\"} 1"));
  EXPECT_THAT(
      text, HasSubstr("grpc_server_started_total{grpc_method=\"other\",grpc_service=\"other\",grpc_type=\"unary\"} 1"));
}

}  // namespace
}  // namespace quant

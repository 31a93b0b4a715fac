// SPDX-License-Identifier: Apache-2.0
// The command line against services in memory on loopback: output, exit statuses, retries.
#include "client/cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/transfer/fake_artifact_service.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/workers.grpc.pb.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;

// Jobs go through the states of a script, one per message of a watch; the stream is cut where the script says so.
class FakeJobService final : public v1::JobService::Service {
 public:
  std::mutex mu;
  v1::SubmitJobRequest submitted;
  std::vector<v1::Job> script;  // newest last; GetJob answers script[at]
  size_t at = 0;
  size_t cut_after = 1000;     // a watch ends UNAVAILABLE before it sends the state of this index, once
  bool signs_of_life = false;  // a watch sends what is not newer than asked for, too
  bool hold = false;           // a watch sends nothing more and waits for the client to go
  int unavailable = 0;         // so many calls of GetJob answer UNAVAILABLE
  int watches = 0;
  v1::Report report;
  v1::ListJobsRequest listed;

  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                         v1::SubmitJobResponse* response) override {
    std::lock_guard<std::mutex> lock(mu);
    submitted = *request;
    if (request->spec().quantize().model_id() == "m-none") {
      return ToGrpc(absl::NotFoundError("no model \"m-none\": see quantctl model list"));
    }
    response->mutable_job()->set_id("j-1");
    *response->mutable_job()->mutable_spec() = request->spec();
    response->mutable_job()->set_state(v1::JOB_STATE_QUEUED);
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request, v1::GetJobResponse* response) override {
    std::lock_guard<std::mutex> lock(mu);
    if (unavailable > 0) return --unavailable, grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting");
    if (script.empty() || request->id() != "j-1") {
      return ToGrpc(absl::NotFoundError(absl::StrCat("no job \"", request->id(), "\": see quantctl job list")));
    }
    *response->mutable_job() = script[at];
    return grpc::Status::OK;
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    std::unique_lock<std::mutex> lock(mu);
    ++watches;
    while (at < script.size()) {
      if (at == cut_after) {
        cut_after = 1000;
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going");
      }
      v1::WatchJobResponse response;
      *response.mutable_job() = script[at];
      const bool told = signs_of_life || script[at].sequence() > request->after_sequence();
      if (told && !writer->Write(response)) break;
      if (hold) break;
      if (at + 1 == script.size()) return grpc::Status::OK;
      ++at;
    }
    lock.unlock();
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::CANCELLED;
  }
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override {
    std::lock_guard<std::mutex> lock(mu);
    listed = *request;
    for (const v1::Job& job : script) *response->add_jobs() = job;
    return grpc::Status::OK;
  }
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest*, v1::CancelJobResponse* response) override {
    std::lock_guard<std::mutex> lock(mu);
    *response->mutable_job() = script[at];
    response->mutable_job()->set_state(v1::JOB_STATE_CANCELLING);
    return grpc::Status::OK;
  }
  grpc::Status DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest*, v1::DeleteJobResponse*) override {
    return ToGrpc(
        WithReason(absl::FailedPreconditionError("job j-1 is RUNNING: cancel it first"), "JOB_STATE_FORBIDS"));
  }
  grpc::Status GetJobReport(grpc::ServerContext*, const v1::GetJobReportRequest*,
                            v1::GetJobReportResponse* response) override {
    std::lock_guard<std::mutex> lock(mu);
    *response->mutable_report() = report;
    return grpc::Status::OK;
  }
};

class FakeWorkerService final : public v1::WorkerService::Service {
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    v1::Worker& worker = *response->add_workers();
    worker.mutable_info()->set_id("host-1");
    worker.mutable_info()->set_isa("avx2");
    worker.add_job_ids("j-1");
    return grpc::Status::OK;
  }
  grpc::Status DrainWorker(grpc::ServerContext*, const v1::DrainWorkerRequest* request,
                           v1::DrainWorkerResponse* response) override {
    response->mutable_worker()->mutable_info()->set_id(request->id());
    response->mutable_worker()->set_draining(true);
    return grpc::Status::OK;
  }
};

struct Result {
  int exit;
  std::string out, err;
  json Json() const { return json::parse(out, nullptr, false); }
};

class CliTest : public testing::Test {
 protected:
  CliTest() : server_({&artifacts_, &jobs_, &workers_}) {
    std::string pattern = testing::TempDir() + "/cliXXXXXX";
    dir_ = mkdtemp(pattern.data());
    environment_["QUANT_SERVER"] = server_.address();
  }
  ~CliTest() override { fs::remove_all(dir_); }

  Result Run(const std::vector<std::string>& args) {
    char *out = nullptr, *err = nullptr;
    size_t out_size = 0, err_size = 0;
    CliEnvironment environment;
    environment.out = open_memstream(&out, &out_size);
    environment.err = open_memstream(&err, &err_size);
    environment.version = "1.2.3";
    environment.getenv = [this](const char* name) { return environment_[name]; };
    Result result;
    result.exit = RunQuantctl(args, environment);
    fclose(environment.out);
    fclose(environment.err);
    result.out.assign(out, out_size);
    result.err.assign(err, err_size);
    free(out);
    free(err);
    return result;
  }
  Result Run(const std::string& line) {
    return Run(std::vector<std::string>(absl::StrSplit(line, ' ', absl::SkipEmpty())));
  }
  void Write(const fs::path& path, const std::string& bytes) {
    fs::create_directories((dir_ / path).parent_path());
    std::ofstream(dir_ / path, std::ios::binary) << bytes;
  }
  static std::string Read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // Adds a state to the script of job j-1.
  v1::Job& State(v1::JobState state) {
    v1::Job job;
    job.set_id("j-1");
    job.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_static_int8();
    job.set_sequence(static_cast<int64_t>(jobs_.script.size()) + 1);
    job.set_state(state);
    jobs_.script.push_back(job);
    return jobs_.script.back();
  }
  void Progress(const std::string& phase, double fraction) {
    v1::Job& job = State(v1::JOB_STATE_RUNNING);
    job.mutable_progress()->set_phase(phase);
    job.mutable_progress()->set_fraction(fraction);
  }

  FakeArtifactService artifacts_;
  FakeJobService jobs_;
  FakeWorkerService workers_;
  LoopbackServer server_;
  fs::path dir_;
  std::map<std::string, std::string> environment_;
};

TEST_F(CliTest, HelpAtEachLevelGoesToStdoutAndWrongUseToStderrWithStatus2) {
  for (const char* line : {"--help", "help", "model --help", "job submit --help", "--help job submit",
                           "job --help submit", "worker drain -h"}) {
    const Result result = Run(line);
    EXPECT_EQ(result.exit, 0) << line;
    EXPECT_THAT(result.err, IsEmpty()) << line;
    EXPECT_GT(result.out.size(), 100u) << line;
  }
  for (const char* line :
       {"", "model", "models list", "model lst", "model show", "model show a b", "model list --frob",
        "model list --output xml", "--frob model list", "model list --limit x", "job report j --format pdf",
        "model list --server nowhere", "model list --server h:0", "job list --state ended"}) {
    const Result result = Run(line);
    EXPECT_EQ(result.exit, 2) << line;
    EXPECT_THAT(result.out, IsEmpty()) << line;
    EXPECT_THAT(result.err, Not(IsEmpty())) << line;
  }
  EXPECT_EQ(Run("--version").out, "quantctl 1.2.3\n");
  EXPECT_THAT(Run("model show").err, HasSubstr("ID is missing"));
  environment_["QUANT_SERVER"] = "";
  EXPECT_THAT(Run("model list").err, HasSubstr("give --server ADDR:PORT or set QUANT_SERVER"));
}

TEST_F(CliTest, RetentionIsAskedForShownAndChanged) {
  Write("net.onnx", "graph");
  const std::string upload = absl::StrCat("model upload ", (dir_ / "net.onnx").string());
  EXPECT_EQ(Run(upload + " --expires 0").exit, 2);
  EXPECT_EQ(Run(upload + " --expires 500ms").exit, 2);
  const Result made = Run(upload + " --expires 36h --output json");
  ASSERT_EQ(made.exit, 0) << made.err;
  EXPECT_EQ(made.Json()["expire_time"], "1970-01-02T12:00:00Z");
  const std::string id = made.Json()["id"];
  EXPECT_THAT(Run("model show " + id).out, HasSubstr("\nexpires  1970-01-0"));
  EXPECT_THAT(Run("model list").out, AllOf(HasSubstr("EXPIRES"), HasSubstr("1970-01-0")));
  EXPECT_EQ(Run("model pin " + id).out, "model " + id + " is pinned\n");
  EXPECT_THAT(Run("model show " + id).out, HasSubstr("\nexpires  never, it is pinned\n"));
  EXPECT_THAT(Run("model list").out, HasSubstr("pinned"));
  EXPECT_THAT(Run("model unpin " + id).out, StartsWith("model " + id + " expires 1970-01-0"));
  const Result changed = Run("model unpin " + id + " --expires 72h --output json");
  EXPECT_EQ(changed.Json()["id"], id);
  EXPECT_EQ(changed.Json()["expire_time"], "1970-01-04T00:00:00Z");
  EXPECT_EQ(changed.Json()["pinned"], false);
  EXPECT_EQ(Run("model pin m-none").exit, 1);
  EXPECT_EQ(Run("model pin").exit, 2);
}

TEST_F(CliTest, EveryCommandHasAHelpWithAnExampleWithinAHundredColumns) {
  for (const auto& command : MakeCommands()) {
    const Result result = Run({command->info().group, command->info().name, "--help"});
    EXPECT_EQ(result.exit, 0);
    EXPECT_THAT(result.out, HasSubstr(absl::StrCat("\n  quantctl ", command->info().group, " ", command->info().name)));
    EXPECT_THAT(result.out, HasSubstr("\nExit status: "));
    for (absl::string_view line : absl::StrSplit(result.out, '\n')) {
      if (absl::StartsWith(line, "  --")) continue;  // the choices of --method are many
      EXPECT_LE(DisplayWidth({line.data(), line.size()}), 100) << line;
    }
  }
}

TEST_F(CliTest, GlobalFlagsMayStandBeforeOrAfterTheCommand) {
  environment_["QUANT_SERVER"] = "127.0.0.1:1";
  for (const std::string& line : {"--server " + server_.address() + " --output json model list",
                                  "model --server=" + server_.address() + " list --output json",
                                  "model list --output=json --server " + server_.address()}) {
    const Result result = Run(line);
    EXPECT_EQ(result.exit, 0) << line << result.err;
    EXPECT_TRUE(result.Json().at("items").empty()) << line;
  }
}

TEST_F(CliTest, AnUnreachableServerIsStatus3WithARemedyAndNothingOnStdout) {
  server_.Stop();
  const Result result = Run("model list --output json");
  EXPECT_EQ(result.exit, 3);
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_THAT(result.err,
              AllOf(StartsWith("quantctl: cannot reach the server at 127.0.0.1:"), HasSubstr("QUANT_SERVER")));
}

TEST_F(CliTest, AServerThatComesUpWithinThePatienceIsFound) {
  server_.Stop();
  std::thread late([this] {
    absl::SleepFor(absl::Milliseconds(700));
    server_.Start();
  });
  const Result result = Run("model list --output json");
  late.join();
  EXPECT_EQ(result.exit, 0) << result.err;
}

TEST_F(CliTest, UploadShowDownloadDelete) {
  Write("net/net.onnx", std::string(3'000'000, 'o'));
  Write("net/weights/w.bin", "www");
  Write("net/.cache", "x");
  environment_["QUANT_TOKEN"] = "secret";
  Result result = Run({"model", "upload", (dir_ / "net").string(), "--output", "json"});
  ASSERT_EQ(result.exit, 0) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("not uploaded: .cache: hidden"), HasSubstr("uploading 100%")));
  EXPECT_EQ(artifacts_.authorizations.front(), "Bearer secret");
  const json model = result.Json();
  const std::string id = model.at("id");
  EXPECT_EQ(model.at("name"), "net");
  EXPECT_EQ(model.at("format"), "ONNX");
  EXPECT_EQ(model.at("size_bytes"), 3'000'003);
  EXPECT_EQ(model.at("files")[1].at("path"), "weights/w.bin");

  EXPECT_EQ(Run({"model", "show", id, "--output", "json"}).Json(), model);
  EXPECT_THAT(Run({"model", "show", id}).out, AllOf(HasSubstr("weights/w.bin"), HasSubstr("2.86 MiB")));
  EXPECT_THAT(Run("model list").out, AllOf(HasSubstr("ID "), HasSubstr(id)));

  const fs::path to = dir_ / "a" / "b";
  result = Run({"model", "download", id, to.string(), "--output", "json"});
  ASSERT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.Json().at("id"), id);
  EXPECT_EQ(Read(to / "weights/w.bin"), "www");
  EXPECT_EQ(Read(to / "net.onnx").size(), 3'000'000u);
  // What is there is not fetched again; what differs is not replaced unasked.
  artifacts_.read_calls = 0;
  EXPECT_THAT(Run({"model", "download", id, to.string()}).out, HasSubstr("2 there already"));
  EXPECT_EQ(artifacts_.read_calls, 0);
  std::ofstream(to / "weights/w.bin") << "mine";
  result = Run({"model", "download", id, to.string()});
  EXPECT_EQ(result.exit, 1);
  EXPECT_THAT(result.err, HasSubstr("w.bin exists with other content: --force replaces it"));
  EXPECT_EQ(Read(to / "weights/w.bin"), "mine");
  EXPECT_EQ(Run({"model", "download", id, to.string(), "--force"}).exit, 0);
  EXPECT_EQ(Read(to / "weights/w.bin"), "www");

  EXPECT_EQ(Run({"model", "delete", id, "--output", "json"}).Json(), json({{"id", id}}));
  result = Run({"model", "delete", id});
  EXPECT_EQ(result.exit, 1);
  EXPECT_THAT(result.err, MatchesRegex("quantctl: no model \".*\": see quantctl model list\n"));
}

TEST_F(CliTest, OutputIdPrintsIdsAndNothingElse) {
  Write("net.onnx", "model");
  const Result upload = Run({"model", "upload", dir_ / "net.onnx", "--output", "id"});
  EXPECT_EQ(upload.exit, 0) << upload.err;
  EXPECT_THAT(upload.out, MatchesRegex("m-[0-9]+\n"));
  EXPECT_EQ(Run("model list --output id").out, upload.out);
  EXPECT_EQ(Run("dataset list --output id").out, "");
  const std::string id(absl::StripSuffix(upload.out, "\n"));
  EXPECT_EQ(Run("model show " + id + " --output id").out, upload.out);

  Progress("calibrate", 0.5);
  EXPECT_EQ(Run("job submit --model " + id + " --method dynamic --output id").out, "j-1\n");
  const Result early = Run("model show j-1");
  EXPECT_EQ(early.exit, 1);
  EXPECT_THAT(early.err, HasSubstr("job j-1 has made no model: it is RUNNING"));
  State(v1::JOB_STATE_SUCCEEDED).set_result_model_id(id);
  const Result watched = Run("job submit --model " + id + " --method dynamic --watch --output id");
  EXPECT_EQ(watched.exit, 0) << watched.err;
  EXPECT_EQ(watched.out, "j-1\n");
  EXPECT_EQ(Run("job list --output id").out, "j-1\nj-1\n");
  EXPECT_EQ(Run("model show j-1 --output id").out, upload.out);  // the job's model
  EXPECT_EQ(Run({"model", "download", "j-1", dir_ / "out", "--output", "id"}).out, upload.out);
  EXPECT_EQ(Read(dir_ / "out" / "net.onnx"), "model");
  EXPECT_EQ(Run("worker list --output id").out, "host-1\n");
  EXPECT_EQ(Run("worker drain host-1 --output id").out, "host-1\n");
  const Result report = Run("job report j-1 --output id");
  EXPECT_EQ(report.exit, 2);
  EXPECT_THAT(report.err, HasSubstr("has no ids to print"));
  EXPECT_EQ(Run("model delete " + id + " --output id").out, upload.out);
}

TEST_F(CliTest, ADownloadNeverLeavesItsFolder) {
  v1::Model model;
  model.set_id("m-evil");
  v1::File& file = *model.add_files();
  *file.mutable_digest() = artifacts_.Put("evil");
  for (const char* path : {"../evil", "/tmp/evil-of-cli-test", "a/../../evil", "a\\..\\evil"}) {
    file.set_path(path);
    artifacts_.models["m-evil"] = model;
    const Result result = Run({"model", "download", "m-evil", (dir_ / "to").string()});
    EXPECT_EQ(result.exit, 1) << path;
    EXPECT_THAT(result.err, HasSubstr("not written")) << path;
  }
  EXPECT_FALSE(fs::exists(dir_ / "evil"));
  EXPECT_FALSE(fs::exists("/tmp/evil-of-cli-test"));
  EXPECT_TRUE(fs::is_empty(dir_ / "to"));
}

TEST_F(CliTest, UploadSaysWhatItCannotTake) {
  EXPECT_EQ(Run({"model", "upload", (dir_ / "absent").string()}).exit, 1);
  Write("text.md", "x");
  EXPECT_THAT(Run({"model", "upload", (dir_ / "text.md").string()}).err, HasSubstr("no model here"));
  EXPECT_THAT(Run({"dataset", "upload", (dir_ / "text.md").string()}).err, HasSubstr("alone is no dataset"));
  Write("text.txt", "x");
  const Result result = Run({"dataset", "upload", (dir_ / "text.txt").string(), "--output", "json"});
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.Json().at("name"), "text");
}

TEST_F(CliTest, AnUploadThatWasCutShortIsResumedByTheSameCommand) {
  const std::string bytes(5'000'000, 'z');
  Write("net.onnx", bytes);
  artifacts_.uploads[Sha256Hex(bytes)] = bytes.substr(0, 4'000'000);
  const Result result = Run({"model", "upload", (dir_ / "net.onnx").string()});
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("resuming net.onnx at 4000000 of 5000000 bytes"));
  EXPECT_EQ(artifacts_.bytes_received, 1'000'000);
}

TEST_F(CliTest, ListsFollowPageTokensUpToTheLimit) {
  Write("net.onnx", "o");
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Run({"model", "upload", (dir_ / "net.onnx").string()}).exit, 0);
  EXPECT_EQ(Run("model list --output json").Json().at("items").size(), 5u);
  const Result result = Run("model list --limit 3 --output json");
  EXPECT_EQ(result.Json().at("items").size(), 3u);
  EXPECT_THAT(result.err, HasSubstr("more than 3: --limit 0 lists all"));
}

TEST_F(CliTest, SubmitSendsWhatTheFlagsSay) {
  Result result = Run("job submit --model m-1 --method gptq --bits 4 --label a=b --output json");
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.Json().at("id"), "j-1");
  EXPECT_EQ(result.Json().at("state"), "QUEUED");
  EXPECT_EQ(result.Json().at("spec").at("quantize").at("recipe").at("gptq").at("grid").at("bits"), 4);
  EXPECT_EQ(jobs_.submitted.spec().labels().at("a"), "b");
  EXPECT_EQ(jobs_.submitted.request_id().size(), 32u);
  result = Run("job submit --model m-1 --method static --bits 4 --output json");
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("--bits belongs to rtn, gptq, awq, hqq, not to method static"));
  result = Run("job submit --model m-none --method static");
  EXPECT_EQ(result.exit, 1);
  EXPECT_EQ(result.err, "quantctl: no model \"m-none\": see quantctl model list\n");
}

TEST_F(CliTest, WatchFollowsAJobToItsEnd) {
  State(v1::JOB_STATE_QUEUED);
  Progress("calibrate", 0.25);
  Progress("export", 0.5);
  State(v1::JOB_STATE_SUCCEEDED).set_result_model_id("m-2");
  Result result = Run("job submit --model m-1 --method static --watch --output json");
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.Json().at("state"), "SUCCEEDED");
  EXPECT_EQ(result.Json().at("result_model_id"), "m-2");
  EXPECT_EQ(result.err, "queued 0%  waiting for a worker\ncalibrate 25%\nexport 50%\n");
  result = Run("job watch j-1");
  EXPECT_EQ(result.exit, 0);
  EXPECT_EQ(result.out, "job j-1 SUCCEEDED, result m-2\n");
}

TEST_F(CliTest, WatchSaysWhichJobAnsweredAnother) {
  v1::Job& job = State(v1::JOB_STATE_SUCCEEDED);
  job.set_result_model_id("m-2");
  job.set_cached_from("j-0");
  EXPECT_EQ(Run("job watch j-1").out, "job j-1 SUCCEEDED, result m-2, answered from job j-0\n");
}

TEST_F(CliTest, AJobThatDidNotSucceedIsStatus1WithItsReason) {
  for (v1::JobState state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED, v1::JOB_STATE_DEAD}) {
    jobs_.script.clear();
    jobs_.at = 0;
    v1::Job& job = State(state);
    job.mutable_error()->set_reason("DATA_NOT_FINITE");
    job.mutable_error()->set_phase("calibrate");
    job.mutable_error()->set_message("sample 3 has a NaN: remove it");
    const Result result = Run("job watch j-1 --output json");
    EXPECT_EQ(result.exit, 1);
    EXPECT_THAT(result.err, HasSubstr("DATA_NOT_FINITE in calibrate: sample 3 has a NaN: remove it"));
    EXPECT_EQ(result.Json().at("id"), "j-1");
  }
  EXPECT_EQ(Run("job watch j-2").exit, 1);
}

TEST_F(CliTest, WatchSurvivesACutStream) {
  State(v1::JOB_STATE_QUEUED);
  Progress("load", 0);
  Progress("export", 0.5);
  State(v1::JOB_STATE_SUCCEEDED);
  jobs_.cut_after = 2;
  jobs_.unavailable = 0;
  const Result result = Run("job watch j-1 --output json");
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(jobs_.watches, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("lost the server at"), HasSubstr("reached the server at")));
}

// After the cut another server answers, which has not heard of the newest progress; it tells what it has as a sign of
// life.
TEST_F(CliTest, WatchDoesNotGoBackWhereAnotherServerKnowsLess) {
  State(v1::JOB_STATE_QUEUED);
  Progress("export", 0.5);
  const int64_t newest = jobs_.script.back().sequence();
  Progress("load", 0.1);
  jobs_.script.back().set_sequence(newest - 1);
  Progress("calibrate", 0.2);
  jobs_.script.back().set_sequence(newest - 1);
  State(v1::JOB_STATE_SUCCEEDED).set_sequence(newest + 5);
  jobs_.cut_after = 2;
  jobs_.signs_of_life = true;
  const Result result = Run("job watch j-1 --output json");
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(jobs_.watches, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("export 50%"), Not(HasSubstr("load")), Not(HasSubstr("calibrate"))));
}

TEST_F(CliTest, WatchSurvivesARestartOfTheServer) {
  State(v1::JOB_STATE_QUEUED);
  Progress("load", 0);
  State(v1::JOB_STATE_SUCCEEDED);
  jobs_.hold = true;
  std::thread restart([this] {
    absl::SleepFor(absl::Milliseconds(300));
    server_.Stop();
    {
      std::lock_guard<std::mutex> lock(jobs_.mu);
      jobs_.hold = false;
      jobs_.unavailable = 2;
    }
    absl::SleepFor(absl::Milliseconds(500));
    server_.Start();
  });
  const Result result = Run("job watch j-1");
  restart.join();
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("lost the server at"), HasSubstr("reached the server at")));
}

TEST_F(CliTest, CtrlCStopsWatchingOnlyAndSaysHowToGoOn) {
  State(v1::JOB_STATE_QUEUED);
  jobs_.hold = true;
  std::thread ctrl_c([] {
    absl::SleepFor(absl::Milliseconds(500));
    kill(getpid(), SIGINT);
  });
  const Result result = Run("job watch j-1 --output json");
  ctrl_c.join();
  EXPECT_EQ(result.exit, 130);
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_THAT(result.err, HasSubstr("the job goes on. quantctl job watch j-1"));
}

TEST_F(CliTest, JobCommands) {
  Progress("calibrate", 0.5);
  EXPECT_EQ(Run("job show j-1 --output json").Json().at("state"), "RUNNING");
  EXPECT_THAT(Run("job show j-1").out, AllOf(HasSubstr("quantize static"), HasSubstr("calibrate 50%")));
  EXPECT_THAT(Run("job list").out, AllOf(HasSubstr("j-1"), HasSubstr("RUNNING"), HasSubstr("calibrate 50%")));
  const Result list = Run("job list --state running --state retry-wait --kind quantize --label a=b --output json");
  EXPECT_EQ(list.Json().at("items")[0].at("id"), "j-1");
  EXPECT_EQ(jobs_.listed.states_size(), 2);
  EXPECT_EQ(jobs_.listed.kind(), "quantize");
  EXPECT_EQ(jobs_.listed.labels().at("a"), "b");
  EXPECT_EQ(Run("job cancel j-1 --output json").Json().at("state"), "CANCELLING");
  const Result refused = Run("job delete j-1");
  EXPECT_EQ(refused.exit, 1);
  EXPECT_EQ(refused.err, "quantctl: job j-1 is RUNNING: cancel it first\n");
}

TEST_F(CliTest, ReportsInThreeForms) {
  State(v1::JOB_STATE_SUCCEEDED);
  jobs_.report.mutable_size()->set_original_bytes(1000);
  jobs_.report.add_metrics()->set_name("top1");
  EXPECT_THAT(Run("job report j-1").out, HasSubstr("top-1 accuracy"));
  EXPECT_EQ(Run("job report j-1 --format json").Json().at("size").at("original_bytes"), 1000);
  EXPECT_EQ(Run("job report j-1 --output json").Json().at("metrics")[0].at("name"), "top1");
  EXPECT_THAT(Run("job report j-1 --format html").out, StartsWith("<!doctype html>"));
}

TEST_F(CliTest, WorkersAreResourcesToo) {
  EXPECT_EQ(Run("worker list --output json").Json().at("items")[0].at("id"), "host-1");
  EXPECT_THAT(Run("worker list").out, AllOf(HasSubstr("host-1"), HasSubstr("busy"), HasSubstr("avx2")));
  EXPECT_EQ(Run("worker drain host-1 --output json").Json().at("id"), "host-1");
}

TEST_F(CliTest, ACallTheServerDoesNotHaveIsStatus1) {
  EXPECT_EQ(Run("job retry j-1").exit, 1);
  EXPECT_THAT(Run("dataset show d-1").err, Not(IsEmpty()));
}

}  // namespace
}  // namespace quant

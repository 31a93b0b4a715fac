// SPDX-License-Identifier: Apache-2.0
// The parts of server/auth one by one; server/security_test.cc attacks them over the wire.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error_detail.h"
#include "common/random_id.h"
#include "externalscaler/externalscaler.pb.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/workers.pb.h"
#include "server/auth/audit_log.h"
#include "server/auth/authenticator.h"
#include "server/auth/credential_file.h"
#include "server/auth/method_table.h"
#include "server/auth/rate_limiter.h"
#include "server/auth/tenant_limits.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;

// ---------------------------------------------------------------- the table

std::set<std::string> RpcsOfTheContract() {
  std::set<std::string> names;
  for (const auto* file : {v1::Digest::descriptor()->file(), v1::Job::descriptor()->file(),
                           v1::Worker::descriptor()->file(), externalscaler::ScaledObjectRef::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        names.insert(absl::StrCat("/", file->service(s)->full_name(), "/", file->service(s)->method(m)->name()));
      }
    }
  }
  return names;
}

TEST(MethodTable, HasEveryRpcOfTheContractAndNoOther) {
  std::set<std::string> ruled;
  for (const MethodRule& rule : MethodTable()) {
    EXPECT_TRUE(ruled.insert(std::string(rule.method)).second) << rule.method << " is there twice";
    if (rule.anyone) {
      EXPECT_THAT(std::string(rule.method), HasSubstr("/grpc.health.v1.Health/"));
    }
  }
  const std::set<std::string> rpcs = RpcsOfTheContract();
  EXPECT_GE(rpcs.size(), 25U);
  for (const std::string& rpc : rpcs) EXPECT_TRUE(ruled.contains(rpc)) << rpc << " has no rule";
  for (const std::string& rule : ruled) {
    if (rule.find("grpc.health") == std::string::npos) {
      EXPECT_TRUE(rpcs.contains(rule)) << rule << " is no rpc";
    }
  }
  EXPECT_EQ(FindMethodRule("/quant.v1.JobService/NoSuch"), nullptr);
}

TEST(MethodTable, RolesAreApart) {
  const auto may = [](const char* method, Role role) { return Allows(*FindMethodRule(method), role); };
  EXPECT_TRUE(may("/quant.v1.JobService/SubmitJob", Role::kUser));
  EXPECT_FALSE(may("/quant.v1.JobService/SubmitJob", Role::kWorker));
  EXPECT_FALSE(may("/quant.v1.WorkerService/LeaseJob", Role::kUser));
  EXPECT_TRUE(may("/quant.v1.WorkerService/LeaseJob", Role::kWorker));
  EXPECT_FALSE(may("/quant.v1.WorkerService/DrainWorker", Role::kWorker));
  EXPECT_FALSE(may("/quant.v1.WorkerService/ListWorkers", Role::kScaler));
  EXPECT_FALSE(may("/quant.v1.ArtifactService/ReadBlob", Role::kScaler));
  EXPECT_TRUE(may("/externalscaler.ExternalScaler/GetMetrics", Role::kScaler));
  EXPECT_FALSE(may("/externalscaler.ExternalScaler/GetMetrics", Role::kUser));
  EXPECT_FALSE(may("/externalscaler.ExternalScaler/GetMetrics", Role::kWorker));
  EXPECT_TRUE(may("/quant.v1.WorkerService/DrainWorker", Role::kOperator));
}

// ---------------------------------------------------------------- files

class AuthTest : public ::testing::Test {
 protected:
  AuthTest() { fs::create_directories(dir_); }
  ~AuthTest() override { fs::remove_all(dir_); }
  std::string Add(const std::string& name, const std::string& tenant, Role role,
                  absl::Time expires = absl::InfiniteFuture()) {
    Credential credential{.principal = {.tenant = tenant, .name = name, .role = role}, .created = clock_.Now()};
    credential.expires = expires;
    const std::string token = MakeToken(&credential);
    EXPECT_THAT(AddCredential(file_, credential), IsOk());
    return token;
  }
  std::string Contents(const fs::path& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string Outcome(Authenticator* authenticator, const std::vector<std::string>& headers) {
    Evidence evidence;
    for (const std::string& header : headers) evidence.authorization.push_back(header);
    const auto who = authenticator->Authenticate(evidence);
    return who.ok() ? who->name : ReasonOf(who.status());
  }

  const fs::path dir_ = fs::path(testing::TempDir()) / RandomId("auth-");
  const fs::path file_ = dir_ / "tokens";
  FakeClock clock_{absl::FromUnixSeconds(1'800'000'000)};
};

TEST_F(AuthTest, OnlyTheHashOfATokenIsKeptInAFileOfTheOwnersAlone) {
  const std::string token = Add("ann", "acme", Role::kUser);
  EXPECT_EQ(token.size(), 18 + 1 + 64U);
  EXPECT_THAT(Contents(file_), Not(HasSubstr(token.substr(19))));
  struct stat info;
  ASSERT_EQ(::stat(file_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_NE(Add("bob", "acme", Role::kUser).substr(19), token.substr(19));
  ASSERT_EQ(::chmod(file_.c_str(), 0666), 0);
  EXPECT_THAT(ReadCredentials(file_), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(AuthTest, TheFileComesBackAsItWasWritten) {
  Add("ann", "acme", Role::kUser, clock_.Now() + absl::Hours(1));
  Credential certificate{.id = RandomId("t-"), .principal = {.tenant = "zoo", .name = "ci", .role = Role::kWorker}};
  certificate.certificate = "spiffe://zoo/\"ci\"";
  certificate.created = clock_.Now();
  ASSERT_THAT(AddCredential(file_, certificate), IsOk());
  EXPECT_THAT(AddCredential(file_, certificate), StatusIs(absl::StatusCode::kAlreadyExists));
  ASSERT_THAT(RevokeCredential(file_, "ann"), IsOk());
  EXPECT_THAT(RevokeCredential(file_, "ann"), StatusIs(absl::StatusCode::kNotFound));
  const auto all = ReadCredentials(file_);
  ASSERT_THAT(all, IsOk());
  ASSERT_EQ(all->size(), 2U);
  EXPECT_TRUE((*all)[0].revoked);
  EXPECT_EQ((*all)[0].expires, clock_.Now() + absl::Hours(1));
  EXPECT_EQ((*all)[1].certificate, certificate.certificate);
  EXPECT_EQ((*all)[1].principal.role, Role::kWorker);
}

TEST_F(AuthTest, ALineThatIsNotUnderstoodIsAnErrorThatDoesNotRepeatIt) {
  for (
      const char* line :
      {"{", "[]", R"({"id":"t-0123456789abcdef"})", R"({"id":"x","name":"a","tenant":"a","role":"user"})",
       R"({"id":"t-0123456789abcdef","name":"a","tenant":"A B","role":"user","created":"2026-01-01T00:00:00Z","sha256":"secret"})",
       R"({"id":"t-0123456789abcdef","name":"a","tenant":"a","role":"root","created":"2026-01-01T00:00:00Z","certificate":"c"})",
       R"({"id":"t-0123456789abcdef","name":"a","tenant":"a","role":"user","created":"2026-01-01T00:00:00Z","certificate":"c","expirs":"x"})"}) {
    std::ofstream(file_) << "\n" << line << "\n";
    ::chmod(file_.c_str(), 0600);
    const auto read = ReadCredentials(file_);
    EXPECT_THAT(read, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2"))) << line;
    EXPECT_THAT(std::string(read.status().message()), Not(HasSubstr("secret")));
  }
}

TEST_F(AuthTest, TokensAreTakenOnlyWhole) {
  const std::string token = Add("ann", "acme", Role::kUser);
  const std::string other = Add("bob", "zoo", Role::kUser);
  auto authenticator = Authenticator::Open(file_, &clock_);
  ASSERT_THAT(authenticator, IsOk());
  Authenticator* const a = authenticator->get();
  EXPECT_EQ(Outcome(a, {"Bearer " + token}), "ann");
  EXPECT_EQ(Outcome(a, {"bearer " + token}), "ann");  // RFC 7235: schemes have no case
  EXPECT_EQ(Outcome(a, {}), "TOKEN_MISSING");
  for (const std::string& bad : std::vector<std::string>{
           "", token, "Basic " + token, "Bearer", "Bearer ", "Bearer  " + token, "Bearer " + token + " ",
           "Bearer " + token.substr(0, 18), "Bearer " + token.substr(0, 19), "Bearer " + token.substr(0, 82),
           "Bearer " + token + "0", "Bearer ." + token.substr(19), "Bearer " + token.substr(0, 19) + other.substr(19),
           "Bearer " + other.substr(0, 19) + token.substr(19), "Bearer " + std::string(100'000, 'a')}) {
    EXPECT_EQ(Outcome(a, {bad}), "TOKEN_INVALID") << bad.substr(0, 100);
  }
  EXPECT_EQ(Outcome(a, {"Bearer " + token, "Bearer " + token}), "TOKEN_INVALID");  // two headers
  EXPECT_EQ(Outcome(a, {"Bearer " + other, "Bearer " + token}), "TOKEN_INVALID");
}

TEST_F(AuthTest, ExpiryAndRevocationAreNoticedWhileRunning) {
  const std::string token = Add("ann", "acme", Role::kUser, clock_.Now() + absl::Minutes(1));
  auto authenticator = Authenticator::Open(file_, &clock_);
  ASSERT_THAT(authenticator, IsOk());
  Authenticator* const a = authenticator->get();
  EXPECT_EQ(Outcome(a, {"Bearer " + token}), "ann");
  clock_.Advance(absl::Minutes(1));
  EXPECT_EQ(Outcome(a, {"Bearer " + token}), "TOKEN_EXPIRED");
  const std::string later = Add("bob", "zoo", Role::kUser);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Outcome(a, {"Bearer " + later}), "bob");
  ASSERT_THAT(RevokeCredential(file_, "bob"), IsOk());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Outcome(a, {"Bearer " + later}), "TOKEN_REVOKED");
  // A file that breaks opens nothing and closes nothing.
  const std::string good = Add("eve", "zoo", Role::kUser);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Outcome(a, {"Bearer " + good}), "eve");
  std::ofstream(file_) << "garbage";
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Outcome(a, {"Bearer " + good}), "eve");
  EXPECT_EQ(Outcome(a, {"Bearer " + later}), "TOKEN_REVOKED");
}

TEST_F(AuthTest, CertificatesAreMappedByName) {
  Credential certificate{.id = RandomId("t-"), .principal = {.tenant = "acme", .name = "ci", .role = Role::kUser}};
  certificate.certificate = "spiffe://acme/ci";
  certificate.created = clock_.Now();
  ASSERT_THAT(AddCredential(file_, certificate), IsOk());
  auto authenticator = Authenticator::Open(file_, &clock_);
  ASSERT_THAT(authenticator, IsOk());
  EXPECT_EQ((*authenticator)->Authenticate({.certificate_names = {"x", "spiffe://acme/ci"}})->name, "ci");
  EXPECT_EQ(ReasonOf((*authenticator)->Authenticate({.certificate_names = {"spiffe://acme"}}).status()),
            "CERTIFICATE_UNKNOWN");
  // A token that is wrong is not made good by a certificate.
  EXPECT_EQ(ReasonOf((*authenticator)
                         ->Authenticate({.authorization = {"Bearer x"}, .certificate_names = {"spiffe://acme/ci"}})
                         .status()),
            "TOKEN_INVALID");
}

// ---------------------------------------------------------------- limits

TEST_F(AuthTest, LimitsAreReadFollowedAndChecked) {
  std::ofstream(file_) << R"({"default": {"max_queued_jobs": 5}, "tenants": {"acme": {"weight": 2.5}}})";
  auto limits = LimitsTable::Open(file_, &clock_);
  ASSERT_THAT(limits, IsOk());
  EXPECT_EQ((*limits)->For("zoo").max_queued_jobs, 5);
  EXPECT_EQ((*limits)->For("acme").max_queued_jobs, 5);
  EXPECT_EQ((*limits)->For("acme").weight, 2.5);
  std::ofstream(file_) << R"({"default": {"max_queued_jobs": 77777}})";
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ((*limits)->For("acme").max_queued_jobs, 77777);
  for (const char* bad : {"[]", R"({"other": {}})", R"({"default": {"max_queued_job": 1}})",
                          R"({"default": {"max_queued_jobs": -1}})", R"({"tenants": {"A": {}}})",
                          R"({"tenants": {"a": {"weight": 0}}})", R"({"default": {"requests_per_second": "9"}})"}) {
    std::ofstream(file_) << bad;
    EXPECT_THAT(LimitsTable::Open(file_, &clock_), StatusIs(absl::StatusCode::kInvalidArgument)) << bad;
  }
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ((*limits)->For("acme").max_queued_jobs, 77777);  // the last good ones
}

TEST_F(AuthTest, RequestsAreLimitedPerTenantAndTheWaitIsTold) {
  LimitsTable limits;
  limits.Set("acme", {.requests_per_second = 10});
  RateLimiter limiter(&limits, nullptr, &clock_);
  for (int i = 0; i < 20; ++i) EXPECT_THAT(limiter.Admit("acme"), IsOk()) << i;  // the burst
  const absl::Status refused = limiter.Admit("acme");
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ReasonOf(refused), "RATE_LIMITED");
  EXPECT_EQ(RetryAfterOf(refused), absl::Milliseconds(100));
  EXPECT_THAT(limiter.Admit("zoo"), IsOk());
  clock_.Advance(RetryAfterOf(refused));
  EXPECT_THAT(limiter.Admit("acme"), IsOk());
  EXPECT_THAT(limiter.Admit("acme"), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(AuthTest, UploadsOfATenantShareItsRate) {
  LimitsTable limits;
  limits.Set("acme", {.upload_bytes_per_second = 1000});
  RateLimiter limiter(&limits, nullptr, &clock_);
  EXPECT_EQ(limiter.AfterUpload("acme", 1000), absl::ZeroDuration());
  EXPECT_EQ(limiter.AfterUpload("acme", 500), absl::Milliseconds(500));
  EXPECT_EQ(limiter.AfterUpload("acme", 500), absl::Seconds(1));
  EXPECT_EQ(limiter.AfterUpload("zoo", 1 << 30), absl::ZeroDuration());
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(limiter.AfterUpload("acme", 1000), absl::ZeroDuration());
}

// ---------------------------------------------------------------- audit

TEST_F(AuthTest, AnAuditLineCannotBeForgedByWhatACallerSends) {
  auto log = AuditLog::Open(file_, &clock_);
  ASSERT_THAT(log, IsOk());
  (*log)->Write({.caller = {.tenant = "acme", .name = "ann", .role = Role::kUser},
                 .authenticated = true,
                 .method = "/quant.v1.JobService/CancelJob",
                 .object = "j-1\"}\n{\"name\":\"root\"\x01\xff" + std::string(10'000, 'x'),
                 .status = WithReason(absl::PermissionDeniedError("secret words"), "NOT_VISIBLE"),
                 .peer = "ipv4:127.0.0.1:1",
                 .request_id = "id with blanks\n"});
  const std::vector<std::string> lines = absl::StrSplit(Contents(file_), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_LT(lines[0].size(), 700U);
  const auto line = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(line.at("name"), "ann");
  EXPECT_EQ(line.at("outcome"), "PERMISSION_DENIED");
  EXPECT_EQ(line.at("reason"), "NOT_VISIBLE");
  EXPECT_EQ(line.at("request_id"), "id?with?blanks?");
  EXPECT_THAT(lines[0], Not(HasSubstr("secret words")));
}

TEST_F(AuthTest, ARotatedAuditFileIsGoneOnWithAndAFloodOfRefusalsIsCounted) {
  auto log = AuditLog::Open(file_, &clock_);
  ASSERT_THAT(log, IsOk());
  const AuditEntry refused{.method = "/m", .status = absl::UnauthenticatedError("")};
  for (int i = 0; i < 1000; ++i) (*log)->Write(refused);
  fs::rename(file_, dir_ / "old");
  (*log)->Reopen();
  clock_.Advance(absl::Seconds(1));
  (*log)->Write(refused);
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(Contents(dir_ / "old"), '\n', absl::SkipEmpty())).size(),
            static_cast<size_t>(AuditLog::kRefusalsPerSecond));
  EXPECT_EQ(nlohmann::json::parse(Contents(file_)).at("suppressed"), 1000 - AuditLog::kRefusalsPerSecond);
}

}  // namespace
}  // namespace quant

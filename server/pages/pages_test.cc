// SPDX-License-Identifier: Apache-2.0
#include "server/pages/pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/random_id.h"
#include "server/auth/authenticator.h"
#include "server/auth/credential_file.h"
#include "server/auth/rate_limiter.h"
#include "server/auth/tenant_limits.h"
#include "server/blobs/file_blob_store.h"
#include "server/queue/queue_test_base.h"
#include "server/store/artifact_store.h"
#include "server/store/sqlite.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kHostile[] = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

std::string HeaderOf(const HttpResponse& response, const std::string& name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) return value;
  }
  return "";
}

class PagesTest : public QueueTest {
 protected:
  PagesTest() {
    blobs_ = *FileBlobStore::Open(dir_, {.reserve_bytes = 0, .clock = &clock_});
    db_ = *Database::Open(dir_ / "artifacts.db");
    artifacts_ = *ArtifactStore::Create(db_.get(), blobs_.get(), nullptr, &clock_);
    Serve();
  }
  ~PagesTest() override {
    pages_.reset();
    artifacts_.reset();
    db_.reset();
    blobs_.reset();
    fs::remove_all(dir_);
  }
  void Serve() {
    pages_ = std::make_unique<Pages>(PagesOptions{.queue = queue_.get(),
                                                  .artifacts = artifacts_.get(),
                                                  .clock = &clock_,
                                                  .access = {.authenticator = authenticator_.get(),
                                                             .limiter = limiter_.get(),
                                                             .insecure_tokens = insecure_tokens_,
                                                             .open_to_network = open_to_network_}});
  }
  // Makes a token, and the server one that wants tokens.
  std::string Token(const std::string& name, const std::string& tenant, Role role = Role::kUser,
                    absl::Time expires = absl::InfiniteFuture()) {
    Credential credential{.principal = {.tenant = tenant, .name = name, .role = role}, .expires = expires};
    credential.created = clock_.Now();
    std::string token = MakeToken(&credential);
    EXPECT_THAT(AddCredential(dir_ / "tokens", credential), absl_testing::IsOk());
    clock_.Advance(absl::Seconds(2));  // the file is looked at once a second
    if (authenticator_ == nullptr) {
      authenticator_ = *Authenticator::Open(dir_ / "tokens", &clock_);
      Serve();
    }
    return token;
  }

  static HttpRequest Request(const std::string& path, const std::string& cookie = "") {
    HttpRequest request{.method = "GET", .path = path, .peer = "127.0.0.1"};
    if (const size_t mark = path.find('?'); mark != std::string::npos) {
      request.query = path.substr(mark + 1);
      request.path.resize(mark);
    }
    request.headers.emplace("host", "127.0.0.1:9001");
    if (!cookie.empty()) request.headers.emplace("cookie", cookie);
    return request;
  }
  HttpResponse Get(const std::string& path, const std::string& cookie = "") {
    return pages_->Answer(Request(path, cookie));
  }
  HttpResponse Post(const std::string& path, const std::string& body, const std::string& cookie = "") {
    HttpRequest request = Request(path, cookie);
    request.method = "POST";
    request.body = body;
    return pages_->Answer(request);
  }
  HttpResponse WithToken(const std::string& path, const std::string& token) {
    HttpRequest request = Request(path);
    request.headers.emplace("authorization", "Bearer " + token);
    return pages_->Answer(request);
  }
  // The cookie of a login, as a browser sends it back.
  std::string LogIn(const std::string& token) {
    const HttpResponse response = Post("/login", "token=" + token);
    EXPECT_EQ(response.code, 303) << response.body;
    const std::string cookie = HeaderOf(response, "Set-Cookie");
    return cookie.substr(0, cookie.find(';'));
  }
  v1::Model MakeModel(const std::string& name, const Principal& owner = OpenPrincipal()) {
    v1::CreateModelRequest request;
    request.set_name(name);
    v1::File* file = request.add_files();
    file->set_path("m.onnx");
    const std::string bytes = name + "bytes";
    file->mutable_digest()->set_sha256(Sha256Hex(bytes));
    file->mutable_digest()->set_size_bytes(static_cast<int64_t>(bytes.size()));
    const BlobId blob{file->digest().sha256(), file->digest().size_bytes()};
    auto writer = blobs_->OpenWriter(RandomId("u"), blob, 0);
    EXPECT_TRUE(writer.ok() && (*writer)->Write(bytes).ok() && (*writer)->Finish().ok());
    EXPECT_THAT(artifacts_->NoteHeld(owner, blob), absl_testing::IsOk());
    const auto model = artifacts_->CreateModel(owner, request);
    EXPECT_THAT(model, absl_testing::IsOk());
    return model.value_or(v1::Model());
  }

  const fs::path dir_ = fs::path(testing::TempDir()) / RandomId("pages-");
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<SqlConnection> db_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::unique_ptr<Authenticator> authenticator_;
  LimitsTable limits_;
  std::unique_ptr<RateLimiter> limiter_;
  bool insecure_tokens_ = false;
  bool open_to_network_ = false;
  std::unique_ptr<Pages> pages_;
};

// ---------------------------------------------------------------- what is shown

TEST_F(PagesTest, EveryPageForbidsScriptFramesAndCaches) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w");
  ASSERT_THAT(queue_->Complete(Success("w", lease)), absl_testing::IsOk());
  const v1::Model model = MakeModel("net");
  for (const std::string& path :
       {std::string("/"), std::string("/jobs"), std::string("/workers"), std::string("/models"),
        std::string("/datasets"), "/jobs/" + job.id(), "/jobs/" + job.id() + "/report", "/models/" + model.id()}) {
    const HttpResponse page = Get(path);
    EXPECT_EQ(page.code, 200) << path << page.body;
    const std::string policy = HeaderOf(page, "Content-Security-Policy");
    EXPECT_THAT(policy, AllOf(HasSubstr("default-src 'none'"), HasSubstr("frame-ancestors 'none'"),
                              HasSubstr("form-action 'self'"), HasSubstr("base-uri 'none'"), Not(HasSubstr("unsafe")),
                              Not(HasSubstr("script-src"))));
    EXPECT_EQ(HeaderOf(page, "X-Content-Type-Options"), "nosniff");
    EXPECT_EQ(HeaderOf(page, "Referrer-Policy"), "no-referrer");
    // Each style of the page is one that the policy allows, and no element has a style of its own.
    size_t styles = 0;
    for (size_t at = 0; (at = page.body.find("<style>", at)) != std::string::npos; ++styles) {
      at += 7;
      const std::string style = page.body.substr(at, page.body.find("</style>", at) - at);
      std::string digest;
      ASSERT_TRUE(absl::HexStringToBytes(Sha256Hex(style), &digest));
      EXPECT_THAT(policy, HasSubstr(absl::Base64Escape(digest))) << path;
    }
    EXPECT_GE(styles, 1u);
    EXPECT_THAT(page.body, AllOf(Not(HasSubstr(" style=")), Not(HasSubstr("<script")), Not(HasSubstr("http://")),
                                 Not(HasSubstr("https://"))));
  }
}

TEST_F(PagesTest, TextFromOutsideIsNeverMarkup) {
  const v1::Model model = MakeModel(kHostile);
  v1::SubmitJobRequest request = QueueTest::Request();
  (*request.mutable_spec()->mutable_labels())["k"] = kHostile;
  const v1::Job job = Submit(request);
  const v1::Lease lease = Lease("w");
  v1::Progress progress;
  progress.set_phase(kHostile);
  progress.set_message(kHostile);
  progress.set_unit("<u>x");
  progress.set_done(1);
  progress.set_total(2);
  progress.set_rate(3);
  Beat("w", lease, progress);
  const auto check = [&](const std::string& path) {
    const HttpResponse page = Get(path);
    EXPECT_EQ(page.code, 200) << path;
    EXPECT_THAT(page.body, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("<img")), Not(HasSubstr("<u>"))));
    return page.body;
  };
  EXPECT_THAT(check("/jobs/" + job.id()), HasSubstr("k=&lt;script&gt;alert(1)"));
  check("/");
  v1::CompleteJobRequest failed = Failure("w", lease, v1::ERROR_CLASS_FINAL);
  failed.mutable_failure()->set_message(kHostile);
  ASSERT_THAT(queue_->Complete(failed), absl_testing::IsOk());
  EXPECT_THAT(check("/jobs/" + job.id()), HasSubstr("OUT_OF_MEMORY"));
  check("/");
  check("/jobs?state=failed");
  EXPECT_THAT(check("/models"), HasSubstr("&lt;script&gt;"));
  check("/models/" + model.id());
  // What comes from the address itself.
  for (const std::string& path : {absl::StrCat("/jobs?state=", kHostile), absl::StrCat("/", kHostile),
                                  absl::StrCat("/jobs/", kHostile), absl::StrCat("/jobs?page=", kHostile)}) {
    const HttpResponse page = Get(path);
    EXPECT_THAT(page.code, testing::AnyOf(400, 404)) << path;
    EXPECT_THAT(page.body, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("<img"))));
  }
}

TEST_F(PagesTest, ARunningJobShowsItsPhaseRateAndRemainingTime) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w");
  v1::Progress progress;
  progress.set_phase("calibrate");
  progress.set_fraction(0.25);
  progress.set_message("samples 256 to 288");
  progress.set_done(256);
  progress.set_total(1024);
  progress.set_unit("samples");
  progress.set_rate(32);
  SetProto(absl::Seconds(24), progress.mutable_remaining());
  Beat("w", lease, progress);
  EXPECT_THAT(
      Get("/jobs/" + job.id()).body,
      AllOf(HasSubstr("<b>calibrate</b> 25 %, 256 of 1024 samples, 32 samples/s, 24 s left"),
            HasSubstr("value=\"0.250\""), HasSubstr("samples 256 to 288"), HasSubstr("http-equiv=\"refresh\"")));
  EXPECT_THAT(Get("/").body, AllOf(HasSubstr("calibrate 25%, 24 s left"), HasSubstr("BUSY")));
  EXPECT_THAT(Get("/jobs/" + job.id() + "?refresh=off").body, Not(HasSubstr("http-equiv=\"refresh\"")));
}

TEST_F(PagesTest, AnEndedJobShowsItsReportAndRestsAndOneWithoutHasNone) {
  const v1::Job waiting = Submit();
  EXPECT_EQ(Get("/jobs/" + waiting.id() + "/report").code, 404);
  const v1::Lease lease = Lease("w");
  ASSERT_THAT(queue_->Complete(Success("w", lease)), absl_testing::IsOk());
  const std::string page = Get("/jobs/" + waiting.id()).body;
  EXPECT_THAT(page,
              AllOf(HasSubstr("Before and after"), HasSubstr("1000 B"), Not(HasSubstr("http-equiv=\"refresh\""))));
  EXPECT_THAT(Get("/jobs/" + waiting.id() + "/report").body, HasSubstr("Report of quantize static"));
}

TEST_F(PagesTest, LongListsHavePagesAndFilters) {
  for (int i = 0; i < 60; ++i) Submit();
  const std::string first = Get("/jobs").body;
  const size_t at = first.find("/jobs?page=");
  ASSERT_NE(at, std::string::npos);
  const std::string next = first.substr(at, first.find('"', at) - at);
  const std::string second = Get(next).body;
  EXPECT_THAT(second, AllOf(HasSubstr(">newest<"), Not(HasSubstr(">older<"))));
  const auto rows = [](const std::string& body) {
    int n = 0;
    for (size_t p = 0; (p = body.find("<tr><td", p)) != std::string::npos; ++p) ++n;
    return n;
  };
  EXPECT_EQ(rows(first), 50);
  EXPECT_EQ(rows(second), 10);
  EXPECT_THAT(Get("/jobs?state=running").body, HasSubstr("none"));
  EXPECT_EQ(Get("/jobs?state=nonsense").code, 400);
  EXPECT_EQ(Get("/jobs?page=nonsense").code, 400);
}

TEST_F(PagesTest, NothingIsChangedFromABrowser) {
  const v1::Job job = Submit();
  for (const std::string& path : {std::string("/"), "/jobs/" + job.id(), std::string("/workers")}) {
    EXPECT_EQ(Post(path, "x=1").code, 405) << path;
  }
  EXPECT_EQ(Get("/jobs/../etc").code, 404);
  EXPECT_EQ(Get("/jobs/j-0000000000000000").code, 404);
  EXPECT_EQ(Get("/login").code, 404);  // without tokens there is none
}

// ---------------------------------------------------------------- who may see it

TEST_F(PagesTest, WithoutATokenThereIsOnlyTheForm) {
  const v1::Job job = Submit();
  Token("ann", "acme");
  for (const std::string& path : {std::string("/"), std::string("/workers"), "/jobs/" + job.id()}) {
    const HttpResponse page = Get(path);
    EXPECT_EQ(page.code, 401);
    EXPECT_EQ(HeaderOf(page, "WWW-Authenticate"), "Bearer");
    EXPECT_THAT(page.body, AllOf(HasSubstr("type=\"password\""), Not(HasSubstr("QUEUED"))));
  }
  EXPECT_EQ(WithToken("/", "t-nonsense").code, 401);
}

TEST_F(PagesTest, ALoginGivesACookieThatIsNotTheTokenAndScriptsDoNotGet) {
  const std::string token = Token("ops", "default", Role::kOperator);
  EXPECT_EQ(Post("/login", "token=" + token.substr(0, token.size() - 1) + "x").code, 401);
  EXPECT_EQ(Post("/login", "token=").code, 401);
  EXPECT_EQ(Post("/login", "token=" + std::string(3000, 'a')).code, 401);
  const HttpResponse in = Post("/login", "token=" + token + "&next=%2Fjobs%3Fstate%3Drunning");
  EXPECT_EQ(in.code, 303);
  EXPECT_EQ(HeaderOf(in, "Location"), "/jobs?state=running");
  const std::string cookie = HeaderOf(in, "Set-Cookie");
  EXPECT_THAT(cookie, AllOf(HasSubstr("; HttpOnly"), HasSubstr("; SameSite=Strict"), HasSubstr("; Path=/"),
                            Not(HasSubstr("Secure")), Not(HasSubstr(token.substr(token.find('.'))))));
  const std::string sent = "other=1; " + cookie.substr(0, cookie.find(';'));
  EXPECT_THAT(Get("/", sent).body, AllOf(HasSubstr("ops, operator"), HasSubstr("Workers")));
  EXPECT_EQ(WithToken("/", token).code, 200);
  const HttpResponse out = Post("/logout", "", sent);
  EXPECT_EQ(out.code, 303);
  EXPECT_THAT(HeaderOf(out, "Set-Cookie"), AllOf(HasSubstr("quantd_session=;"), HasSubstr("Max-Age=0")));
  HttpRequest tls = Request("/login");
  tls.method = "POST";
  tls.body = "token=" + token;
  tls.headers.emplace("x-forwarded-proto", "https");
  EXPECT_THAT(HeaderOf(pages_->Answer(tls), "Set-Cookie"), HasSubstr("; Secure"));
}

TEST_F(PagesTest, ASessionEndsWithItsTimeItsTokenAndItsServer) {
  const std::string token = Token("ann", "acme");
  const std::string cookie = LogIn(token);
  EXPECT_EQ(Get("/", cookie).code, 200);
  for (const std::string& forged : {cookie + "0", cookie.substr(0, cookie.size() - 1), std::string("quantd_session="),
                                    std::string("quantd_session=.."), "quantd_session=" + token}) {
    EXPECT_EQ(Get("/", forged).code, 401) << forged;
  }
  std::string later = cookie;  // an expiry of the browser's own
  later[later.rfind('.') - 1] = later[later.rfind('.') - 1] == '9' ? '8' : '9';
  EXPECT_EQ(Get("/", later).code, 401);

  clock_.Advance(PageAccess::kSession);
  EXPECT_THAT(Get("/", cookie).body, HasSubstr("the session has ended"));
  const std::string second = LogIn(token);
  ASSERT_THAT(RevokeCredential(dir_ / "tokens", "ann"), absl_testing::IsOk());
  clock_.Advance(absl::Seconds(2));
  EXPECT_THAT(Get("/", second).body, HasSubstr("the token was revoked"));

  const std::string third = LogIn(Token("bob", "acme"));
  EXPECT_EQ(Get("/", third).code, 200);
  Serve();  // a new process
  EXPECT_EQ(Get("/", third).code, 401);
}

TEST_F(PagesTest, AUserSeesItsTenantAlone) {
  const v1::Job job = Submit();  // of the default tenant
  const v1::Model model = MakeModel("secret-net");
  const std::string mine = LogIn(Token("ann", "default")), theirs = LogIn(Token("eve", "other"));
  EXPECT_THAT(Get("/", mine).body, AllOf(HasSubstr(job.id()), HasSubstr("secret-net"), Not(HasSubstr("Workers"))));
  EXPECT_THAT(Get("/", theirs).body, AllOf(Not(HasSubstr(job.id())), Not(HasSubstr("secret-net"))));
  EXPECT_EQ(Get("/jobs/" + job.id(), mine).code, 200);
  // What belongs to others and what does not exist are answered alike.
  for (const std::string& path : {"/jobs/" + job.id(), "/jobs/" + job.id() + "/report", "/models/" + model.id()}) {
    EXPECT_EQ(Get(path, theirs).code, 404) << path;
  }
  EXPECT_EQ(Get("/jobs/j-0000000000000000", theirs).code, 404);
  EXPECT_EQ(Get("/workers", mine).code, 403);
  // A worker's token opens what a worker may call: none of this.
  const std::string worker = LogIn(Token("w", "default", Role::kWorker));
  for (const char* path : {"/", "/jobs", "/models", "/datasets", "/workers"}) {
    EXPECT_EQ(Get(path, worker).code, 403) << path;
  }
}

TEST_F(PagesTest, AnotherSiteCannotLogInOrOut) {
  const std::string token = Token("ann", "acme");
  const auto post = [&](const std::string& path, const char* header, const char* value) {
    HttpRequest request = Request(path);
    request.method = "POST";
    request.body = "token=" + token;
    request.headers.emplace(header, value);
    return pages_->Answer(request).code;
  };
  for (const char* path : {"/login", "/logout"}) {
    EXPECT_EQ(post(path, "origin", "http://evil.example"), 403);
    EXPECT_EQ(post(path, "origin", "null"), 403);
    EXPECT_EQ(post(path, "sec-fetch-site", "cross-site"), 403);
    EXPECT_EQ(post(path, "sec-fetch-site", "same-site"), 403);
    EXPECT_EQ(post(path, "origin", "http://127.0.0.1:9001"), 303);
    EXPECT_EQ(post(path, "sec-fetch-site", "same-origin"), 303);
  }
  for (const char* next : {"%2F%2Fevil.example", "https%3A%2F%2Fevil.example", "%2F%5Cevil.example",
                           "%2Fx%0D%0ASet-Cookie%3Aa%3Db", "javascript%3Aalert(1)"}) {
    const HttpResponse response = Post("/login", absl::StrCat("token=", token, "&next=", next));
    EXPECT_EQ(HeaderOf(response, "Location"), "/") << next;
  }
}

TEST_F(PagesTest, AFloodOfWrongTokensIsCutShortAndStopsNobodyWithARightOne) {
  const std::string token = Token("ann", "acme");
  int refused = 0, cut = 0;
  for (int i = 0; i < 3 * PageAccess::kWrongPerSecond; ++i) {
    const HttpResponse response = Post("/login", "token=t-0000000000000000.wrong");
    refused += response.code == 401;
    cut += response.code == 429;
  }
  EXPECT_EQ(refused, PageAccess::kWrongPerSecond);
  EXPECT_EQ(cut, 2 * PageAccess::kWrongPerSecond);
  EXPECT_EQ(WithToken("/", "wrong").code, 429);
  EXPECT_EQ(WithToken("/", token).code, 200);
  EXPECT_EQ(Post("/login", "token=" + token).code, 303);
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Post("/login", "token=wrong").code, 401);
}

TEST_F(PagesTest, ATenantsLimitOfRequestsHoldsHereToo) {
  const fs::path file = dir_ / "limits.json";
  std::ofstream(file) << R"({"default": {"requests_per_second": 1}})";
  auto limits = *LimitsTable::Open(file, &clock_);
  limiter_ = std::make_unique<RateLimiter>(limits.get(), nullptr, &clock_);
  const std::string token = Token("ann", "acme");
  EXPECT_EQ(WithToken("/", token).code, 200);
  EXPECT_EQ(WithToken("/", token).code, 200);
  const HttpResponse third = WithToken("/", token);
  EXPECT_EQ(third.code, 429);
  EXPECT_EQ(HeaderOf(third, "Retry-After"), "1");
  pages_.reset();
}

TEST_F(PagesTest, TokensAreNotTakenInTheClearFromOtherMachines) {
  const std::string token = Token("ann", "acme");
  HttpRequest request = Request("/");
  request.headers.emplace("authorization", "Bearer " + token);
  request.peer = "10.0.0.7";
  EXPECT_EQ(pages_->Answer(request).code, 403);
  request.peer = "::ffff:127.0.0.1";
  EXPECT_EQ(pages_->Answer(request).code, 200);
  insecure_tokens_ = true;
  Serve();
  request.peer = "10.0.0.7";
  EXPECT_EQ(pages_->Answer(request).code, 200);
}

TEST_F(PagesTest, WithoutTokensPagesAreAsOpenAsTheGrpcPortAndOnlyUnderSafeNames) {
  HttpRequest request = Request("/");
  request.peer = "10.0.0.7";
  EXPECT_EQ(pages_->Answer(request).code, 403);
  open_to_network_ = true;
  Serve();
  EXPECT_EQ(pages_->Answer(request).code, 200);
  for (const char* host : {"localhost:9001", "[::1]:9001", "quantd:9001", "192.168.0.5", "quantd"}) {
    request.headers.clear();
    request.headers.emplace("host", host);
    EXPECT_EQ(pages_->Answer(request).code, 200) << host;
  }
  for (const char* host : {"evil.example:9001", "127.0.0.1.evil.example", "", ":9001"}) {
    request.headers.clear();
    request.headers.emplace("host", host);
    EXPECT_EQ(pages_->Answer(request).code, 403) << host;
  }
}

}  // namespace
}  // namespace quant

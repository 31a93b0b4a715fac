// SPDX-License-Identifier: Apache-2.0
// An exhaustive search of what two workers, a client, the clock and crashes can do to a job.
//
// Breadth first over histories: each known situation is extended by every action, replayed from the start on a fresh
// queue, until no new situation appears. Histories that lead to the same situation (Key below: state, attempt, who
// holds which token, what is published, how long ago things happened, in whole seconds) are extended once. After every
// action the invariants are checked: Check below.
#include <algorithm>
#include <deque>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/log/globals.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

constexpr int kMaxAttempts = 2;

// What a worker believes.
struct SimWorker {
  std::string id;
  v1::Lease lease;    // the newest it got; kept after it ended, to repeat calls with it
  v1::Lease earlier;  // the one before
};

class World : public QueueTest {
 public:
  // Making the metrics takes longer than a history.
  explicit World(int servers = 1) : QueueTest(/*with_metrics=*/false, /*shared=*/servers > 1), servers_(servers) {
    for (int s = servers - 1; s >= 0; --s) At(s);
    v1::SubmitJobRequest request = Request();
    request.mutable_spec()->set_max_attempts(kMaxAttempts);
    job_id_ = Submit(request).id();
    workers_[0].id = "w-a";
    workers_[1].id = "w-b";
    heard_ = clock_.Now();
  }
  void TestBody() override {}

  JobRow Row() { return *store_.Get(job_id_); }
  v1::Job Now() { return Get(job_id_); }

  void DoLease(int w) {
    const JobRow before = Row();
    const auto call = Ask(workers_[w].id);
    const JobRow after = Row();
    if (call->answer.ok() && call->answer->has_lease()) {
      workers_[w].earlier = workers_[w].lease;
      workers_[w].lease = call->answer->lease();
      EXPECT_GT(workers_[w].lease.token(), newest_token_) << "a token that does not grow";
      newest_token_ = workers_[w].lease.token();
      // A worker that asks although it holds a lease never got that one: handed back, not counted.
      if (before.job.state() == v1::JOB_STATE_QUEUED) ++attempts_;
      heard_ = clock_.Now();
    } else if (before.job.state() == v1::JOB_STATE_CANCELLING && after.job.state() == v1::JOB_STATE_CANCELLED) {
      --attempts_;
    }
  }
  void DoBeat(int w, bool earlier = false) {
    const v1::Lease& lease = earlier ? workers_[w].earlier : workers_[w].lease;
    if (lease.token() == 0) return;
    if (Beat(workers_[w].id, lease) != v1::LEASE_COMMAND_LEASE_LOST) heard_ = clock_.Now();
  }
  absl::StatusOr<v1::Job> DoComplete(int w, const std::function<void(v1::CompleteJobRequest*)>& outcome,
                                     bool earlier = false) {
    const v1::Lease& lease = earlier ? workers_[w].earlier : workers_[w].lease;
    if (lease.token() == 0) return absl::OutOfRangeError("no lease");
    v1::CompleteJobRequest request = End(workers_[w].id, lease);
    outcome(&request);
    const JobRow before = Row();
    const std::string bytes = Now().SerializeAsString();
    const bool held = before.token == lease.token() && IsLeased(static_cast<JobState>(before.job.state()));
    const absl::StatusOr<v1::Job> job = queue_->Complete(request);
    if (!held) {
      EXPECT_EQ(Now().SerializeAsString(), bytes) << "a token that is not held changed the job";
      EXPECT_EQ(job.ok(), before.completed_token == lease.token()) << job.status();
    } else if (job.ok() && request.has_released()) {
      --attempts_;
    }
    if (held && !job.ok()) heard_ = clock_.Now();  // it was published in vain: a fresh grace
    return job;
  }
  void DoRetry() {
    if (queue_->Retry(OpenPrincipal(), job_id_).ok()) attempts_ = 0;
  }
  void DoRestart() {
    Restart();
    heard_ = clock_.Now();
  }

  // What the invariants say of the situation alone.
  void Check() {
    const JobRow row = Row();
    const v1::Job job = Now();
    const auto state = static_cast<JobState>(job.state());
    EXPECT_EQ(job.state(), row.job.state()) << "memory and store disagree";
    EXPECT_EQ(job.attempt(), attempts_) << "attempts are those begun, less those handed back";
    EXPECT_LE(job.attempt(), kMaxAttempts);
    const std::vector<v1::Model> published = catalog_.Published();
    EXPECT_LE(published.size(), 1u) << "published twice";
    if (state == JobState::kSucceeded) {
      EXPECT_EQ(published.size(), 1u);
      EXPECT_TRUE(!published.empty() && job.result_model_id() == published[0].id());
      EXPECT_TRUE(queue_->GetReport(OpenPrincipal(), job_id_).ok());
    } else {
      EXPECT_TRUE(published.empty() || IsLeased(state)) << "half published in " << JobStateName(state);
      EXPECT_EQ(job.result_model_id(), "");
    }
    EXPECT_EQ(job.has_error(), state == JobState::kFailed || state == JobState::kDead || state == JobState::kRetryWait);
    EXPECT_EQ(job.has_retry_time(), state == JobState::kRetryWait);
    EXPECT_EQ(job.has_end_time(), IsFinal(state));
  }

  // Two histories with the same key are taken for the same situation. The two workers are alike, so the key is the same
  // when they change places.
  std::string Key() {
    const JobRow row = Row();
    const bool leased = IsLeased(static_cast<JobState>(row.job.state()));
    const auto age = [&](absl::Time time, int64_t most) {
      return std::min(most, absl::ToInt64Seconds(absl::Ceil(clock_.Now() - time, absl::Seconds(1))));
    };
    const auto relation = [&](const v1::Lease& lease) {
      return absl::StrCat(lease.token() == 0, lease.token() == row.token, lease.token() == row.completed_token);
    };
    std::string workers[2];
    for (int w = 0; w < 2; ++w) {
      workers[w] = absl::StrCat(relation(workers_[w].lease), relation(workers_[w].earlier),
                                leased && row.job.worker_id() == workers_[w].id);
    }
    // Where there are servers, each worker has its own, and they are not alike.
    if (servers_ == 1) std::sort(std::begin(workers), std::end(workers));
    const auto result = store_.GetResult(job_id_);
    std::string memories;
    for (int s = 0; servers_ > 1 && s < servers_; ++s) {
      At(s);
      absl::StrAppend(&memories, "/", queue_->MemoryForTest(job_id_));
    }
    return absl::StrCat(memories, "/", row.job.state(), "/", row.job.attempt(), "/", workers[0], "/", workers[1], "/",
                        row.completed_token == row.token, "/", leased ? age(heard_, 4) : 0, "/",
                        row.job.state() == v1::JOB_STATE_CANCELLING ? age(row.cancel_time, 61) / 20 : 0, "/",
                        row.job.has_retry_time() ? FromProto(row.job.retry_time()) > clock_.Now() : 0, "/",
                        catalog_.Published().size(), "/", leased && result.ok() && result->token == row.token);
  }

  MemoryJobStore& store() { return store_; }
  FakeArtifactCatalog& catalog() { return catalog_; }
  const std::string& job_id() const { return job_id_; }
  void Pass(absl::Duration time) {
    clock_.Advance(time);
    for (int s = servers_ - 1; s >= 0; --s) {
      At(s);
      queue_->Tick();
    }
  }
  // The other server's scanner sleeps.
  void PassAt(int server, absl::Duration time) {
    clock_.Advance(time);
    At(server);
    queue_->Tick();
  }
  using QueueTest::At;
  JobQueue& queue() { return *queue_; }

 private:
  const int servers_;
  std::string job_id_;
  SimWorker workers_[2];
  int attempts_ = 0;          // that job.attempt must equal
  int64_t newest_token_ = 0;  // over all leases
  absl::Time heard_;          // newest proof of the lease's life
};

struct Action {
  std::string name;
  std::function<void(World*)> run;
};

std::vector<Action> AllActions() {
  std::vector<Action> actions;
  const auto succeed = [](int w) {
    // Each worker's result differs, so that publishing both would show.
    return [w](v1::CompleteJobRequest* request) {
      request->mutable_success()->mutable_report();
      v1::File* file = request->mutable_success()->add_files();
      file->set_path("model.onnx");
      file->mutable_digest()->set_sha256(absl::StrCat("blob of ", w));
    };
  };
  const auto fail = [](v1::ErrorClass error_class) {
    return [error_class](v1::CompleteJobRequest* request) {
      request->mutable_failure()->set_error_class(error_class);
      request->mutable_failure()->set_reason("CHILD_CRASHED");
    };
  };
  const auto cancelled = [](v1::CompleteJobRequest* request) { request->mutable_cancelled(); };
  const auto released = [](v1::CompleteJobRequest* request) { request->mutable_released(); };
  for (int w = 0; w < 2; ++w) {
    const std::string name = w == 0 ? "A." : "B.";
    actions.push_back({name + "lease", [w](World* world) { world->DoLease(w); }});
    actions.push_back({name + "beat", [w](World* world) { world->DoBeat(w); }});
    actions.push_back({name + "beats for 20 s", [w](World* world) {
                         for (int i = 0; i < 10; ++i) {
                           world->Pass(absl::Seconds(2));
                           world->DoBeat(w);
                         }
                       }});
    actions.push_back({name + "beat earlier", [w](World* world) { world->DoBeat(w, true); }});
    actions.push_back({name + "succeed", [=](World* world) { world->DoComplete(w, succeed(w)).IgnoreError(); }});
    actions.push_back(
        {name + "succeed earlier", [=](World* world) { world->DoComplete(w, succeed(w), true).IgnoreError(); }});
    actions.push_back(
        {name + "final", [=](World* world) { world->DoComplete(w, fail(v1::ERROR_CLASS_FINAL)).IgnoreError(); }});
    actions.push_back(
        {name + "poison", [=](World* world) { world->DoComplete(w, fail(v1::ERROR_CLASS_POISON)).IgnoreError(); }});
    actions.push_back({name + "cancelled", [=](World* world) { world->DoComplete(w, cancelled).IgnoreError(); }});
    actions.push_back({name + "release", [=](World* world) { world->DoComplete(w, released).IgnoreError(); }});
    // quantd dies, or the disk fails, at each point of a completion.
    for (const bool crash : {true, false}) {
      const std::string how = crash ? " crash" : " fault";
      actions.push_back({absl::StrCat(name, "succeed, no model", how), [=](World* world) {
                           world->catalog().FailPublish(absl::UnavailableError("fault"));
                           world->DoComplete(w, succeed(w)).IgnoreError();
                           world->catalog().FailPublish(absl::OkStatus());
                           if (crash) world->DoRestart();
                         }});
      actions.push_back({absl::StrCat(name, "succeed, no state", how), [=](World* world) {
                           world->store().SetFaultForTest([](v1::JobState next) {
                             return next == v1::JOB_STATE_SUCCEEDED ? absl::UnavailableError("fault")
                                                                    : absl::OkStatus();
                           });
                           world->DoComplete(w, succeed(w)).IgnoreError();
                           world->store().SetFaultForTest(nullptr);
                           if (crash) world->DoRestart();
                         }});
    }
  }
  actions.push_back(
      {"cancel", [](World* world) { world->queue().Cancel(OpenPrincipal(), world->job_id()).IgnoreError(); }});
  actions.push_back({"retry", [](World* world) { world->DoRetry(); }});
  actions.push_back({"restart", [](World* world) { world->DoRestart(); }});
  actions.push_back({"1 s", [](World* world) { world->Pass(absl::Seconds(1)); }});
  actions.push_back({"20 s", [](World* world) { world->Pass(absl::Seconds(20)); }});
  actions.push_back({"the attempt's time", [](World* world) { world->Pass(absl::Hours(6)); }});
  return actions;
}

// Two servers: worker A asks at server 0 and B at server 1, but either may beat or complete at the other; a server
// knows of the other's changes only after "follow" or by asking the store; one scanner may sleep while the other runs.
std::vector<Action> TwoServerActions() {
  std::vector<Action> actions;
  const auto succeed = [](int w) {
    return [w](v1::CompleteJobRequest* request) {
      request->mutable_success()->mutable_report();
      v1::File* file = request->mutable_success()->add_files();
      file->set_path("model.onnx");
      file->mutable_digest()->set_sha256(absl::StrCat("blob of ", w));
    };
  };
  const auto final_error = [](v1::CompleteJobRequest* request) {
    request->mutable_failure()->set_error_class(v1::ERROR_CLASS_FINAL);
    request->mutable_failure()->set_reason("CHILD_CRASHED");
  };
  const auto released = [](v1::CompleteJobRequest* request) { request->mutable_released(); };
  for (int w = 0; w < 2; ++w) {
    const std::string name = w == 0 ? "A." : "B.";
    actions.push_back({name + "lease", [w](World* world) {
                         world->At(w);
                         world->DoLease(w);
                       }});
    for (int s = 0; s < 2; ++s) {
      const std::string where = absl::StrCat(" at ", s);
      const auto act = [&](const std::string& what, std::function<void(World*)> run) {
        actions.push_back({absl::StrCat(name, what, where), [s, run = std::move(run)](World* world) {
                             world->At(s);
                             run(world);
                           }});
      };
      act("beat", [w](World* world) { world->DoBeat(w); });
      act("succeed", [=](World* world) { world->DoComplete(w, succeed(w)).IgnoreError(); });
      act("succeed earlier", [=](World* world) { world->DoComplete(w, succeed(w), true).IgnoreError(); });
      act("final", [=](World* world) { world->DoComplete(w, final_error).IgnoreError(); });
      act("release", [=](World* world) { world->DoComplete(w, released).IgnoreError(); });
      act("succeed, no model", [=](World* world) {
        world->catalog().FailPublish(absl::UnavailableError("fault"));
        world->DoComplete(w, succeed(w)).IgnoreError();
        world->catalog().FailPublish(absl::OkStatus());
      });
      act("succeed, no state", [=](World* world) {
        world->store().SetFaultForTest([](v1::JobState next) {
          return next == v1::JOB_STATE_SUCCEEDED ? absl::UnavailableError("fault") : absl::OkStatus();
        });
        world->DoComplete(w, succeed(w)).IgnoreError();
        world->store().SetFaultForTest(nullptr);
      });
    }
  }
  for (int s = 0; s < 2; ++s) {
    const auto act = [&](const std::string& what, std::function<void(World*)> run) {
      actions.push_back({absl::StrCat(what, " at ", s), [s, run = std::move(run)](World* world) {
                           world->At(s);
                           run(world);
                         }});
    };
    act("cancel", [](World* world) { world->queue().Cancel(OpenPrincipal(), world->job_id()).IgnoreError(); });
    act("retry", [](World* world) { world->DoRetry(); });
    act("follow", [](World* world) { world->queue().Follow(false); });
    act("reload", [](World* world) { world->queue().Follow(true); });
    act("restart", [](World* world) { world->DoRestart(); });
    act("4 s, one scanner", [s](World* world) { world->PassAt(s, absl::Seconds(4)); });
  }
  actions.push_back({"1 s", [](World* world) { world->Pass(absl::Seconds(1)); }});
  actions.push_back({"the attempt's time", [](World* world) { world->Pass(absl::Hours(6)); }});
  return actions;
}

// Whether `after` may follow `before`, however many edges one action took.
bool MayFollow(v1::JobState before, v1::JobState after, const std::string& action) {
  const auto from = static_cast<JobState>(before);
  const auto to = static_cast<JobState>(after);
  if (from == to) return true;
  if (from == JobState::kSucceeded) return false;
  if (IsFinal(from) || from == JobState::kDead) {
    return (action.starts_with("retry") && to == JobState::kQueued) ||
           (action.starts_with("cancel") && from == JobState::kDead && to == JobState::kCancelled);
  }
  if (from == JobState::kCancelling) return IsFinal(to);
  return true;
}

struct Found {
  size_t situations = 0;
  size_t histories = 0;
  size_t deepest = 0;
  std::set<v1::JobState> states;
};

// All histories of at most `depth` actions that lead to a new situation. Stops at the first that breaks an invariant.
Found Search(const std::vector<Action>& actions, int servers, size_t depth) {
  absl::SetMinLogLevel(absl::LogSeverityAtLeast::kInfinity);
  std::deque<std::vector<size_t>> frontier = {{}};
  std::set<std::string> seen;
  Found found;
  while (!frontier.empty()) {
    const std::vector<size_t> path = std::move(frontier.front());
    frontier.pop_front();
    for (size_t next = 0; next < actions.size(); ++next) {
      World world(servers);
      for (const size_t step : path) actions[step].run(&world);
      const v1::Job before = world.Now();
      actions[next].run(&world);
      world.Check();
      const v1::Job after = world.Now();
      EXPECT_TRUE(MayFollow(before.state(), after.state(), actions[next].name))
          << v1::JobState_Name(before.state()) << " -> " << v1::JobState_Name(after.state());
      if (before.state() != after.state()) {
        EXPECT_GT(after.sequence(), before.sequence());
      }
      EXPECT_GE(after.sequence(), before.sequence());
      ++found.histories;
      std::vector<size_t> extended = path;
      extended.push_back(next);
      if (testing::Test::HasFailure()) {
        std::vector<std::string> names;
        names.reserve(extended.size());
        for (const size_t step : extended) names.push_back(actions[step].name);
        ADD_FAILURE() << "after: " << absl::StrJoin(names, " | ");
        return found;
      }
      found.states.insert(after.state());
      found.deepest = std::max(found.deepest, extended.size());
      if (seen.insert(world.Key()).second && extended.size() < depth) frontier.push_back(std::move(extended));
    }
  }
  found.situations = seen.size();
  std::cout << found.situations << " situations, " << found.histories << " histories, up to " << found.deepest
            << " actions\n";
  return found;
}

// One thread: there is nothing for ThreadSanitizer to see, which would take minutes for it.
#if defined(__SANITIZE_THREAD__)
constexpr bool kSearch = false;
#else
constexpr bool kSearch = true;
#endif

TEST(QueueSearch, NoHistoryBreaksAnInvariant) {
  if (!kSearch) GTEST_SKIP() << "not under ThreadSanitizer";
  constexpr size_t kDepth = 30;  // the space is closed before
  const Found found = Search(AllActions(), 1, kDepth);
  EXPECT_EQ(found.states.size(), 8u) << "a state was never reached";
  EXPECT_LT(found.deepest, kDepth) << "the search was cut, not complete";
}

TEST(QueueSearch, NoHistoryOfTwoServersBreaksAnInvariant) {
  if (!kSearch) GTEST_SKIP() << "not under ThreadSanitizer";
  const Found found = Search(TwoServerActions(), 2, 6);
  EXPECT_GE(found.states.size(), 7u) << "too few states were reached";
}

}  // namespace
}  // namespace quant

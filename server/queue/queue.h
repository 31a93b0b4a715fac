// SPDX-License-Identifier: Apache-2.0
// JobQueue: all that happens to jobs between Submit and the report. It owns the rules (who may change what, when an
// attempt is lost, who is next); server/api only converts, JobStore only keeps.
//
// The store is the truth; the queue keeps every unfinished job in memory as well (at most QueueOptions::max_unfinished)
// with indexes for picking, deadlines and backoffs, rebuilt by Create. A state transition is in the store before anyone
// is told of it. Progress is kept in memory and stored every few seconds.
//
// Waiting costs no thread: a parked LeaseJob call and a watch are callbacks. A job that becomes ready is handed to a
// parked call by the thread that made it ready. What happens by time alone happens in Tick, which a thread of Start
// runs when the next thing falls due, and which tests call themselves.
//
// Exactly-once publication. A delivered result is first put in the store under its lease's token: from then on the
// attempt is won, and nothing but that result can end the job. Then the model is created (idempotent by job), then the
// job moves to SUCCEEDED. After a crash in between, Create or Tick goes on from the stored result.
//
// The same work is done once: queue_cache.cc.
//
// Where the store has peers (JobStore::peers), several queues share it: queue_peers.cc. Each follows the changes of the
// others in its memory, and asks the store before it says anything final of a job:
// docs/adr/2026-11-26-several-servers.md.
#ifndef QUANT_SERVER_QUEUE_QUEUE_H_
#define QUANT_SERVER_QUEUE_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/workers.pb.h"
#include "server/auth/principal.h"
#include "server/queue/artifact_catalog.h"
#include "server/queue/job_state.h"
#include "server/queue/live_jobs.h"
#include "server/queue/model_board.h"
#include "server/queue/watch_hub.h"
#include "server/queue/worker_table.h"
#include "server/store/job_peers.h"
#include "server/store/job_store.h"

namespace quant {

class ServerMetrics;

struct QueueOptions {
  int64_t max_unfinished = 10'000;                       // Submit answers QUEUE_FULL beyond
  int64_t max_watches = 10'000;                          // WatchJob answers TOO_MANY_WATCHES beyond
  int64_t max_parked = 10'000;                           // LeaseJob answers TOO_MANY_CALLS beyond
  int64_t max_workers = 10'000;                          // remembered workers
  absl::Duration heartbeat_interval = absl::Seconds(1);  // what workers are told
  int missed_heartbeats = 3;                             // intervals of silence after which a lease is lost
  absl::Duration cancel_grace = absl::Seconds(60);       // a worker that ignores a cancellation is cut off after
  absl::Duration max_lease_wait = absl::Seconds(60);     // longest parked LeaseJob
  absl::Duration watch_keepalive = absl::Seconds(15);    // a watch is told at least this often
  absl::Duration progress_save = absl::Seconds(5);       // progress is stored at most this often per job
  absl::Duration request_retention = absl::Hours(48);    // how long a request_id is remembered
  absl::Duration aging = absl::Minutes(10);              // the head start of one level of priority: see LiveJobs
  LimitsTable* limits = nullptr;                         // quotas and weights of tenants; null: none
  absl::Duration worker_retention = absl::Hours(1);      // how long a silent worker is listed
  absl::Duration job_retention = absl::Hours(24 * 90);   // how long an ended job and its report are kept
  uint64_t jitter_seed = std::random_device{}();         // of the backoff
  std::string cache_salt;                                // another value: no earlier result is an answer
};

// Called once with a lease, or with no lease when the wait ended, or with an error.
using LeaseCallback = std::function<void(absl::StatusOr<v1::LeaseJobResponse>)>;

// Thread-safe. Callbacks run without locks of the queue, on the thread that caused them; they must not block. No
// function of the service may be running or begin when the queue is destroyed: stop the grpc::Server first.
//
// Errors of each function: the comments in jobs.proto and workers.proto; also those of JobStore.
class JobQueue {
 public:
  // Rebuilds the queue from `store`; publishes what a crash left half-published. Leases go on: their workers have
  // `missed_heartbeats` intervals from now to be heard. `metrics` may be null. All must outlive the queue.
  static absl::StatusOr<std::unique_ptr<JobQueue>> Create(JobStore* store, ArtifactCatalog* catalog,
                                                          ServerMetrics* metrics, Clock* clock, QueueOptions options);
  ~JobQueue();
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;

  // Starts the thread that runs Tick. Tests with a fake clock call Tick themselves instead.
  void Start();
  // Stops that thread, ends watches and parked leases with UNAVAILABLE. Idempotent; the destructor calls it.
  void Shutdown();

  // ---- for clients
  // A job belongs to the tenant of who submits it. One that `caller` does not see is NotVisible.
  // `traceparent` has been parsed; it becomes the job's.
  absl::StatusOr<v1::Job> Submit(const Principal& caller, const v1::SubmitJobRequest& request,
                                 std::string_view traceparent = "");
  absl::StatusOr<v1::Job> Get(const Principal& caller, std::string_view id);
  absl::StatusOr<v1::ListJobsResponse> List(const Principal& caller, const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> Cancel(const Principal& caller, std::string_view id);
  absl::StatusOr<v1::Job> Retry(const Principal& caller, std::string_view id);
  absl::Status Delete(const Principal& caller, std::string_view id);
  absl::StatusOr<v1::Report> GetReport(const Principal& caller, std::string_view id);

  // Calls `callback` with the job now (when its sequence is past `after_sequence`), at each change and as a keepalive,
  // until an event has `end` set. Events of one watch may come from several threads: see WatchEvent. Returns a handle.
  absl::StatusOr<uint64_t> Watch(const Principal& caller, std::string_view id, int64_t after_sequence,
                                 WatchCallback callback);
  // Forgets a watch; an event that is already on its way may still come. An ended or unknown handle does nothing.
  void Unwatch(uint64_t handle);
  // Ends all watches with UNAVAILABLE, and refuses new ones.
  void EndWatches();

  // ---- for workers
  // Leases a job to the worker, or parks the call until one is ready or `request.wait` is over. `callback` is called
  // exactly once, perhaps before this returns. Returns a handle for AbandonLease.
  uint64_t Lease(const v1::LeaseJobRequest& request, LeaseCallback callback);
  // Answers a parked call with CANCELLED: its client is gone. A call that was answered is not touched.
  void AbandonLease(uint64_t handle);
  // Answers all parked calls with UNAVAILABLE, and refuses new ones.
  void EndLeases();
  // A lease was given to the token of this name. Forgotten with the lease, and by a restart.
  void NoteHolder(std::string_view job_id, int64_t token, std::string_view holder);
  // Models and datasets that jobs name which are leased now, to the token `holder` or to one that is not known.
  absl::StatusOr<std::vector<std::string>> LeasedInputs(std::string_view holder);
  absl::StatusOr<v1::HeartbeatResponse> Heartbeat(const v1::HeartbeatRequest& request);
  absl::StatusOr<v1::Job> Complete(const v1::CompleteJobRequest& request);
  v1::ListWorkersResponse ListWorkers();
  absl::StatusOr<v1::Worker> DrainWorker(std::string_view id);

  // ---- for autoscaling
  // How many slots would all be busy now: LiveJobs::Demand.
  int64_t Demand();

  // ---- for the artifact store
  // The id of an unfinished job that names this model or dataset, or that is making it (`source_job_id`, or ""), if
  // any: it must not be deleted then.
  std::optional<std::string> UnfinishedJobUsing(std::string_view artifact_id, std::string_view source_job_id = "");

  // ---- time
  // Does everything that is due: lost leases, attempts out of time, ignored cancellations, backoffs, ends of waits,
  // keepalives.
  void Tick();
  // Takes over what other servers have changed; everything anew with `reload`. Called by the store's listener.
  void Follow(bool reload);
  // What memory holds of a job, ages in whole seconds up to 4, for a search to tell situations apart.
  std::string MemoryForTest(std::string_view id);
  // When Tick has something to do next, at most one second from now.
  absl::Time NextDue();

 private:
  // What is to be done once the lock is released: calls to the catalog and to callbacks.
  using Deferred = std::vector<std::function<void()>>;
  struct Waiter {
    std::string worker_id;
    absl::Time until;
    LeaseCallback callback;
  };
  // A lease about to be sent: the job is claimed, the manifests are not yet read.
  struct Grant {
    v1::Job job;
    int64_t token;
    absl::Time deadline;
    LeaseCallback callback;
  };

  JobQueue(JobStore* store, ArtifactCatalog* catalog, ServerMetrics* metrics, Clock* clock, QueueOptions options);
  absl::Status Load();
  void Run();
  static void RunAll(Deferred* deferred);

  // The row of a job, from memory when it is unfinished, else from the store. Where there are peers, the store is asked
  // in any case, and memory follows it.
  absl::StatusOr<JobRow> Find(std::string_view id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The same when `caller` sees it, else NotVisible.
  absl::StatusOr<JobRow> FindFor(const Principal& caller, std::string_view id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED: the caller's tenant has as many jobs queued as it may.
  absl::Status CheckQuota(const Principal& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Applies `event` to `row`: the one way by which states change. Sets what follows from the new state (end time,
  // cleared fields), stores, and then updates memory, metrics and watches. On error nothing has changed.
  //   FAILED_PRECONDITION, reason JOB_STATE_FORBIDS.  Errors of JobStore::Update.
  // Where there are peers, a lease whose result is stored is ended by that result alone, unless `delivered` allows it.
  enum class Delivered { kWins, kMayLose };
  absl::StatusOr<v1::Job> Apply(JobEvent event, JobRow row, Deferred* deferred, Delivered delivered = Delivered::kWins)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes the store's word on a job after a compare-and-set that failed.
  void Resync(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A retryable or poison end of an attempt: backoff or DEAD.
  absl::StatusOr<v1::Job> ApplyLoss(JobRow row, v1::JobError error, Deferred* deferred,
                                    Delivered delivered = Delivered::kWins) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration Backoff(const JobRow& row, const v1::JobError& error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- with peers: queue_peers.cc
  // The sequence of the next state: past all progress that any server may have told of the present one.
  int64_t NextSequence(const v1::Job& job) const;
  // The stored row in memory, with the newer progress of memory where it is of the same lease.
  JobRow Take(const JobRow& row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CatchUp(Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Reload(Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // With peers: counts the stored jobs now and then, since others count theirs. Without the lock.
  void Recount();
  // Also tells watchers what they were not told.
  void TakeAndTell(const JobRow& stored, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TellDeleted(const std::string& id, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes signs of life that other servers got into memory.
  absl::Status HearOfOthers(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Tells the store of a heartbeat; returns whether the worker was told to drain elsewhere.
  bool ShareHeartbeat(const v1::WorkerInfo& worker, bool draining, const std::vector<JobPeers::LeaseId>& leases);
  // The outcome of a job that another server ended meanwhile, if it was by this lease; else ABORTED.
  absl::StatusOr<v1::Job> EndedElsewhere(const std::string& id, int64_t token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Hands ready jobs to parked calls until one of the two runs out.
  void Dispatch(Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The call that has waited longest, of a worker that lives; where none is known to live, of any. There must be one.
  std::map<uint64_t, Waiter>::iterator PickWaiter(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Lets dispatch and Tick's changes rest for a moment after an error, so that it is not repeated in a tight loop.
  void Pause() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Reads the manifests and answers the call. Without the lock.
  void Deliver(const Grant& grant);
  absl::Status FillLease(const Grant& grant, v1::Lease* lease);
  // The checks of Lease; on OK the call is parked, or answered by way of `deferred`.
  absl::Status Park(const v1::LeaseJobRequest& request, uint64_t handle, bool told_to_drain, LeaseCallback callback,
                    Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Answer(std::map<uint64_t, Waiter>::iterator waiter, absl::StatusOr<v1::LeaseJobResponse> answer,
              Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Puts leases back that were sent but never named by their worker.
  void ReleaseUnconfirmed(const std::string& worker_id, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  v1::LeaseJobResponse EmptyLease() const;

  // Stores the sequence that Load raised. Until that is done no progress is told: a server that dies before would
  // otherwise give the same numbers to other states.
  bool SaveSequence(LiveJob* live) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // One lease of a heartbeat.
  v1::LeaseCommand Hear(const std::string& worker_id, const v1::LeaseProgress& lease, absl::Time now,
                        Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Drain(KnownWorker* worker, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  v1::Worker Describe(const KnownWorker& worker, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // After so much silence a worker counts as lost.
  absl::Duration Silence() const { return options_.heartbeat_interval * options_.missed_heartbeats; }

  // The row of a job that the caller holds under its token, or (then *repeated) whose outcome it has given before.
  //   FAILED_PRECONDITION, reason LEASE_STALE.
  absl::StatusOr<JobRow> FindHeld(const v1::CompleteJobRequest& request, bool* repeated)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static absl::Status BeingPublished(const std::string& id);

  // Failure, cancellation or release of a lease that is held.
  absl::StatusOr<v1::Job> ApplyOutcome(const v1::CompleteJobRequest& request, JobRow row, Deferred* deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<v1::Job> CompleteSuccess(const v1::CompleteJobRequest& request);
  // Creates the model of a result and returns its id. Without the lock.
  absl::StatusOr<std::string> PublishModel(const std::string& tenant, const v1::Job& job, const v1::JobResult& result);
  // Creates the model of a stored result and moves the job to SUCCEEDED. The job's `publishing` must be set; it is
  // cleared again on error. Without the lock.
  absl::StatusOr<v1::Job> FinishPublication(const std::string& id, int64_t token, const v1::JobResult& result);

  // ---- answers from earlier results: queue_cache.cc
  // The newest job whose result answers one with this content, or "".
  std::string FindAnswer(const std::string& cache_key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // NOT_FOUND: the model of the job whose result is to be the answer was deleted, or it expired. Without the lock.
  absl::Status CheckAnswerStands(const std::string& cached_from);
  // Gives the job, QUEUED with cached_from set, its result and its model; where that cannot be done, it is to run.
  // Without the lock.
  void AnswerFromCache(const std::string& id);
  // A job ended, or was asked to: those attached to it get its result, or another of them takes its place. Without the
  // lock.
  void SettleAttached(const std::string& leader);
  // Stores what holds a QUEUED job back: cached_from, attached_to, or with both empty nothing.
  absl::Status SetHold(JobRow row, const std::string& cached_from, const std::string& attached_to, Deferred* deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TickCache(Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Goes on from a result in the store whose lease ran out. Without the lock.
  void PublishStored(const std::string& id, int64_t token, const std::string& bytes);
  // Tick, by the thread of Start: it wanted to run at `planned`.
  void TickPlannedFor(absl::Time planned);
  // Plans made by a clock that was ahead by `back` are moved to the same distance from now.
  void MovePlans(absl::Duration back, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Leases and backoffs that are due.
  void Scan(absl::Time now, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BlockScan(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TickLease(const std::string& id, absl::Time now, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Time LeaseDue(const LiveJob& live) const;
  // Makes the thread of Start wake at `time` at the latest.
  void NoteDue(absl::Time time) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Time NextDueLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Removes a job that no worker holds, as `why` for those who watch it.  ABORTED, UNAVAILABLE.
  absl::Status Remove(const JobRow& row, const absl::Status& why, Deferred* deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DeleteExpired(absl::Time now, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UpdateGauges(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  JobStore* const store_;
  JobPeers* const peers_;  // null: this server is alone
  ArtifactCatalog* const catalog_;
  ServerMetrics* const metrics_;
  Clock* const clock_;
  const QueueOptions options_;

  ModelBoard models_;

  // Held over calls to the store (Insert aside), so that memory and store never disagree. Never held over calls to the
  // catalog or to callbacks.
  Mutex mu_;
  CondVar due_changed_;
  LiveJobs live_ ABSL_GUARDED_BY(mu_);
  WatchHub watches_ ABSL_GUARDED_BY(mu_);
  WorkerTable workers_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, Waiter> waiters_ ABSL_GUARDED_BY(mu_);  // by handle, so oldest first
  // Jobs on their way into the store: Insert runs without the lock, so that concurrent submits share a disk write.
  std::map<std::string, std::string, std::less<>> inserting_ ABSL_GUARDED_BY(mu_);  // to their tenants
  int64_t cursor_ ABSL_GUARDED_BY(mu_) = 0;                                         // of JobPeers::ChangesSince
  bool reload_ ABSL_GUARDED_BY(mu_) = false;                                        // owed, since it failed
  uint64_t next_handle_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<v1::JobState, int64_t> counts_ ABSL_GUARDED_BY(mu_);  // stored jobs
  std::mt19937_64 jitter_ ABSL_GUARDED_BY(mu_);
  absl::Time planned_wake_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time next_purge_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time next_expiry_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time next_gauges_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time next_count_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  // After an error of the store nothing is repeated in a tight loop.
  absl::Time paused_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time scan_blocked_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time last_tick_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool leases_ended_ ABSL_GUARDED_BY(mu_) = false;
  bool watches_ended_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread ticker_;
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_QUEUE_H_

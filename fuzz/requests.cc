// SPDX-License-Identifier: Apache-2.0
// Requests, on stores in memory. An input is a sequence of calls: a byte that names the call, two bytes of length
// (little-endian), a serialized request.
//
//   jobs       the queue: what clients and workers ask, time that passes, restarts; with the invariants of publication
//   artifacts  manifests and listings
//   uploads    streams into one folder of blobs, with cuts and restarts
//   rpc        the gRPC handlers of all three services, over a channel inside the process
//
// blob_message is one WriteBlobRequest, after a byte that says how long the slices are that it comes in.
#include <google/protobuf/message.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "common/blob_message.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/proto_time.h"
#include "fuzz/fuzz_target.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/workers.pb.h"
#include "server/api/artifact_service.h"
#include "server/api/job_service.h"
#include "server/api/worker_service.h"
#include "server/auth/gate.h"
#include "server/auth/principal.h"
#include "server/blobs/file_blob_store.h"
#include "server/blobs/memory_blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/fake_artifact_catalog.h"
#include "server/queue/job_state.h"
#include "server/queue/queue.h"
#include "server/queue/spec_check.h"
#include "server/store/artifact_store.h"
#include "server/store/memory_job_store.h"
#include "server/store/sqlite.h"

namespace quant::fuzz {
namespace {

constexpr int kMaxCalls = 64;

struct Call {
  uint8_t method = 0;
  std::string_view request;
};

std::vector<Call> Calls(std::string_view input) {
  std::vector<Call> calls;
  while (input.size() >= 3 && calls.size() < kMaxCalls) {
    const size_t length = static_cast<uint8_t>(input[1]) | static_cast<size_t>(static_cast<uint8_t>(input[2])) << 8;
    calls.push_back({static_cast<uint8_t>(input[0]), input.substr(3, length)});
    input.remove_prefix(std::min(input.size(), 3 + length));
  }
  return calls;
}

template <typename Request>
std::optional<Request> Parse(std::string_view bytes) {
  Request request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
  return request;
}

absl::Time Start() { return absl::FromUnixSeconds(1'800'000'000); }

// A queue and what is known of it from outside. Ids and tokens that an input cannot guess are written "1", "2", …: the
// first, second, … job; a token of -1 is the newest of that job.
class Queue {
 public:
  Queue() : clock_(Start()) {
    catalog_.AddModel("m-1");
    catalog_.AddDataset("d-1");
    Restart();
  }

  void Restart() {
    queue_.reset();
    QueueOptions options;
    options.jitter_seed = 7;
    options.max_unfinished = 16;
    auto queue = JobQueue::Create(&store_, &catalog_, nullptr, &clock_, options);
    CHECK_OK(queue.status());
    queue_ = *std::move(queue);
  }

  void Do(const Call& call) {
    switch (call.method % 12) {
      case 0:
        if (auto r = Parse<v1::SubmitJobRequest>(call.request)) Submit(*r);
        break;
      case 1:
        if (auto r = Parse<v1::GetJobRequest>(call.request)) queue_->Get(OpenPrincipal(), Id(r->id())).IgnoreError();
        break;
      case 2:
        if (auto r = Parse<v1::ListJobsRequest>(call.request)) List(*r);
        break;
      case 3:
        if (auto r = Parse<v1::CancelJobRequest>(call.request))
          queue_->Cancel(OpenPrincipal(), Id(r->id())).IgnoreError();
        break;
      case 4:
        if (auto r = Parse<v1::RetryJobRequest>(call.request))
          queue_->Retry(OpenPrincipal(), Id(r->id())).IgnoreError();
        break;
      case 5:
        if (auto r = Parse<v1::DeleteJobRequest>(call.request))
          queue_->Delete(OpenPrincipal(), Id(r->id())).IgnoreError();
        break;
      case 6:
        if (auto r = Parse<v1::GetJobReportRequest>(call.request))
          queue_->GetReport(OpenPrincipal(), Id(r->id())).IgnoreError();
        break;
      case 7:
        if (auto r = Parse<v1::LeaseJobRequest>(call.request)) Lease(*r);
        break;
      case 8:
        if (auto r = Parse<v1::HeartbeatRequest>(call.request)) Heartbeat(*r);
        break;
      case 9:
        if (auto r = Parse<v1::CompleteJobRequest>(call.request)) Complete(*r);
        break;
      case 10:  // time: as many milliseconds as the request's length squared
        clock_.Advance(absl::Milliseconds(static_cast<int64_t>(call.request.size() * call.request.size())));
        queue_->Tick();
        break;
      case 11:
        if (auto r = Parse<v1::WatchJobRequest>(call.request)) Watch(*r);
        if (call.request.empty()) Restart();
        break;
    }
    Check();
  }

 private:
  std::string Id(const std::string& id) const {
    if (id.size() != 1 || id[0] < '1' || id[0] > '9') return id;
    const size_t index = static_cast<size_t>(id[0] - '1');
    return index < ids_.size() ? ids_[index] : id;
  }
  int64_t Token(const std::string& id, int64_t token) const {
    const auto found = tokens_.find(id);
    return token < 0 && found != tokens_.end() ? found->second : token;
  }

  void Submit(const v1::SubmitJobRequest& request) {
    const auto job = queue_->Submit(OpenPrincipal(), request);
    if (!job.ok()) return;
    CHECK(job->state() == v1::JOB_STATE_QUEUED || !job->cached_from().empty());
    v1::JobSpec again = job->spec();
    CHECK_OK(CheckSpec(&again)) << "what was accepted is refused";
    if (std::find(ids_.begin(), ids_.end(), job->id()) == ids_.end()) ids_.push_back(job->id());
  }
  void List(v1::ListJobsRequest request) {
    const auto page = queue_->List(OpenPrincipal(), request);
    if (!page.ok() || page->next_page_token().empty()) return;
    request.set_page_token(page->next_page_token());
    CHECK_OK(queue_->List(OpenPrincipal(), request).status()) << "the next page";
  }
  void Lease(const v1::LeaseJobRequest& request) {
    const uint64_t handle = queue_->Lease(request, [this](absl::StatusOr<v1::LeaseJobResponse> answer) {
      if (!answer.ok() || !answer->has_lease()) return;
      const v1::Lease& lease = answer->lease();
      CHECK_GT(lease.token(), newest_) << "a fencing token that does not grow";
      newest_ = tokens_[lease.job().id()] = lease.token();
    });
    queue_->AbandonLease(handle);
  }
  void Heartbeat(v1::HeartbeatRequest request) {
    for (v1::LeaseProgress& lease : *request.mutable_leases()) {
      lease.set_job_id(Id(lease.job_id()));
      lease.set_token(Token(lease.job_id(), lease.token()));
    }
    const auto answer = queue_->Heartbeat(request);
    if (answer.ok()) CHECK_EQ(answer->instructions_size(), request.leases_size());
  }
  void Complete(v1::CompleteJobRequest request) {
    request.set_job_id(Id(request.job_id()));
    request.set_token(Token(request.job_id(), request.token()));
    const auto job = queue_->Complete(request);
    if (!job.ok()) return;
    const auto again = queue_->Complete(request);
    CHECK_OK(again.status()) << "a repeat";
  }
  void Watch(const v1::WatchJobRequest& request) {
    const auto handle =
        queue_->Watch(OpenPrincipal(), Id(request.id()), request.after_sequence(), [](const WatchEvent&) {});
    if (handle.ok()) queue_->Unwatch(*handle);
  }

  void Check() {
    std::map<std::string, int> made;
    for (const v1::Model& model : catalog_.Published()) ++made[model.source_job_id()];
    for (const auto& [job, count] : made) CHECK_EQ(count, 1) << "published twice: " << job;
    for (const std::string& id : ids_) {
      const auto job = queue_->Get(OpenPrincipal(), id);
      if (absl::IsNotFound(job.status())) continue;  // deleted
      CHECK_OK(job.status());
      if (job->state() == v1::JOB_STATE_SUCCEEDED && job->spec().has_quantize()) CHECK_EQ(made[id], 1) << id;
      CHECK_LE(job->attempt(), job->spec().max_attempts());
    }
  }

  FakeClock clock_;
  MemoryJobStore store_;
  FakeArtifactCatalog catalog_;
  std::unique_ptr<JobQueue> queue_;
  std::vector<std::string> ids_;
  std::map<std::string, int64_t> tokens_;
  int64_t newest_ = 0;
};

// The stored blobs that an input may name: "", "a", "b".
v1::Digest StoredDigest(std::string_view bytes) {
  v1::Digest digest;
  digest.set_sha256(Sha256Hex(bytes));
  digest.set_size_bytes(static_cast<int64_t>(bytes.size()));
  return digest;
}
void Store(BlobStore* blobs, const std::string& bytes) {
  const BlobId id{Sha256Hex(bytes), static_cast<int64_t>(bytes.size())};
  auto writer = blobs->OpenWriter("seed", id, 0);
  CHECK_OK(writer.status());
  CHECK_OK((*writer)->Write(bytes));
  CHECK_OK((*writer)->Finish());
}

// Digests cannot be guessed either: a size of -1 and a sha256 of up to one letter stands for the stored blob of that
// text.
template <typename Request>
void Resolve(Request* request) {
  for (v1::File& file : *request->mutable_files()) {
    if (file.digest().sha256().size() <= 1) *file.mutable_digest() = StoredDigest(file.digest().sha256());
  }
}

}  // namespace

FUZZ_TARGET(jobs, input) {
  Queue queue;
  for (const Call& call : Calls(input)) queue.Do(call);
}

FUZZ_TARGET(job_spec, input) {
  auto spec = Parse<v1::JobSpec>(input);
  if (!spec || !CheckSpec(&*spec).ok()) return;
  MethodLabel(*spec);
  v1::JobSpec again = *spec;
  CHECK_OK(CheckSpec(&again));
  CHECK_EQ(again.SerializeAsString().size(), spec->SerializeAsString().size()) << "filled in twice";
}

FUZZ_TARGET(artifacts, input) {
  MemoryBlobStore blobs;
  for (const char* text : {"", "a", "b"}) Store(&blobs, text);
  auto db = Database::Open(":memory:");
  CHECK_OK(db.status());
  FakeClock clock(Start());
  auto store = ArtifactStore::Create(db->get(), &blobs, nullptr, &clock);
  CHECK_OK(store.status());
  std::vector<std::string> models;
  const auto id = [&](const std::string& text) {
    const bool digit = text.size() == 1 && text[0] >= '1' && text[0] <= '9';
    return digit && static_cast<size_t>(text[0] - '1') < models.size() ? models[static_cast<size_t>(text[0] - '1')]
                                                                       : text;
  };
  for (const Call& call : Calls(input)) {
    switch (call.method % 10) {
      case 0:
        if (auto r = Parse<v1::CreateModelRequest>(call.request)) {
          Resolve(&*r);
          const auto model = (*store)->CreateModel(OpenPrincipal(), *r);
          if (!model.ok()) break;
          models.push_back(model->id());
          const auto again = (*store)->CreateModel(OpenPrincipal(), *r);
          CHECK_OK(again.status());
          CHECK_EQ(again->id(), model->id()) << "the same manifest and name";
          CHECK_OK((*store)->GetModel(OpenPrincipal(), model->id()).status());
        }
        break;
      case 1:
        if (auto r = Parse<v1::CreateDatasetRequest>(call.request)) {
          Resolve(&*r);
          (*store)->CreateDataset(OpenPrincipal(), *r).IgnoreError();
        }
        break;
      case 2:
        if (auto r = Parse<v1::GetModelRequest>(call.request))
          (*store)->GetModel(OpenPrincipal(), id(r->id())).IgnoreError();
        break;
      case 3:
        if (auto r = Parse<v1::ListModelsRequest>(call.request)) {
          const auto page = (*store)->ListModels(OpenPrincipal(), *r);
          if (!page.ok() || page->next_page_token().empty()) break;
          r->set_page_token(page->next_page_token());
          CHECK_OK((*store)->ListModels(OpenPrincipal(), *r).status()) << "the next page";
        }
        break;
      case 4:
        if (auto r = Parse<v1::ListDatasetsRequest>(call.request))
          (*store)->ListDatasets(OpenPrincipal(), *r).IgnoreError();
        break;
      case 5:
        if (auto r = Parse<v1::DeleteModelRequest>(call.request))
          (*store)->DeleteModel(OpenPrincipal(), id(r->id())).IgnoreError();
        break;
      case 6:
        if (auto r = Parse<v1::CreateModelRequest>(call.request)) {
          Resolve(&*r);
          (*store)
              ->PublishResult(kDefaultTenant, "j-1", r->name(), {r->files().begin(), r->files().end()})
              .IgnoreError();
        }
        break;
      case 7:
        CHECK_OK((*store)->SweepUnreferenced(absl::Seconds(call.request.size())).status());
        break;
      case 8:
        if (auto r = Parse<v1::SetRetentionRequest>(call.request)) {
          r->set_id(id(r->id()));
          const auto kept = (*store)->SetRetention(OpenPrincipal(), *r);
          if (!kept.ok() || !kept->pinned()) break;
          CHECK_OK((*store)->DeleteExpired().status());
          CHECK((*store)->GetModel(OpenPrincipal(), r->id()).ok() ||
                (*store)->GetDataset(OpenPrincipal(), r->id()).ok())
              << "pinned";
        }
        break;
      case 9:
        clock.Advance(absl::Seconds(call.request.size()));
        CHECK_OK((*store)->DeleteExpired().status());
        break;
    }
  }
}

// Each call is one stream into one of two uploads of "aaaa…" (100 bytes): its bytes are the data, its method says where
// it begins and how it ends.
FUZZ_TARGET(uploads, input) {
  const auto& folder = EmptyFolder();
  const std::string whole(100, 'a');
  const BlobId id{Sha256Hex(whole), 100};
  FakeClock clock(Start());
  const auto open = [&] {
    auto store = FileBlobStore::Open(folder, {.reserve_bytes = 0, .commit_bytes = 16, .clock = &clock});
    CHECK_OK(store.status());
    return *std::move(store);
  };
  std::unique_ptr<FileBlobStore> store = open();
  bool complete = false;
  int64_t committed[2] = {};
  for (const Call& call : Calls(input)) {
    const int which = call.method & 1;
    const std::string upload = which == 0 ? "first" : "second";
    const auto before = store->CommittedSize(upload, id);
    CHECK_OK(before.status());
    if (!complete) CHECK_GE(*before, committed[which]) << "committed bytes went back";
    const int64_t offset = (call.method & 2) != 0 ? *before : call.method >> 4;
    auto writer = store->OpenWriter(upload, id, offset);
    if (writer.ok()) {
      bool good = true;
      for (size_t at = 0; good && at < call.request.size(); at += 10) {
        good = (*writer)->Write(call.request.substr(at, 10)).ok();
      }
      if (good && (call.method & 4) != 0) {
        good = (*writer)->Finish().ok();
        complete = complete || good;
        committed[which] = 0;
      } else if (good) {
        const auto size = (*writer)->Commit();
        if (size.ok()) committed[which] = *size;
      }
      if (!good) committed[which] = 0;  // wrong bytes are dropped
    }
    writer = absl::UnavailableError("the stream ended");
    if ((call.method & 8) != 0) {
      store.reset();
      store = open();
    }
    const auto there = store->Touch(id);
    CHECK_OK(there.status());
    CHECK_EQ(*there, complete);
    if (*there) {
      auto reader = store->OpenReader(id);
      CHECK_OK(reader.status());
      const auto bytes = (*reader)->Read(0, 200);
      CHECK_OK(bytes.status());
      CHECK_EQ(*bytes, whole) << "a blob of other bytes";
    }
  }
}

FUZZ_TARGET(blob_message, input) {
  if (input.empty()) return;
  const size_t step = static_cast<uint8_t>(input[0]) + size_t{1};
  input.remove_prefix(1);
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < input.size(); at += step) {
    const std::string_view bytes = input.substr(at, step);
    slices.emplace_back(bytes.data(), bytes.size());
  }
  grpc::ByteBuffer message(slices.data(), slices.size());
  const auto parsed = Parse<v1::WriteBlobRequest>(input);
  v1::WriteBlobRequest head;
  BlobData data;
  const absl::Status status = SplitMessage(&message, v1::WriteBlobRequest::kDataFieldNumber, &head, &data);
  CHECK_EQ(status.ok(), parsed.has_value()) << status;
  if (!status.ok()) return;
  std::string bytes;
  for (const std::string_view piece : data.pieces()) bytes += piece;
  CHECK_EQ(std::ssize(bytes), data.size());
  head.set_data(bytes);
  CHECK(head.SerializeAsString() == parsed->SerializeAsString()) << "protobuf reads another message";
}

namespace {

// The three services on stores in memory, behind a channel inside the process. One for many inputs: what one leaves
// behind must not break the next.
class Services {
 public:
  Services() {
    for (const char* text : {"", "a", "b"}) Store(&blobs_, text);
    db_ = *Database::Open(":memory:");
    artifacts_ = *ArtifactStore::Create(db_.get(), &blobs_, &metrics_, &SystemClock());
    QueueOptions options;
    options.max_unfinished = 100;
    queue_ = *JobQueue::Create(&jobs_, artifacts_.get(), &metrics_, &SystemClock(), options);
    artifact_service_ = std::make_unique<ArtifactService>(&blobs_, artifacts_.get(), &metrics_);
    job_service_ = std::make_unique<JobService>(queue_.get());
    worker_service_ = std::make_unique<WorkerService>(queue_.get());
    grpc::ServerBuilder builder;
    builder.RegisterService(artifact_service_->service());
    builder.RegisterService(job_service_->service());
    builder.RegisterService(worker_service_->service());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(InstallGate(&builder, {}));
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
    stub_ = std::make_unique<grpc::GenericStub>(channel_);
    for (const auto* service :
         {v1::FindMissingBlobsRequest::descriptor()->file()->service(0),
          v1::GetJobRequest::descriptor()->file()->service(0), v1::Lease::descriptor()->file()->service(0)}) {
      for (int i = 0; i < service->method_count(); ++i) {
        methods_.push_back(absl::StrCat("/", service->full_name(), "/", service->method(i)->name()));
      }
    }
  }
  ~Services() {
    worker_service_->Shutdown();
    job_service_->Shutdown();
    artifact_service_->Shutdown();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_->Wait();
    queue_->Shutdown();
  }

  size_t methods() const { return methods_.size(); }

  // Sends the messages as one stream and reads what comes, for at most 20 ms.
  void Send(size_t method, const std::vector<std::string_view>& messages) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
    grpc::CompletionQueue queue;
    auto call = stub_->PrepareCall(&context, methods_[method], &queue);
    const auto next = [&queue] {
      void* tag;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    call->StartCall(nullptr);
    bool good = next();
    for (size_t i = 0; good && i < messages.size(); ++i) {
      const grpc::Slice slice(messages[i].data(), messages[i].size());
      call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
      good = next();
    }
    if (good) {
      call->WritesDone(nullptr);
      next();
    }
    grpc::ByteBuffer answer;
    call->Read(&answer, nullptr);
    if (next()) context.TryCancel();  // else the status is on its way, and a cancellation would hide it
    grpc::Status status;
    call->Finish(&status, nullptr);
    next();
    // Without the gate every handler would refuse, and nothing would be tried.
    CHECK_NE(status.error_message(), "the server has no gate") << methods_[method];
    CHECK_NE(status.error_code(), grpc::StatusCode::UNKNOWN) << methods_[method] << ": " << status.error_message();
    queue.Shutdown();
    while (next()) {
    }
  }

 private:
  ServerMetrics metrics_;
  MemoryBlobStore blobs_;
  MemoryJobStore jobs_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::unique_ptr<JobQueue> queue_;
  std::unique_ptr<ArtifactService> artifact_service_;
  std::unique_ptr<JobService> job_service_;
  std::unique_ptr<WorkerService> worker_service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> stub_;
  std::vector<std::string> methods_;
};

}  // namespace

// One call: its method is the first byte, its messages are as in the other targets (their method byte counts for
// nothing).
FUZZ_TARGET(rpc, input) {
  constexpr int kInputs = 5000;  // then the stores are emptied, which keep each upload that was cut and each model
  static int inputs = 0;
  static std::optional<Services> services;
  if (inputs++ % kInputs == 0) services.emplace();
  if (input.empty()) return;
  std::vector<std::string_view> messages;
  for (const Call& call : Calls(input.substr(1))) messages.push_back(call.request);
  services->Send(static_cast<uint8_t>(input[0]) % services->methods(), messages);
}

}  // namespace quant::fuzz

// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/server_link.h"

#include <grpcpp/grpcpp.h>

#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/proto_time.h"
#include "common/transfer/transfer.h"
#include "quant/v1/workers.grpc.pb.h"

namespace quant {
namespace {

constexpr absl::Duration kCallDeadline = absl::Seconds(15);

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& server, const ClientAuth& auth) {
  grpc::ChannelArguments args;
  TuneChannelForBlobs(args);
  // gRPC's own backoff goes up to two minutes: too long for a server that restarts in seconds while our leases run out.
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 500);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // in truth the time limit of one attempt
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 300);
  // Notices a connection that died without a word; the server allows a ping every 20 s.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // A lease holds up to four manifests of 10,000 files.
  args.SetMaxReceiveMessageSize(32 << 20);
  return grpc::CreateCustomChannel(server, auth.channel_credentials(), args);
}

TransferOptions Patient(const std::shared_ptr<ClientAuth>& auth, const ServerLink::Stop& stop) {
  TransferOptions options;
  options.stream_deadline = absl::Seconds(30);  // also bounds how long a silent server keeps us from seeing `stop`
  options.call_deadline = kCallDeadline;
  options.retry.longest_wait = absl::Seconds(2);
  options.retry.give_up_after = absl::InfiniteDuration();  // the lease ends it
  options.retry.cancelled = stop;
  // Transfers have threads of their own.
  options.prepare = [auth, fields = LogScope::Current()](grpc::ClientContext& context) {
    const LogScope scope(fields);
    auth->Prepare(context);
  };
  options.wait_for_room = true;  // a result of hours is not thrown away for it
  return options;
}

TransferProgressFn Adapt(const ServerLink::TransferProgressFn& progress) {
  if (!progress) return nullptr;
  return [progress](const TransferProgress& p) { progress(p.done_bytes, p.total_bytes); };
}

}  // namespace

struct ServerLink::Rep {
  Rep(const std::string& server, std::shared_ptr<ClientAuth> a)
      : auth(std::move(a)), channel(MakeChannel(server, *auth)), stub(v1::WorkerService::NewStub(channel)) {}

  const std::shared_ptr<ClientAuth> auth;  // shared with what transfers prepare
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<v1::WorkerService::Stub> stub;
  Mutex mu;
  std::set<grpc::ClientContext*> lease_calls ABSL_GUARDED_BY(mu);
  bool no_more_leases ABSL_GUARDED_BY(mu) = false;
};

ServerLink::ServerLink(const std::string& server, std::shared_ptr<ClientAuth> auth)
    : rep_(std::make_unique<Rep>(server, std::move(auth))) {}
ServerLink::~ServerLink() = default;

absl::Status ServerLink::LeaseJob(const v1::LeaseJobRequest& request, v1::LeaseJobResponse& response) {
  grpc::ClientContext context;
  rep_->auth->Prepare(context);
  context.set_deadline(absl::ToChronoTime(absl::Now() + FromProto(request.wait()) + kCallDeadline));
  {
    MutexLock lock(&rep_->mu);
    if (rep_->no_more_leases) return absl::CancelledError("the worker takes no more jobs");
    rep_->lease_calls.insert(&context);
  }
  const absl::Cleanup forget = [&] {
    MutexLock lock(&rep_->mu);
    rep_->lease_calls.erase(&context);
  };
  return FromGrpc(rep_->stub->LeaseJob(&context, request, &response));
}

void ServerLink::CancelLeaseCalls() {
  MutexLock lock(&rep_->mu);
  rep_->no_more_leases = true;
  for (grpc::ClientContext* context : rep_->lease_calls) context->TryCancel();
}

absl::Status ServerLink::Heartbeat(const v1::HeartbeatRequest& request, absl::Duration deadline,
                                   v1::HeartbeatResponse& response) {
  grpc::ClientContext context;
  rep_->auth->Prepare(context);
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  // Goes out the moment the connection is there, rather than failing because the newest attempt at one did.
  context.set_wait_for_ready(true);
  const absl::Status status = FromGrpc(rep_->stub->Heartbeat(&context, request, &response));
  // No backoff may keep us from a server that is back while leases run out.
  if (!status.ok()) grpc::experimental::ChannelResetConnectionBackoff(rep_->channel.get());
  return status;
}

absl::Status ServerLink::CompleteJob(const v1::CompleteJobRequest& request, v1::CompleteJobResponse& response) {
  grpc::ClientContext context;
  rep_->auth->Prepare(context);
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallDeadline));
  return FromGrpc(rep_->stub->CompleteJob(&context, request, &response));
}

absl::Status ServerLink::Download(const FileDigest& blob, const std::filesystem::path& dst, const Stop& stop,
                                  const TransferProgressFn& progress) {
  return BlobDownloader(rep_->channel, Patient(rep_->auth, stop)).Download(blob, dst, Adapt(progress));
}

absl::Status ServerLink::Upload(const std::vector<File>& files, const Stop& stop, const TransferProgressFn& progress) {
  std::vector<LocalFile> local;
  local.reserve(files.size());
  for (const File& file : files) local.push_back({.path = file.path, .digest = file.digest});
  return BlobUploader(rep_->channel, Patient(rep_->auth, stop)).UploadMissing(local, Adapt(progress));
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// RawCall: one rpc in messages of bytes, each operation of which waits. For upload.cc, download.cc, and tests.
#ifndef QUANT_COMMON_TRANSFER_RAW_CALL_H_
#define QUANT_COMMON_TRANSFER_RAW_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/grpc_status.h"

namespace quant::transfer_internal {

// Thread-compatible. End is called once, and last: after all messages were read, or a cancellation, since a message
// that nobody reads keeps the status back.
class RawCall {
 public:
  // Begins the rpc. `method` is "/package.Service/Method"; `context` outlives the call.
  RawCall(grpc::GenericStub* stub, const std::string& method, grpc::ClientContext* context)
      : call_(stub->PrepareCall(context, method, &queue_)) {
    call_->StartCall(this);
    good_ = Wait();
  }
  RawCall(const RawCall&) = delete;
  RawCall& operator=(const RawCall&) = delete;

  // Returns false once the call has ended, or been cancelled: End tells how.
  bool Write(const grpc::ByteBuffer& message) {
    if (!good_) return false;
    call_->Write(message, this);
    return good_ = Wait();
  }
  // Returns false when no message is left. Also after a Write that failed: the other side may answer before it has read
  // everything.
  bool Read(grpc::ByteBuffer* message) {
    call_->Read(message, this);
    return Wait();
  }
  // No more messages from here.
  void WritesDone() {
    if (!good_) return;
    call_->WritesDone(this);
    good_ = Wait();
  }
  absl::Status End() {
    grpc::Status status;
    call_->Finish(&status, this);
    Wait();
    queue_.Shutdown();
    Wait();
    return FromGrpc(status);
  }

 private:
  bool Wait() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::CompletionQueue queue_;
  const std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool good_;  // to write
};

}  // namespace quant::transfer_internal

#endif  // QUANT_COMMON_TRANSFER_RAW_CALL_H_

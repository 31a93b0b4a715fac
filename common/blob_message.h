// SPDX-License-Identifier: Apache-2.0
// WriteBlobRequest and ReadBlobResponse without a copy of their data: protobuf would copy each megabyte into a string
// and out of it, at both ends. The bytes on the wire are protobuf's.
//
//   call.Write(JoinMessage(head, v1::WriteBlobRequest::kDataFieldNumber, TakeString(std::move(bytes))));
//
//   v1::WriteBlobRequest head;
//   BlobData data;
//   RETURN_IF_ERROR(SplitMessage(&message, v1::WriteBlobRequest::kDataFieldNumber, &head, &data));
#ifndef QUANT_COMMON_BLOB_MESSAGE_H_
#define QUANT_COMMON_BLOB_MESSAGE_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace quant {

// The bytes of a message's data, in the pieces that they arrived in. Moves; a moved-from object may only be destroyed
// or assigned to.
class BlobData {
 public:
  // In order; they stay while this, or what it is moved to, does. None is empty; few are small: where many would be,
  // they are one.
  const std::vector<std::string_view>& pieces() const { return pieces_; }
  int64_t size() const { return size_; }

 private:
  friend absl::Status SplitMessage(grpc::ByteBuffer*, int, google::protobuf::MessageLite*, BlobData*);

  std::unique_ptr<grpc::ByteBuffer> message_;  // a copy of it would have its small slices elsewhere
  std::vector<char> joined_;
  std::vector<std::string_view> pieces_;
  int64_t size_ = 0;
};

// The message with `head`'s fields and `data` as its field number `field`, of type bytes; head has no such field set.
grpc::ByteBuffer JoinMessage(const google::protobuf::MessageLite& head, int field, grpc::Slice data);

// Takes a message apart and leaves it empty: field number `field`, of type bytes, goes to `data`, all others to `head`.
// As protobuf does, the last of repeated values counts, and unknown fields are kept.
//   INVALID_ARGUMENT: not a serialized message of head's type.
absl::Status SplitMessage(grpc::ByteBuffer* message, int field, google::protobuf::MessageLite* head, BlobData* data);

// The bytes of `bytes`, without a copy.
grpc::Slice TakeString(std::string bytes);

// Messages that have no such data, of the same rpcs.
grpc::ByteBuffer ToByteBuffer(const google::protobuf::MessageLite& message);
//   INVALID_ARGUMENT: not a serialized message of that type.
absl::Status FromByteBuffer(grpc::ByteBuffer* bytes, google::protobuf::MessageLite* message);

}  // namespace quant

#endif  // QUANT_COMMON_BLOB_MESSAGE_H_

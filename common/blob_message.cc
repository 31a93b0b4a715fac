// SPDX-License-Identifier: Apache-2.0
#include "common/blob_message.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

// A message of a megabyte comes in pieces of 64 KiB or more. A peer that sends many small frames gets one copy.
constexpr size_t kMostPieces = 64;
// Bytes of a tag or a length, for protobuf's parser; CodedInputStream takes ten.
constexpr int kLongestVarint32 = 5;

uint32_t TagOf(int field) { return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED); }

absl::Status NotA(const google::protobuf::MessageLite& message) {
  return absl::InvalidArgumentError(absl::StrCat("not a message of type ", message.GetTypeName()));
}

// Where a field is in a message: [begin, end) in bytes.
struct Range {
  int begin;
  int end;
};

// Reads a length and that many bytes, as pieces.
bool ReadPieces(CodedInputStream* in, std::vector<std::string_view>* pieces) {
  const int begin = in->CurrentPosition();
  int left = 0;
  if (!in->ReadVarintSizeAsInt(&left) || in->CurrentPosition() - begin > kLongestVarint32) return false;
  pieces->clear();
  while (left > 0) {
    const void* at = nullptr;
    int size = 0;
    if (!in->GetDirectBufferPointer(&at, &size)) return false;
    size = std::min(size, left);
    pieces->emplace_back(static_cast<const char*>(at), static_cast<size_t>(size));
    if (!in->Skip(size)) return false;
    left -= size;
  }
  return true;
}

// The pieces of field `field`, and where it is. Other fields are only passed over, less strictly than protobuf's parser
// reads them.
bool Find(grpc::ByteBuffer* message, int field, std::vector<std::string_view>* pieces, std::vector<Range>* ranges) {
  grpc::ProtoBufferReader reader(message);
  if (!reader.status().ok()) return false;
  CodedInputStream in(&reader);
  while (true) {
    const int begin = in.CurrentPosition();
    const uint32_t tag = in.ReadTag();
    if (tag == 0) return in.ConsumedEntireMessage();
    if (tag != TagOf(field) || in.CurrentPosition() - begin > kLongestVarint32) {
      if (!WireFormatLite::SkipField(&in, tag)) return false;
    } else {
      if (!ReadPieces(&in, pieces)) return false;
      ranges->push_back({begin, in.CurrentPosition()});
    }
  }
}

// The bytes outside of `ranges`, which are in order.
std::string Others(grpc::ByteBuffer* message, const std::vector<Range>& ranges) {
  grpc::ProtoBufferReader reader(message);
  std::string others;
  const void* data = nullptr;
  int size = 0;
  int start = 0;  // of this slice
  auto next = ranges.begin();
  while (reader.Next(&data, &size)) {
    const int end = start + size;
    for (int at = start; at < end;) {
      while (next != ranges.end() && next->end <= at) ++next;
      const bool inside = next != ranges.end() && next->begin <= at;
      const int to = next == ranges.end() ? end : std::min(end, inside ? next->end : next->begin);
      if (!inside) others.append(static_cast<const char*>(data) + (at - start), static_cast<size_t>(to - at));
      at = to;
    }
    start = end;
  }
  return others;
}

}  // namespace

grpc::ByteBuffer JoinMessage(const google::protobuf::MessageLite& head, int field, grpc::Slice data) {
  std::string start = head.SerializeAsString();
  {
    google::protobuf::io::StringOutputStream sink(&start);  // appends
    CodedOutputStream out(&sink);
    out.WriteTag(TagOf(field));
    out.WriteVarint32(static_cast<uint32_t>(data.size()));
  }
  const std::array<grpc::Slice, 2> slices = {TakeString(std::move(start)), std::move(data)};
  return {slices.data(), slices.size()};
}

absl::Status SplitMessage(grpc::ByteBuffer* message, int field, google::protobuf::MessageLite* head, BlobData* data) {
  BlobData result;
  result.message_ = std::make_unique<grpc::ByteBuffer>();
  result.message_->Swap(message);
  std::vector<std::string_view>& pieces = result.pieces_;
  std::vector<Range> ranges;
  if (!Find(result.message_.get(), field, &pieces, &ranges) ||
      !head->ParseFromString(Others(result.message_.get(), ranges))) {
    return NotA(*head);
  }
  for (const std::string_view piece : pieces) result.size_ += static_cast<int64_t>(piece.size());
  if (pieces.size() > kMostPieces) {
    result.joined_.reserve(static_cast<size_t>(result.size_));
    for (const std::string_view piece : pieces) result.joined_.insert(result.joined_.end(), piece.begin(), piece.end());
    pieces = {{result.joined_.data(), result.joined_.size()}};
    result.message_ = nullptr;
  }
  *data = std::move(result);
  return absl::OkStatus();
}

grpc::Slice TakeString(std::string bytes) {
  auto* const kept = new std::string(std::move(bytes));
  return {kept->data(), kept->size(), [](void* string) { delete static_cast<std::string*>(string); }, kept};
}

grpc::ByteBuffer ToByteBuffer(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice = TakeString(message.SerializeAsString());
  return {&slice, 1};
}

absl::Status FromByteBuffer(grpc::ByteBuffer* bytes, google::protobuf::MessageLite* message) {
  grpc::ProtoBufferReader reader(bytes);
  const bool good = reader.status().ok() && message->ParseFromZeroCopyStream(&reader);
  return good ? absl::OkStatus() : NotA(*message);
}

}  // namespace quant

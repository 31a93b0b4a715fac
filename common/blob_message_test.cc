// SPDX-License-Identifier: Apache-2.0
#include "common/blob_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "quant/v1/artifacts.pb.h"

namespace quant {
namespace {

constexpr int kData = v1::WriteBlobRequest::kDataFieldNumber;

// `bytes` as they may come from a connection: in slices of `size`.
grpc::ByteBuffer InSlices(const std::string& bytes, size_t size) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += size) slices.emplace_back(bytes.substr(at, size));
  return {slices.data(), slices.size()};
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

std::string Joined(const BlobData& data) {
  std::string bytes;
  for (const std::string_view piece : data.pieces()) bytes += piece;
  return bytes;
}

v1::WriteBlobRequest Example(size_t size) {
  v1::WriteBlobRequest request;
  request.set_upload_id("upload");
  request.mutable_digest()->set_sha256("ab");
  request.mutable_digest()->set_size_bytes(3'000'000'000);
  request.set_write_offset(1 << 20);
  request.set_finish_write(true);
  for (size_t i = 0; i < size; ++i) *request.mutable_data() += static_cast<char>(i * 7);
  return request;
}

TEST(BlobMessage, JoinedMessagesAreProtobufs) {
  for (const size_t size : {0, 1, 127, 128, 100'000}) {
    v1::WriteBlobRequest head = Example(size);
    const std::string data = head.data();
    head.clear_data();
    const std::string bytes = Bytes(JoinMessage(head, kData, TakeString(data)));
    v1::WriteBlobRequest parsed;
    ASSERT_TRUE(parsed.ParseFromString(bytes)) << size;
    EXPECT_EQ(parsed.SerializeAsString(), Example(size).SerializeAsString()) << size;
  }
  v1::ReadBlobRequest plain;
  plain.set_read_offset(77);
  grpc::ByteBuffer bytes = ToByteBuffer(plain);
  EXPECT_EQ(Bytes(bytes), plain.SerializeAsString());
  v1::ReadBlobRequest parsed;
  ASSERT_TRUE(FromByteBuffer(&bytes, &parsed).ok());
  EXPECT_EQ(parsed.read_offset(), 77);
  bytes = InSlices("\x10", 1);
  EXPECT_EQ(FromByteBuffer(&bytes, &parsed).code(), absl::StatusCode::kInvalidArgument);
}

TEST(BlobMessage, AnySlicesAreTakenApart) {
  for (const size_t size : {0, 1, 22, 5000}) {
    for (const size_t slice : {1, 2, 7, 24, 1000, 1'000'000}) {
      const v1::WriteBlobRequest whole = Example(size);
      grpc::ByteBuffer message = InSlices(whole.SerializeAsString(), slice);
      v1::WriteBlobRequest head;
      BlobData data;
      ASSERT_TRUE(SplitMessage(&message, kData, &head, &data).ok());
      EXPECT_FALSE(message.Valid());
      const BlobData moved = std::move(data);  // its small slices too
      message = InSlices(std::string(100, 'x'), 1);
      EXPECT_EQ(Joined(moved), whole.data()) << size << " in " << slice;
      EXPECT_EQ(moved.size(), static_cast<int64_t>(size));
      EXPECT_LE(moved.pieces().size(), 64u) << "many small ones are joined";
      for (const std::string_view piece : moved.pieces()) EXPECT_FALSE(piece.empty());
      EXPECT_TRUE(head.data().empty());
      head.set_data(whole.data());
      EXPECT_EQ(head.SerializeAsString(), whole.SerializeAsString());
    }
  }
}

TEST(BlobMessage, TheDataIsNotCopied) {
  const std::string bytes = Example(100'000).SerializeAsString();
  const grpc::Slice slice(bytes);
  grpc::ByteBuffer message(&slice, 1);
  v1::WriteBlobRequest head;
  BlobData data;
  ASSERT_TRUE(SplitMessage(&message, kData, &head, &data).ok());
  ASSERT_EQ(data.pieces().size(), 1u);
  const auto* at = reinterpret_cast<const uint8_t*>(data.pieces()[0].data());
  EXPECT_TRUE(at >= slice.begin() && at < slice.end());
}

TEST(BlobMessage, TheLastOfTwoValuesCountsAndUnknownFieldsAreKept) {
  v1::WriteBlobRequest first;
  first.set_data("first");
  v1::WriteBlobRequest second;
  second.set_data("second");
  std::string bytes = first.SerializeAsString() + second.SerializeAsString();
  bytes += std::string("\xa8\x06\x07", 3);  // field 101, varint 7
  bytes += std::string("\x20\x05", 2);      // field 4 again, but a varint: another, unknown field
  grpc::ByteBuffer message = InSlices(bytes, 3);
  v1::WriteBlobRequest head;
  BlobData data;
  ASSERT_TRUE(SplitMessage(&message, kData, &head, &data).ok());
  EXPECT_EQ(Joined(data), "second");
  EXPECT_EQ(head.SerializeAsString(), bytes.substr(bytes.size() - 5));
}

TEST(BlobMessage, DataAmongOtherFieldsIsTakenOut) {
  std::string bytes;
  for (int i = 0; i < 100; ++i) {
    v1::WriteBlobRequest part;
    part.set_data(std::string(static_cast<size_t>(i % 5), 'd'));
    bytes += part.SerializeAsString();
    part.clear_data();
    part.set_write_offset(i);
    bytes += part.SerializeAsString() + std::string("\xa2\x00\x01x", 4);  // a tag longer than need be
  }
  v1::WriteBlobRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(bytes));
  for (const size_t slice : {1, 3, 10, 1000}) {
    grpc::ByteBuffer message = InSlices(bytes, slice);
    v1::WriteBlobRequest head;
    BlobData data;
    ASSERT_TRUE(SplitMessage(&message, kData, &head, &data).ok());
    EXPECT_EQ(Joined(data), parsed.data());
    EXPECT_EQ(head.write_offset(), 99);
  }
}

TEST(BlobMessage, WhatIsNoMessageIsRefused) {
  const std::string good = Example(50).SerializeAsString();
  std::vector<std::string> bad = {
      std::string("\x22\x7f", 2),                          // data longer than the message
      std::string("\x22\xff\xff\xff\xff\x0f", 6),          // of 4 GiB
      std::string("\x22\xff\xff\xff\xff\xff\xff\xff", 8),  // of a length that does not end
      std::string("\xa2\x80\x80\x80\x80\x00\x00", 7),      // a tag of six bytes
      std::string("\x22\x80\x80\x80\x80\x80\x00", 7),      // a length of six
      std::string("\xaa\x86\x80\x80\x80\x00\x00", 7),      // another field's tag
      std::string("\x24", 1),                              // the end of a group that did not begin
      std::string("\x00", 1),                              // field 0
      std::string("\x0a\x02\xff\xff", 4),                  // upload_id is not UTF-8
      good + "\x0a",
  };
  for (size_t cut = 1; cut < 50; ++cut) bad.push_back(good.substr(0, good.size() - 2 - cut));  // before finish_write
  for (const std::string& bytes : bad) {
    v1::WriteBlobRequest parsed;
    ASSERT_FALSE(parsed.ParseFromString(bytes)) << testing::PrintToString(bytes);
    for (const size_t slice : {1, 1000}) {
      grpc::ByteBuffer message = InSlices(bytes, slice);
      BlobData data;
      EXPECT_EQ(SplitMessage(&message, kData, &parsed, &data).code(), absl::StatusCode::kInvalidArgument)
          << testing::PrintToString(bytes);
    }
  }
  grpc::ByteBuffer none;
  v1::WriteBlobRequest head;
  BlobData data;
  EXPECT_EQ(SplitMessage(&none, kData, &head, &data).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quant

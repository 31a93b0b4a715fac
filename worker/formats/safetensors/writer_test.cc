// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/safetensors/writer.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/safetensors/safetensors.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::ReadFile;
using testing::TempDir;

Tensor Noise(DType dtype, Shape shape, uint32_t seed) {
  Tensor t = *Tensor::Allocate(dtype, std::move(shape));
  std::mt19937 random(seed);
  for (std::byte& b : t.mutable_bytes()) b = static_cast<std::byte>(random());
  return t;
}

std::string Bytes(const Tensor& t) { return {reinterpret_cast<const char*>(t.bytes().data()), t.bytes().size()}; }

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// docs of the format's reference implementation: byte-identical to its writer (formats.md section 1).
TEST(SafetensorsWriter, SmallFileEqualsTheReferenceWriters) {
  TempDir dir;
  auto writer = SafetensorsWriter::Create(dir.path());
  ASSERT_THAT(writer, IsOk());
  ASSERT_THAT((*writer)->Add("a", Tensor::Of<int8_t>({3}, std::vector<int8_t>{1, -1, 127})), IsOk());
  ASSERT_THAT((*writer)->Add("b", Tensor::Of<float>({2}, std::vector<float>{1.5f, -2.0f})), IsOk());
  ASSERT_THAT((*writer)->Finish(), IsOk());
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I8","shape":[3],"data_offsets":[8,11]}})"
      "      ";
  ASSERT_EQ(header.size(), 144u);
  const std::string want = std::string("\x90\0\0\0\0\0\0\0", 8) + header + FromHex("0000c03f000000c001ff7f");
  EXPECT_EQ(ReadFile(dir / "model.safetensors"), want);
  EXPECT_EQ((*writer)->files(), std::vector<std::string>{"model.safetensors"});
}

TEST(SafetensorsWriter, EmptyFileEqualsTheReferenceWriters) {
  TempDir dir;
  auto writer = SafetensorsWriter::Create(dir.path(), {.metadata = {}});
  ASSERT_THAT(writer, IsOk());
  ASSERT_THAT((*writer)->Finish(), IsOk());
  EXPECT_EQ(ReadFile(dir / "model.safetensors"), FromHex("08000000000000007b7d202020202020"));
}

TEST(SafetensorsWriter, OrdersTypesAndNamesAsTheReferenceWriter) {
  TempDir dir;
  auto writer = SafetensorsWriter::Create(dir.path());
  for (const auto& [name, dtype] : std::vector<std::pair<std::string, DType>>{{"z", DType::kUInt8},
                                                                              {"y", DType::kBFloat16},
                                                                              {"x", DType::kInt64},
                                                                              {"w", DType::kFloat16},
                                                                              {"v", DType::kInt32},
                                                                              {"u", DType::kFloat32},
                                                                              {"b", DType::kFloat16},
                                                                              {"t", DType::kInt8}}) {
    ASSERT_THAT((*writer)->Add(name, Noise(dtype, {2}, 1)), IsOk());
  }
  ASSERT_THAT((*writer)->Finish(), IsOk());
  const std::string file = ReadFile(dir / "model.safetensors");
  size_t at = 0;
  for (const char* name : {"x", "u", "v", "y", "b", "w", "t", "z"}) {
    const size_t found = file.find(absl::StrCat("\"", name, "\":"));
    ASSERT_NE(found, std::string::npos) << name;
    EXPECT_GT(found, at) << name;
    at = found;
  }
}

struct Shards {
  int64_t max_file_bytes;
  int64_t buffer_bytes;
  int64_t expected_tensors;
};

class Streaming : public ::testing::TestWithParam<Shards> {};

// Whatever the limits, what is written is read back, and every tensor is aligned for its type.
TEST_P(Streaming, ReadsBackAlignedAndWithTheRightIndex) {
  TempDir dir, again;
  std::vector<NamedTensor> tensors;
  constexpr DType kTypes[] = {DType::kUInt8, DType::kFloat32, DType::kFloat16, DType::kInt64, DType::kInt32};
  tensors.reserve(60);
  for (int i = 0; i < 60; ++i) {
    tensors.push_back(
        {absl::StrCat("t", i), Noise(kTypes[i % 5], {i % 7, 1 + i * 3 % 11, 5}, static_cast<uint32_t>(i))});
  }
  for (const TempDir* d : {&dir, &again}) {
    auto writer = SafetensorsWriter::Create(d->path(), {.max_file_bytes = GetParam().max_file_bytes,
                                                        .buffer_bytes = GetParam().buffer_bytes,
                                                        .expected_tensors = GetParam().expected_tensors});
    ASSERT_THAT(writer, IsOk());
    for (size_t i = 0; i < tensors.size(); i += 3) {
      ASSERT_THAT((*writer)->AddTogether(std::span(tensors).subspan(i, 3)), IsOk());
    }
    ASSERT_THAT((*writer)->Finish(), IsOk());
  }
  std::map<std::string, std::string> file_of;
  std::map<std::string, Tensor> read;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(ReadFile(entry.path()), ReadFile(again / name)) << "the same calls give the same bytes: " << name;
    if (!name.ends_with(".safetensors")) continue;
    auto file = ReadSafetensors(entry.path());
    ASSERT_THAT(file, IsOk());
    EXPECT_EQ(file->metadata.at("format"), "pt");
    for (auto& [tensor, value] : file->tensors) {
      const auto address = reinterpret_cast<uintptr_t>(value.bytes().data());
      if (value.elements() > 0) {
        EXPECT_EQ(address % (static_cast<size_t>(DTypeBits(value.dtype())) / 8), 0u) << tensor;
      }
      file_of[tensor] = name;
      read[tensor] = value;
    }
  }
  ASSERT_EQ(read.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const NamedTensor& t = tensors[i];
    EXPECT_EQ(read[t.name].shape(), t.tensor.shape());
    EXPECT_EQ(Bytes(read[t.name]), Bytes(t.tensor)) << t.name;
    EXPECT_EQ(file_of[t.name], file_of[tensors[i / 3 * 3].name]) << "given together, in one file";
  }
  const bool one = std::filesystem::exists(dir / "model.safetensors");
  EXPECT_NE(one, std::filesystem::exists(dir / "model.safetensors.index.json"));
  if (!one) {
    const std::string index = ReadFile(dir / "model.safetensors.index.json");
    for (const auto& [tensor, file] : file_of) {
      EXPECT_THAT(index, HasSubstr(absl::StrCat("\"", tensor, "\": \"", file, "\"")));
    }
    EXPECT_TRUE(file_of["t0"].starts_with("model-00001-of-000")) << file_of["t0"];
  }
}

INSTANTIATE_TEST_SUITE_P(, Streaming,
                         ::testing::Values(Shards{5'000'000'000, 1 << 24, 2000},  // all buffered
                                           Shards{5'000'000'000, 0, 2000},        // all streamed
                                           Shards{5'000'000'000, 100, 1},         // headers fill up
                                           Shards{2000, 0, 60}, Shards{2000, 1 << 24, 60}, Shards{1, 500, 60}));

TEST(SafetensorsWriter, RefusesWhatAFileCannotHold) {
  TempDir dir;
  auto writer = SafetensorsWriter::Create(dir.path());
  const Tensor t = Tensor::Scalar(1.0f);
  for (const std::string& name : {std::string(), std::string("__metadata__"), std::string("a\0b", 3),
                                  std::string("a\nb"), std::string("\xff"), std::string(5000, 'a')}) {
    EXPECT_THAT((*writer)->Add(name, t), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cannot be named")));
  }
  EXPECT_THAT((*writer)->Add("four", *Tensor::Allocate(DType::kInt4, {2})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("hold no int4")));
  EXPECT_THAT((*writer)->Add("a", t), IsOk());
  EXPECT_THAT((*writer)->Add("a", t), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("added twice")));
  EXPECT_THAT(SafetensorsWriter::Create(dir / "none"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(SafetensorsWriter, LeavesNothingWithoutFinish) {
  TempDir dir;
  {
    auto writer = SafetensorsWriter::Create(dir.path(), {.buffer_bytes = 0});
    ASSERT_THAT((*writer)->Add("a", Tensor::Scalar(1.0f)), IsOk());
    EXPECT_FALSE(std::filesystem::is_empty(dir.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace quant

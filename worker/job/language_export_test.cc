// SPDX-License-Identifier: Apache-2.0
// Of every format: an export verifies as it is, and no more once some bytes of its weights were flipped on disk.
#include "worker/job/language_export.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/gguf/gguf_model.h"
#include "worker/formats/language_model_testing.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/graph/linear.h"
#include "worker/quantize/weight_only/threads.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr char kLayer[] = "model.layers.1.self_attn.k_proj";

class LanguageExportTest : public ::testing::Test {
 protected:
  LanguageExportTest() {
    (void)testing::MakeLanguageModel(source_, nlohmann::json::object(), {});
    testing::WriteFile(source_ / "tokenizer.json", R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})");
    checkpoint_ = *Checkpoint::Open(source_.path());
    model_ = *BuildLanguageModel(*checkpoint_, {});
  }

  // The model with every layer of its blocks quantized, written to files.
  std::unique_ptr<LanguageExport> Write(CheckpointFormat format) {
    const bool codebook = format == CheckpointFormat::kBitsandbytes;
    const testing::RandomGrid grid{.symmetric = format != CheckpointFormat::kAwq};
    auto out =
        LanguageExport::Create(format, *checkpoint_, model_, folder(), {.group_size = 32, .symmetric = grid.symmetric});
    CHECK_OK(out.status());
    BlockResult block;
    for (const Linear& l : FindLinears(model_.graph)) {
      if (l.name == "lm_head") continue;
      const auto seed = static_cast<uint32_t>(block.layers.size());
      QuantizedLayer layer{.outcome = {.name = l.name}};
      if (codebook) {
        layer.weights = testing::RandomCodebook(l.rows, l.cols, 64, /*fp4=*/false, /*nested=*/true, seed);
      } else {
        testing::RandomGrid g = grid;
        g.rows = l.rows, g.cols = l.cols;
        layer.weights = testing::RandomGrouped(g, seed);
      }
      block.layers.push_back(std::move(layer));
    }
    CHECK_OK((*out)->Add(block));
    CHECK_OK((*out)->Finish());
    return *std::move(out);
  }

  fs::path folder() const { return target_ / "out"; }

  // Flips all bits of `count` bytes, in the middle of where `content` lies in one of the files.
  void Flip(std::span<const std::byte> content, size_t count) {
    const std::string stored(reinterpret_cast<const char*>(content.data()), content.size());
    for (const auto& entry : fs::directory_iterator(folder())) {
      std::string bytes = testing::ReadFile(entry.path());
      const size_t at = bytes.find(stored);
      if (at == std::string::npos) continue;
      for (size_t i = 0; i < count; ++i) bytes[at + (stored.size() - count) / 2 + i] ^= '\xff';
      fs::remove(entry.path());  // mappings keep what they had
      testing::WriteFile(entry.path(), bytes);
      return;
    }
    FAIL() << "no file has these " << content.size() << " bytes";
  }

  // One byte of a tensor of kLayer.
  void ExpectByteMatters(CheckpointFormat format, const char* tensor) {
    const auto out = Write(format);
    ASSERT_THAT(out->Verify({}), IsOk()) << tensor;
    const auto written = Checkpoint::Open(folder());
    ASSERT_THAT(written, IsOk());
    const Tensor* t = (*written)->Find(absl::StrCat(kLayer, tensor));
    ASSERT_NE(t, nullptr) << tensor;
    Flip(t->bytes(), 1);
    EXPECT_THAT(out->Verify({}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(absl::StrCat("'", kLayer, "'"))))
        << tensor;
    fs::remove_all(folder());
  }

  TempDir source_, target_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  LanguageModel model_;
};

TEST_F(LanguageExportTest, AFlippedByteOfGptqIsDataLoss) {
  for (const char* tensor : {".qweight", ".scales"}) ExpectByteMatters(CheckpointFormat::kGptq, tensor);
}

TEST_F(LanguageExportTest, AFlippedByteOfAwqIsDataLoss) {
  for (const char* tensor : {".qweight", ".scales", ".qzeros"}) ExpectByteMatters(CheckpointFormat::kAwq, tensor);
}

TEST_F(LanguageExportTest, AFlippedByteOfBitsandbytesIsDataLoss) {
  for (const char* tensor : {".weight", ".weight.absmax", ".weight.nested_absmax"}) {
    ExpectByteMatters(CheckpointFormat::kBitsandbytes, tensor);
  }
}

TEST_F(LanguageExportTest, AFlippedByteOfCompressedTensorsIsDataLoss) {
  for (const char* tensor : {".weight_packed", ".weight_scale"}) {
    ExpectByteMatters(CheckpointFormat::kCompressedTensors, tensor);
  }
}

// What is written on one number of threads verifies on another.
TEST_F(LanguageExportTest, VerifiesOnAnyNumberOfThreads) {
  for (const CheckpointFormat format : {CheckpointFormat::kCompressedTensors, CheckpointFormat::kGptqV2,
                                        CheckpointFormat::kAwq, CheckpointFormat::kBitsandbytes}) {
    std::unique_ptr<LanguageExport> out;
    {
      const weight_only::ThreadScope scope(2);
      out = Write(format);
    }
    for (const int threads : {1, 3}) {
      const weight_only::ThreadScope scope(threads);
      EXPECT_THAT(out->Verify({}), IsOk()) << threads << " threads";
    }
    fs::remove_all(folder());
  }
}

TEST_F(LanguageExportTest, VerifyStopsWhereProgressSaysSo) {
  const auto out = Write(CheckpointFormat::kGptq);
  const weight_only::ThreadScope scope(2);
  int calls = 0;
  const ProgressFn cancel = [&](double, std::string_view, const Counted&) {
    ++calls;
    return absl::CancelledError("enough");
  };
  EXPECT_THAT(out->Verify(cancel), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_LE(calls, 2) << "one per thread, of 14 layers";
}

// GGUF's grids may round weights again: single bytes drown in that, a broken layer does not.
TEST_F(LanguageExportTest, ABrokenLayerOfGgufIsDataLoss) {
  const auto out = Write(CheckpointFormat::kGguf);
  ASSERT_THAT(out->Verify({}), IsOk());
  const auto file = GgufModel::Open(folder() / "model.gguf");
  ASSERT_THAT(file, IsOk());
  const GgufModel::Entry* entry = (*file)->Find(absl::StrCat(kLayer, ".weight"));
  ASSERT_NE(entry, nullptr);
  Flip(entry->bytes, entry->bytes.size() / 8);
  EXPECT_THAT(out->Verify({}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(absl::StrCat("'", kLayer, "'"))));
}

// An ONNX file may be in other operators: its logits are compared.
TEST_F(LanguageExportTest, ABrokenLayerOfOnnxIsDataLoss) {
  const auto out = Write(CheckpointFormat::kOnnx);
  ASSERT_THAT(out->Verify({}), IsOk());
  const auto graph = ImportOnnx(folder() / "model.onnx");
  ASSERT_THAT(graph, IsOk());
  const Tensor* codes = nullptr;
  for (const auto& [name, tensor] : graph->initializers) {
    const bool of_layer = name.find(kLayer) != std::string::npos && tensor.dtype() == DType::kUInt8;
    if (of_layer && (codes == nullptr || tensor.bytes().size() > codes->bytes().size())) codes = &tensor;
  }
  ASSERT_NE(codes, nullptr);
  Flip(codes->bytes(), codes->bytes().size() / 8);
  EXPECT_THAT(out->Verify({}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("logits that differ by")));
}

}  // namespace
}  // namespace quant

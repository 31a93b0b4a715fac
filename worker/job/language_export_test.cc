// SPDX-License-Identifier: Apache-2.0
#include "worker/job/language_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/language_model_testing.h"
#include "worker/formats/testing.h"
#include "worker/graph/linear.h"
#include "worker/quantize/weight_only/threads.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::TempDir;

struct Case {
  CheckpointFormat format;
  const char* part;  // of a layer's tensors
};

class LanguageExportTest : public ::testing::TestWithParam<Case> {
 protected:
  // Random weights for each layer of the blocks: 4 bits of the grid or codebook that the format has.
  BlockResult RandomLayers(const LanguageModel& model) const {
    BlockResult block;
    uint32_t seed = 1;
    for (const Linear& linear : FindLinears(model.graph)) {
      if (!linear.name.starts_with("model.layers.")) continue;
      QuantizedLayer layer;
      layer.outcome.name = linear.name;
      if (GetParam().format == CheckpointFormat::kBitsandbytes) {
        layer.weights = testing::RandomCodebook(linear.rows, linear.cols, 64, /*fp4=*/false, /*nested=*/true, ++seed);
      } else {
        layer.weights = testing::RandomGrouped({.rows = linear.rows, .cols = linear.cols, .symmetric = false}, ++seed);
      }
      block.layers.push_back(std::move(layer));
    }
    return block;
  }

  TempDir source_, written_;
};

// The grids have negative scales, zero points of 0 (which gptq_v2 keeps) and layers of several shapes.
TEST_P(LanguageExportTest, VerifyFindsOneBitThatDiffersWhateverTheThreads) {
  const auto checkpoint = testing::MakeLanguageModel(source_, nlohmann::json::object(), {});
  const auto model = BuildLanguageModel(*checkpoint, {});
  ASSERT_THAT(model, IsOk());
  auto out = LanguageExport::Create(GetParam().format, *checkpoint, *model, written_.path(), {.group_size = 32});
  ASSERT_THAT(out, IsOk());
  {
    const weight_only::ThreadScope scope(2);
    ASSERT_THAT((*out)->Add(RandomLayers(*model)), IsOk());
  }
  ASSERT_THAT((*out)->Finish(), IsOk());
  const std::string file = testing::ReadFile(written_ / "model.safetensors");
  for (const int threads : {1, 3}) {
    const weight_only::ThreadScope scope(threads);
    testing::WriteFile(written_ / "model.safetensors", file);
    EXPECT_THAT((*out)->Verify(nullptr), IsOk()) << threads << " threads";
    for (const std::string module : {"model.layers.0.mlp.down_proj", "model.layers.1.self_attn.v_proj"}) {
      const auto read = Checkpoint::Open(written_.path());
      ASSERT_THAT(read, IsOk());
      const Tensor* part = (*read)->Find(absl::StrCat(module, GetParam().part));
      ASSERT_NE(part, nullptr);
      const std::string_view bytes(reinterpret_cast<const char*>(part->bytes().data()), part->bytes().size());
      const size_t at = file.find(bytes);
      ASSERT_NE(at, std::string::npos);
      std::string broken = file;
      broken[at + bytes.size() - 1] ^= 0x10;
      testing::WriteFile(written_ / "model.safetensors", broken);
      EXPECT_THAT((*out)->Verify(nullptr), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(module)))
          << threads << " threads";
      testing::WriteFile(written_ / "model.safetensors", file);
    }
  }
}

TEST_P(LanguageExportTest, VerifyStopsWhereProgressSaysSo) {
  const auto checkpoint = testing::MakeLanguageModel(source_, nlohmann::json::object(), {});
  const auto model = BuildLanguageModel(*checkpoint, {});
  ASSERT_THAT(model, IsOk());
  auto out = LanguageExport::Create(GetParam().format, *checkpoint, *model, written_.path(), {.group_size = 32});
  ASSERT_THAT(out, IsOk());
  ASSERT_THAT((*out)->Add(RandomLayers(*model)), IsOk());
  ASSERT_THAT((*out)->Finish(), IsOk());
  const weight_only::ThreadScope scope(2);
  int calls = 0;
  const ProgressFn cancel = [&](double, std::string_view) {
    ++calls;
    return absl::CancelledError("enough");
  };
  EXPECT_THAT((*out)->Verify(cancel), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_LE(calls, 2) << "one per thread, of 14 layers";
}

INSTANTIATE_TEST_SUITE_P(Formats, LanguageExportTest,
                         ::testing::Values(Case{CheckpointFormat::kCompressedTensors, ".weight_packed"},
                                           Case{CheckpointFormat::kCompressedTensors, ".weight_scale"},
                                           Case{CheckpointFormat::kGptqV2, ".qweight"},
                                           Case{CheckpointFormat::kGptqV2, ".qzeros"},
                                           Case{CheckpointFormat::kAwq, ".qweight"},
                                           Case{CheckpointFormat::kBitsandbytes, ".weight"},
                                           Case{CheckpointFormat::kBitsandbytes, ".weight.absmax"}));

}  // namespace
}  // namespace quant

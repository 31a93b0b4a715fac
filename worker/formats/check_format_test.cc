// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "absl/status/status_matchers.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using F = CheckpointFormat;

absl::Status Check(F format, const WeightSpec& spec, int64_t rows, int64_t cols) {
  return CheckFormat(format, spec, rows, cols);
}

constexpr auto kBad = absl::StatusCode::kInvalidArgument;

// Hidden size 64, intermediate size 172: what no common group size divides (issue 3).
TEST(CheckFormat, HiddenSize64AndIntermediate172) {
  // 64 inputs fit wherever 32 and 64 do; a recipe of 128 is one group per row but in awq.
  for (const F f : {F::kGptq, F::kGptqV2, F::kAwq, F::kCompressedTensors, F::kGguf, F::kOnnx}) {
    for (const int64_t g : {16, 32, 64}) {
      EXPECT_THAT(Check(f, {.group_size = g}, 64, 64), IsOk()) << CheckpointFormatName(f) << g;
    }
  }
  EXPECT_THAT(Check(F::kGptq, {.group_size = 128}, 64, 64), IsOk());
  EXPECT_THAT(
      Check(F::kAwq, {.group_size = 128}, 64, 64),
      StatusIs(kBad, HasSubstr("group size 128 exceeds the 64 inputs, and all layers have one group size; group "
                               "sizes that fit: 8, 16, 32, 64")));
  // 172 = 4 * 43.
  EXPECT_THAT(Check(F::kGptq, {.group_size = 32}, 64, 172),
              StatusIs(kBad, HasSubstr("inputs come in multiples of 32, not 172; no group size fits")));
  EXPECT_THAT(
      Check(F::kGptq, {.group_size = 32}, 172, 64),
      StatusIs(kBad, HasSubstr("outputs come in multiples of 32, not 172; no group size fits; formats that hold "
                               "such a layer: compressed-tensors, gguf, onnx")));
  EXPECT_THAT(Check(F::kAwq, {.group_size = 32}, 64, 172),
              StatusIs(kBad, HasSubstr("group size 32 does not divide 172 inputs; group sizes that fit: 43, 86, 172")));
  EXPECT_THAT(Check(F::kAwq, {.group_size = 32}, 172, 64), StatusIs(kBad, HasSubstr("multiples of 8, not 172")));
  EXPECT_THAT(Check(F::kCompressedTensors, {.group_size = 32}, 64, 172),
              StatusIs(kBad, HasSubstr("group sizes that fit: -1, 43, 86, 172")));
  for (const int64_t g : {int64_t{-1}, int64_t{43}, int64_t{86}, int64_t{172}, int64_t{256}}) {
    EXPECT_THAT(Check(F::kCompressedTensors, {.group_size = g}, 172, 172), IsOk()) << g;
  }
  EXPECT_THAT(Check(F::kBitsandbytes, {.codebook = true, .group_size = 64}, 172, 172), IsOk());
  for (const F f : {F::kGguf, F::kOnnx}) EXPECT_THAT(Check(f, {.group_size = 32}, 172, 172), IsOk());
}

TEST(CheckFormat, NamesTheLimitOfEachFormat) {
  const WeightSpec nf4 = {.codebook = true, .group_size = 64};
  EXPECT_THAT(Check(F::kGptq, nf4, 64, 64), StatusIs(kBad, HasSubstr("no codebooks")));
  EXPECT_THAT(Check(F::kGptq, {.bits = 5}, 64, 128), StatusIs(kBad, HasSubstr("2, 3, 4 and 8 bits, not 5")));
  EXPECT_THAT(Check(F::kGptq, {.float_zeros = true}, 64, 128), StatusIs(kBad, HasSubstr("integers")));
  EXPECT_THAT(Check(F::kGptq, {.dynamic_order = true}, 64, 128), IsOk());
  EXPECT_THAT(Check(F::kGptq, {.group_size = 96}, 64, 128), StatusIs(kBad, HasSubstr("does not divide 128")));
  EXPECT_THAT(Check(F::kAwq, {.bits = 3}, 64, 128), StatusIs(kBad, HasSubstr("4 bits only, not 3")));
  EXPECT_THAT(Check(F::kAwq, {.dynamic_order = true}, 64, 128), StatusIs(kBad, HasSubstr("static groups")));
  EXPECT_THAT(Check(F::kAwq, {.group_size = -1}, 64, 128),
              StatusIs(kBad, HasSubstr("no group size -1; group sizes that fit: 8, 16, 32, 64, 128")));
  EXPECT_THAT(Check(F::kBitsandbytes, {.bits = 4}, 64, 128), StatusIs(kBad, HasSubstr("no integer grid of 4 bits")));
  EXPECT_THAT(Check(F::kBitsandbytes, {.bits = 8, .group_size = 128}, 64, 256),
              StatusIs(kBad, HasSubstr("one scale per row (group size -1); group sizes that fit: -1, 256")));
  EXPECT_THAT(Check(F::kBitsandbytes, {.codebook = true, .group_size = 48}, 64, 256),
              StatusIs(kBad, HasSubstr("not 48; group sizes that fit: 32, 64, 128, 256, 512, 1024, 2048, 4096")));
  EXPECT_THAT(Check(F::kCompressedTensors, {.bits = 3}, 64, 128), StatusIs(kBad, HasSubstr("4 and 8 bits, not 3")));
  EXPECT_THAT(Check(F::kCompressedTensors, nf4, 64, 128),
              StatusIs(kBad, HasSubstr("formats that hold such a layer: bitsandbytes, gguf, onnx")));
  EXPECT_THAT(Check(F::kGptq, {.group_size = 0}, 64, 128), StatusIs(kBad));
  EXPECT_THAT(Check(F::kGptq, {}, 0, 128), StatusIs(kBad));
}

TEST(CheckFormat, NamesAreParsed) {
  for (const F f : {F::kGptq, F::kGptqV2, F::kAwq, F::kBitsandbytes, F::kCompressedTensors, F::kGguf, F::kOnnx}) {
    EXPECT_THAT(ParseCheckpointFormat(CheckpointFormatName(f)), absl_testing::IsOkAndHolds(f));
  }
  EXPECT_THAT(ParseCheckpointFormat("exl2"), StatusIs(kBad, HasSubstr("gptq, gptq_v2, awq")));
}

}  // namespace
}  // namespace quant

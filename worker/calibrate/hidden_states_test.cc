// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/hidden_states.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "gtest/gtest.h"

namespace quant {
namespace {

Tensor Ramp(int64_t tokens, int64_t width, float first) {
  std::vector<float> values;
  values.reserve(static_cast<size_t>(tokens * width));
  for (int64_t i = 0; i < tokens * width; ++i) values.push_back(first + 0.37f * static_cast<float>(i));
  return Tensor::Of<float>({1, tokens, width}, values);
}

class HiddenStatesTest : public ::testing::TestWithParam<int64_t> {};

// In memory and spilled: every sample comes back as it was, up to bfloat16.
TEST_P(HiddenStatesTest, SamplesComeBackRoundedToBfloat16) {
  absl::StatusOr<HiddenStates> h = HiddenStates::Create({3, 1, 700}, 5, GetParam(), ::testing::TempDir());
  ASSERT_TRUE(h.ok()) << h.status();
  EXPECT_EQ(h->spilled(), GetParam() == 0);
  for (size_t s = 0; s < 3; ++s) {
    ASSERT_TRUE(h->Write(s, Ramp(h->tokens(s), 5, static_cast<float>(s))).ok());
  }
  for (int round = 0; round < 2; ++round) {  // reading gives pages back to the disk: the second read finds them again
    for (size_t s = 0; s < 3; ++s) {
      const absl::StatusOr<Tensor> back = h->Read(s);
      ASSERT_TRUE(back.ok());
      const Tensor want = Ramp(h->tokens(s), 5, static_cast<float>(s));
      ASSERT_EQ(back->shape(), want.shape());
      for (int64_t i = 0; i < want.elements(); ++i) {
        const float w = want.data<float>()[static_cast<size_t>(i)];
        // bfloat16 has 8 significant bits: half a unit in the last place is at most 2^-8 of the value.
        ASSERT_NEAR(back->data<float>()[static_cast<size_t>(i)], w, std::fabs(w) / 256) << s << " " << i;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(MemoryAndFile, HiddenStatesTest, ::testing::Values(int64_t{1} << 20, int64_t{0}));

TEST(HiddenStates, NamesTheTokenThatIsNotFinite) {
  absl::StatusOr<HiddenStates> h = HiddenStates::Create({2}, 2, 1 << 20, ::testing::TempDir());
  ASSERT_TRUE(h.ok());
  const std::vector<float> values = {1, 2, 3, std::numeric_limits<float>::infinity()};
  const absl::Status s = h->Write(0, Tensor::Of<float>({1, 2, 2}, values));
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(s.message().find("token 1, channel 1"), std::string::npos) << s;
  EXPECT_FALSE(h->Write(0, Ramp(1, 2, 0)).ok());
}

TEST(HiddenStates, SaysWhereThereIsNoRoom) {
  const absl::StatusOr<HiddenStates> h = HiddenStates::Create({int64_t{1} << 40}, 4096, 0, "/nonexistent");
  EXPECT_FALSE(h.ok());
}

}  // namespace
}  // namespace quant

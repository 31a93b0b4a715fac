// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/sha256_state.h"

#include <gtest/gtest.h>

#include "common/digest.h"

namespace quant {
namespace {

TEST(ResumableSha256Test, TakenUpAtEveryByteItGivesTheSameDigest) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += static_cast<char>(i * 7);
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    ResumableSha256 first;
    first.Update(std::string_view(text).substr(0, cut));
    auto second = ResumableSha256::Restore(first.Save(), static_cast<int64_t>(cut));
    ASSERT_TRUE(second.has_value()) << cut;
    EXPECT_EQ(second->Hex(), Sha256Hex(text.substr(0, cut)));
    second->Update(std::string_view(text).substr(cut));
    EXPECT_EQ(second->Hex(), Sha256Hex(text)) << cut;
  }
}

TEST(ResumableSha256Test, CountsBitsBeyondFourGibibytes) {
  // The state after 2^32 zero bytes, made by hand: H does not matter for the length in the padding, so two lengths with
  // the same H must differ.
  ResumableSha256 empty;
  const std::string state = empty.Save();
  const int64_t big = int64_t{1} << 32;
  EXPECT_NE(ResumableSha256::Restore(state, big)->Hex(), ResumableSha256::Restore(state, 0)->Hex());
  EXPECT_NE(ResumableSha256::Restore(state, big)->Hex(), ResumableSha256::Restore(state, 2 * big)->Hex());
}

TEST(ResumableSha256Test, RefusesWhatIsNoStateOfSoManyBytes) {
  ResumableSha256 hash;
  hash.Update("abc");
  const std::string state = hash.Save();
  EXPECT_FALSE(ResumableSha256::Restore(state, 2).has_value());
  EXPECT_FALSE(ResumableSha256::Restore(state, -61).has_value());
  EXPECT_FALSE(ResumableSha256::Restore("", 0).has_value());
  EXPECT_FALSE(ResumableSha256::Restore(std::string(70, 'g'), 3).has_value());
  EXPECT_TRUE(ResumableSha256::Restore(state, 3).has_value());
}

}  // namespace
}  // namespace quant

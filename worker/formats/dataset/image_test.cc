// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/image.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/dataset/image_testing.h"

namespace quant {
namespace {

using ::quant::testing::EncodeJpeg;
using ::quant::testing::EncodePng;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& s) { return std::as_bytes(std::span<const char>(s)); }

Image Gray(int height, int width, std::vector<uint8_t> pixels) {
  return {.height = height, .width = width, .channels = 1, .pixels = std::move(pixels)};
}

// Left half red, right half blue: colours and places that cannot be confused.
Image RedBlue(int height, int width) {
  Image image{.height = height, .width = width, .channels = 3};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const bool left = x < width / 2;
      for (const int v : {left ? 255 : 0, 0, left ? 0 : 255}) image.pixels.push_back(static_cast<uint8_t>(v));
    }
  }
  return image;
}

TEST(DecodeImage, PngIsExactAndJpegIsClose) {
  const Image image = RedBlue(16, 32);
  const absl::StatusOr<Image> png = DecodeImage(Bytes(EncodePng(image)));
  ASSERT_TRUE(png.ok()) << png.status();
  EXPECT_EQ(png->height, 16);
  EXPECT_EQ(png->width, 32);
  EXPECT_EQ(png->pixels, image.pixels);
  const absl::StatusOr<Image> jpeg = DecodeImage(Bytes(EncodeJpeg(image)));
  ASSERT_TRUE(jpeg.ok()) << jpeg.status();
  ASSERT_EQ(jpeg->pixels.size(), image.pixels.size());
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    const size_t x = i / 3 % 32;
    if (x >= 13 && x <= 18) continue;  // colours are stored at half the resolution and blend at the edge
    EXPECT_NEAR(jpeg->pixels[i], image.pixels[i], 6) << i;
  }
}

TEST(DecodeImage, GrayBecomesThreeEqualChannels) {
  const Image gray = Gray(1, 3, {0, 100, 255});
  for (const std::string& file : {EncodePng(gray), EncodeJpeg(gray)}) {
    const absl::StatusOr<Image> image = DecodeImage(Bytes(file));
    ASSERT_TRUE(image.ok()) << image.status();
    ASSERT_EQ(image->channels, 3);
    EXPECT_EQ(image->pixels[3], image->pixels[5]);
    EXPECT_NEAR(image->pixels[3], 100, 3);
    EXPECT_NEAR(ToGray(*image).pixels[1], 100, 3);
  }
}

TEST(DecodeImage, EveryTruncationIsAnErrorAndNothingWorse) {
  // libjpeg would fill what is missing with gray and only warn.
  for (const std::string& file : {EncodePng(RedBlue(16, 16)), EncodeJpeg(RedBlue(16, 16))}) {
    for (size_t n = 0; n + 2 < file.size(); ++n) {
      const absl::Status s = DecodeImage(Bytes(file.substr(0, n))).status();
      EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << n << " of " << file.size();
    }
  }
}

TEST(DecodeImage, DamageNeverCrashes) {
  for (const std::string& file : {EncodePng(RedBlue(16, 16)), EncodeJpeg(RedBlue(16, 16))}) {
    for (size_t i = 0; i < file.size(); ++i) {
      for (const int flip : {0x01, 0x80, 0xff}) {
        std::string bad = file;
        bad[i] = static_cast<char>(bad[i] ^ flip);
        const absl::StatusOr<Image> image = DecodeImage(Bytes(bad));
        if (!image.ok()) continue;
        EXPECT_EQ(image->pixels.size(), static_cast<size_t>(image->height) * static_cast<size_t>(image->width) * 3);
      }
    }
  }
}

TEST(DecodeImage, RefusesHugeImagesBeforeDecodingAndOtherFormats) {
  std::string png = EncodePng(RedBlue(2, 2));
  testing::SetPngSize(png, 1 << 19, 1 << 19);
  const absl::Status s = DecodeImage(Bytes(png)).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.message()), HasSubstr("524288x524288"));
  EXPECT_THAT(std::string(DecodeImage(Bytes("GIF89a")).status().message()), HasSubstr("neither"));
  EXPECT_FALSE(DecodeImage({}).ok());
}

TEST(Resize, HalvingAveragesWithATriangleOverFourPixels) {
  // Weights of the triangle of support 2 at distances 1.5, 0.5, 0.5, 1.5: 1, 3, 3, 1 eighths; at the edge 3, 3, 1
  // sevenths. In: 0 0 80 160 -> (0*3 + 0*3 + 80*1) / 7 = 11.4, (0*1 + 80*3 + 160*3) / 7 = 102.9.
  EXPECT_THAT(Resize(Gray(1, 4, {0, 0, 80, 160}), 1, 2).pixels, ElementsAre(11, 103));
  EXPECT_THAT(Resize(Gray(4, 1, {0, 0, 80, 160}), 2, 1).pixels, ElementsAre(11, 103));
}

TEST(Resize, DoublingInterpolatesAndKeepsConstants) {
  // Centres of the new pixels at -0.25, 0.25, 0.75, 1.25 of the old ones.
  EXPECT_THAT(Resize(Gray(1, 2, {0, 100}), 1, 4).pixels, ElementsAre(0, 25, 75, 100));
  const Image same = Resize(Gray(7, 5, std::vector<uint8_t>(35, 255)), 3, 11);
  for (const uint8_t p : same.pixels) EXPECT_EQ(p, 255);
  EXPECT_EQ(same.pixels.size(), 33u);
}

TEST(Resize, ShorterSideRoundsTheLongerDown) {
  const Image image = Gray(333, 500, {});
  EXPECT_EQ(SizeForShorterSide(image, 256), (std::pair<int64_t, int64_t>(256, 384)));
  EXPECT_EQ(SizeForShorterSide(Gray(500, 333, {}), 256), (std::pair<int64_t, int64_t>(384, 256)));
}

TEST(CenterCrop, TakesTheMiddleRoundingHalfToEven) {
  const Image image = Gray(1, 5, {0, 1, 2, 3, 4});
  EXPECT_THAT(CenterCrop(image, 1, 3)->pixels, ElementsAre(1, 2, 3));
  EXPECT_THAT(CenterCrop(image, 1, 2)->pixels, ElementsAre(2, 3));        // 1.5 -> 2
  EXPECT_THAT(CenterCrop(image, 1, 4)->pixels, ElementsAre(0, 1, 2, 3));  // 0.5 -> 0
  EXPECT_EQ(CenterCrop(image, 2, 2).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quant

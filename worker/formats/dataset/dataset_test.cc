// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/dataset.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/dataset/image_testing.h"
#include "worker/formats/npy/npy_testing.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::quant::testing::EncodeJpeg;
using ::quant::testing::EncodeNpy;
using ::quant::testing::EncodePng;
using ::quant::testing::EncodeZip;
using ::quant::testing::TempDir;
using ::quant::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// An input; -1 is a dynamic dimension.
ValueInfo In(std::string name, std::vector<int64_t> shape, DType dtype = DType::kFloat32) {
  ValueInfo v{.name = std::move(name), .dtype = dtype, .has_shape = true};
  for (const int64_t d : shape) v.shape.push_back(d < 0 ? Dim{.symbol = "n"} : Dim{.value = d});
  return v;
}

Tensor F(Shape shape, const std::vector<float>& v) { return Tensor::Of<float>(std::move(shape), v); }

absl::StatusOr<std::unique_ptr<Dataset>> Open(const TempDir& dir, std::vector<ValueInfo> inputs) {
  return OpenDataset(dir.path(), inputs);
}

void ExpectRefused(const TempDir& dir, std::vector<ValueInfo> inputs, const std::string& says) {
  const absl::Status s = Open(dir, std::move(inputs)).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.message()), HasSubstr(says));
}

TEST(Dataset, AnyOneArrayServesAModelOfOneInputAndLabelsStandAside) {
  const TempDir dir;
  WriteFile(dir / "whatever.npy", EncodeNpy(F({3, 2}, {1, 2, 3, 4, 5, 6})));
  WriteFile(dir / "labels.npy", EncodeNpy(Tensor::Of<int64_t>({3}, {7, 8, 9})));
  const auto d = Open(dir, {In("x", {1, 2})});  // the model's own batch of 1 does not limit the samples
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_EQ((*d)->size(), 3);
  EXPECT_THAT((*d)->labels(), ElementsAre(7, 8, 9));
  const auto batch = (*d)->Read(1, 2);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT((*batch)[0].shape(), ElementsAre(2, 2));
  EXPECT_THAT(*ToFloat((*batch)[0]), ElementsAre(3, 4, 5, 6));
  EXPECT_EQ((*d)->Read(2, 2).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*d)->Read(-1, 1).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(Dataset, ArraysOfSeveralInputsComeByNameFromAnyOfTheFormatsInGraphOrder) {
  const TempDir dir;
  WriteFile(dir / "data.npz", EncodeZip({{"b.npy", EncodeNpy(F({2, 1}, {1, 2}))},
                                         {"labels.npy", EncodeNpy(Tensor::Of<int64_t>({2}, {0, 1}))}},
                                        true, true));
  WriteFile(dir / "a.npy", EncodeNpy(Tensor::Of<int32_t>({2}, std::vector<int32_t>{5, 6})));
  const auto d = Open(dir, {In("b", {-1, 1}), In("a", {-1}, DType::kInt64)});
  ASSERT_TRUE(d.ok()) << d.status();
  const auto batch = (*d)->Read(0, 2);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(*ToFloat((*batch)[0]), ElementsAre(1, 2));
  EXPECT_EQ((*batch)[1].dtype(), DType::kInt64);
  EXPECT_THAT(*ToInt64((*batch)[1]), ElementsAre(5, 6));
  EXPECT_THAT((*d)->labels(), ElementsAre(0, 1));
  ExpectRefused(dir, {In("b", {-1, 1}), In("c", {-1})}, "no array for input \"c\"");
}

TEST(Dataset, MisfitsNameFileValueAndWhatIsWanted) {
  const TempDir dir;
  WriteFile(dir / "x.npy", EncodeNpy(F({2, 3}, std::vector<float>(6))));
  ExpectRefused(dir, {In("x", {-1, 4})}, "axis 1 is 3, the model wants 4");
  ExpectRefused(dir, {In("x", {-1, 3, 1})}, "must have 3 axes");
  ExpectRefused(dir, {In("x", {-1, 3}, DType::kInt64)}, "wants integers");
  EXPECT_TRUE(Open(dir, {In("x", {-1, -1}, DType::kFloat16)}).ok());
  WriteFile(dir / "labels.npy", EncodeNpy(Tensor::Of<int64_t>({3}, {1, 2, 3})));
  ExpectRefused(dir, {In("x", {-1, 3})}, "3 labels for 2 samples");
  WriteFile(dir / "labels.npy", EncodeNpy(Tensor::Of<int64_t>({2}, {1, -2})));
  ExpectRefused(dir, {In("x", {-1, 3})}, "negative");
  WriteFile(dir / "labels.npy", EncodeNpy(F({2}, {1, 2})));
  ExpectRefused(dir, {In("x", {-1, 3})}, "one integer per sample");
}

TEST(Dataset, ArraysOfDifferentLengthsAndEmptyOnesAreRefused) {
  const TempDir dir;
  WriteFile(dir / "a.npy", EncodeNpy(F({2}, {1, 2})));
  WriteFile(dir / "b.npy", EncodeNpy(F({3}, {1, 2, 3})));
  ExpectRefused(dir, {In("a", {-1}), In("b", {-1})}, "has 3 samples");
  ExpectRefused(dir, {In("c", {-1})}, "there are \"a\", \"b\"");
  const TempDir empty;
  ExpectRefused(empty, {In("a", {-1})}, "no .npy");
  WriteFile(empty / "a.npy", EncodeNpy(F({0, 2}, {})));
  ExpectRefused(empty, {In("a", {-1, 2})}, "no samples");
  WriteFile(empty / "a.npy", "not an array");
  ExpectRefused(empty, {In("a", {-1, 2})}, "\"a.npy\"");
}

TEST(Dataset, NanInfiniteAndOverflowNameSampleAndInput) {
  const TempDir dir;
  WriteFile(dir / "x.npy", EncodeNpy(F({3, 2}, {1, 2, 3, 70000, 5, std::nanf("")})));
  const auto d = Open(dir, {In("x", {-1, 2})});
  ASSERT_TRUE(d.ok());
  EXPECT_TRUE((*d)->Read(0, 2).ok());
  const absl::Status s = (*d)->Read(1, 2).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.message()), HasSubstr("sample 2 of input \"x\" holds NaN"));
  const auto half = Open(dir, {In("x", {-1, 2}, DType::kFloat16)});
  EXPECT_THAT(std::string((*half)->Read(0, 2).status().message()),
              HasSubstr("sample 1 of input \"x\" holds an infinite value (as float16)"));

  const TempDir ints;
  WriteFile(ints / "x.npy", EncodeNpy(Tensor::Of<int64_t>({2}, {1, int64_t{1} << 40})));
  const auto narrow = Open(ints, {In("x", {-1}, DType::kInt32)});
  EXPECT_THAT(std::string((*narrow)->Read(0, 2).status().message()), HasSubstr("sample 1"));
}

// ---- images with preprocess.json

const char kSpec[] = R"({"array": "images.npy", "layout": "NHWC", "channels": "RGB", "output_layout": "NCHW", )";

TEST(ImageArrays, ScaleMeanAndStdApplyPerChannelOfTheOutput) {
  const TempDir dir;
  WriteFile(dir / "images.npy",
            EncodeNpy(Tensor::Of<uint8_t>({1, 1, 2, 3}, std::vector<uint8_t>{10, 20, 30, 40, 50, 60})));
  WriteFile(dir / "preprocess.json",
            std::string(kSpec) + R"("output_channels": "BGR", "scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]})");
  const auto d = Open(dir, {In("x", {-1, 3, 1, 2})});
  ASSERT_TRUE(d.ok()) << d.status();
  const auto batch = (*d)->Read(0, 1);
  ASSERT_TRUE(batch.ok()) << batch.status();
  // Blue first: (30 / 2 - 1) / 1, (60 / 2 - 1) / 1; green (10 - 2) / 2, (25 - 2) / 2; red (5 - 3) / 4, (20 - 3) / 4.
  EXPECT_THAT(*ToFloat((*batch)[0]), ElementsAre(14, 29, 4, 11.5, 0.5, 4.25));
}

TEST(ImageArrays, LayoutsAreConvertedBothWays) {
  const TempDir dir;
  WriteFile(dir / "images.npy", EncodeNpy(Tensor::Of<uint8_t>({1, 2, 1, 2}, std::vector<uint8_t>{1, 2, 3, 4})));
  WriteFile(dir / "preprocess.json", R"({"layout": "NCHW", "output_layout": "NHWC"})");
  const auto d = Open(dir, {In("x", {-1, 1, 2, 2})});
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_THAT(*ToFloat((*(*d)->Read(0, 1))[0]), ElementsAre(1, 3, 2, 4));
}

TEST(ImageArrays, AWrongSizeNamesBothAndTheRemedyAndTheRemedyWorks) {
  const TempDir dir;
  WriteFile(dir / "images.npy", EncodeNpy(Tensor::Of<uint8_t>({1, 4, 6, 1}, std::vector<uint8_t>(24, 9))));
  WriteFile(dir / "preprocess.json", R"({"scale": 1})");
  ExpectRefused(dir, {In("x", {-1, 1, 2, 2})}, "6x4 pixels, the model wants 2x2; set \"resize\" and \"crop\"");
  WriteFile(dir / "preprocess.json", R"({"resize": 3, "crop": 2})");
  const auto d = Open(dir, {In("x", {-1, 1, 2, 2})});
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_THAT(*ToFloat((*(*d)->Read(0, 1))[0]), ElementsAre(9, 9, 9, 9));
}

TEST(ImageArrays, MistakesInPreprocessJsonAreNamed) {
  const TempDir dir;
  WriteFile(dir / "images.npy", EncodeNpy(Tensor::Of<uint8_t>({1, 1, 1, 3}, std::vector<uint8_t>{1, 2, 3})));
  const struct {
    const char* json;
    const char* says;
  } cases[] = {
      {"[1]", "not a JSON object"},
      {"{\"mean\": [1, 2]}", "mean has 2"},
      {"{\"std\": 0}", "\"std\" must be over 0"},
      {"{\"means\": [1]}", "unknown key \"means\""},
      {"{\"scale\": \"1\"}", "\"scale\" must be"},
      {"{\"scale\": 1e999}", "not a JSON object"},
      {"{\"layout\": \"HWC\"}", "NHWC, NCHW"},
      {"{\"channels\": \"GRAY\"}", "do not fit"},
      {"{\"crop\": 0}", "\"crop\" must be"},
      {"{\"resize\": [1, 2, 3]}", "\"resize\" must be"},
      {"{\"resize\": 100000}", "\"resize\" must be"},
      {"{\"crop\": 50}", "smaller than the crop"},
      {"{\"array\": \"../secret.npy\"}", "there are \"images\""},
  };
  for (const auto& c : cases) {
    WriteFile(dir / "preprocess.json", c.json);
    ExpectRefused(dir, {In("x", {-1, 3, 1, 1})}, c.says);
  }
  WriteFile(dir / "preprocess.json", "{}");
  ExpectRefused(dir, {In("x", {-1, 3, 1, 1}), In("y", {-1})}, "one input");
  WriteFile(dir / "images.npy", EncodeNpy(F({1, 1, 1, 3}, {1, 2, 3})));
  ExpectRefused(dir, {In("x", {-1, 3, 1, 1})}, "uint8 images");
  WriteFile(dir / "images.npy", EncodeNpy(Tensor::Of<uint8_t>({0, 1, 1, 3}, std::vector<uint8_t>())));
  ExpectRefused(dir, {In("x", {-1, 3, 1, 1})}, "no images");
}

TEST(ImageArrays, RealSetsOpenWithTheModelsTheyAreFor) {
  const std::filesystem::path cifar = testing::SharedData("datasets/cifar10");
  QUANT_SKIP_WITHOUT(cifar);
  const std::vector<ValueInfo> input = {In("input", {-1, 3, 32, 32})};
  const auto d = OpenDataset(cifar, input);
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_EQ((*d)->size(), 5000);
  EXPECT_EQ((*d)->labels().size(), 5000u);
  const auto batch = (*d)->Read(4990, 10);
  ASSERT_TRUE(batch.ok()) << batch.status();
  const std::vector<float> values = *ToFloat((*batch)[0]);
  for (const float v : values) ASSERT_LT(std::abs(v), 2.7f);  // (1 - 0.406) / 0.225
  const std::filesystem::path mnist = testing::SharedData("datasets/mnist-t10k");
  const std::vector<ValueInfo> digits = {In("Input3", {1, 1, 28, 28})};
  const auto m = OpenDataset(mnist, digits);
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ((*m)->size(), 10000);
}

// ---- image folders

Image Solid(int height, int width, int r, int g, int b) {
  Image image{.height = height, .width = width, .channels = 3};
  for (int i = 0; i < height * width; ++i) {
    for (const int v : {r, g, b}) image.pixels.push_back(static_cast<uint8_t>(v));
  }
  return image;
}

TEST(ImageFolders, SubFoldersAreClassesTakenInTurn) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "cat");
  std::filesystem::create_directory(dir / "dog");
  WriteFile(dir / "cat/2.png", EncodePng(Solid(4, 6, 20, 0, 0)));
  WriteFile(dir / "cat/1.png", EncodePng(Solid(6, 4, 10, 0, 0)));
  WriteFile(dir / "dog/1.JPG", EncodeJpeg(Solid(8, 8, 200, 200, 200)));
  WriteFile(dir / "dog/notes.txt", "not an image");
  WriteFile(dir / "preprocess.json", R"({"resize": 4, "crop": 4})");
  const auto d = Open(dir, {In("x", {-1, 3, 4, 4})});
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_THAT((*d)->labels(), ElementsAre(0, 1, 0));
  const auto batch = (*d)->Read(0, 3);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT((*batch)[0].shape(), ElementsAre(3, 3, 4, 4));
  const std::vector<float> v = *ToFloat((*batch)[0]);
  EXPECT_EQ(v[0], 10);
  EXPECT_NEAR(v[48], 200, 2);
  EXPECT_EQ(v[96], 20);
}

TEST(ImageFolders, LabelFilesGiveLabelsByNameAndMustBeComplete) {
  const TempDir dir;
  for (const char* name : {"a.png", "b c.png"}) WriteFile(dir / name, EncodePng(Solid(2, 2, 1, 2, 3)));
  WriteFile(dir / "preprocess.json", "{}");
  const std::vector<ValueInfo> inputs = {In("x", {-1, 3, 2, 2})};
  ASSERT_TRUE(Open(dir, inputs).ok());
  EXPECT_TRUE((*Open(dir, inputs))->labels().empty());
  WriteFile(dir / "labels.txt", "b c.png 4\n\na.png\t3\r\n");
  EXPECT_THAT((*Open(dir, inputs))->labels(), ElementsAre(3, 4));
  WriteFile(dir / "labels.json", R"({"a.png": 1, "b c.png": 2})");
  EXPECT_THAT((*Open(dir, inputs))->labels(), ElementsAre(1, 2));
  WriteFile(dir / "labels.json", R"({"a.png": 1})");
  ExpectRefused(dir, inputs, "no label for image \"b c.png\"");
  WriteFile(dir / "labels.json", R"({"a.png": 1.5})");
  ExpectRefused(dir, inputs, "not an integer");
  std::filesystem::remove(dir / "labels.json");
  WriteFile(dir / "labels.txt", "a.png three\n");
  ExpectRefused(dir, inputs, "line 1");
}

TEST(ImageFolders, GrayModelsGetLuma) {
  const TempDir dir;
  WriteFile(dir / "a.png", EncodePng(Solid(2, 2, 255, 0, 0)));
  WriteFile(dir / "preprocess.json", "{}");
  const auto d = Open(dir, {In("x", {-1, 1, 2, 2})});
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_THAT(*ToFloat((*(*d)->Read(0, 1))[0]), ElementsAre(76, 76, 76, 76));
}

TEST(ImageFolders, DamageMixedSizesAndMissingPreprocessAreNamed) {
  const TempDir dir;
  WriteFile(dir / "a.png", EncodePng(Solid(2, 2, 1, 2, 3)));
  ExpectRefused(dir, {In("x", {-1, 3, -1, -1})}, "preprocess.json");
  WriteFile(dir / "preprocess.json", "{}");
  WriteFile(dir / "b.png", EncodePng(Solid(3, 3, 1, 2, 3)));
  WriteFile(dir / "c.png", "\x89PNG\r\n\x1a\n");
  const auto d = Open(dir, {In("x", {-1, 3, -1, -1})});
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_THAT(std::string((*d)->Read(0, 2).status().message()),
              HasSubstr("file \"b.png\" for input \"x\": it is 3x3, the one before 2x2"));
  EXPECT_THAT(std::string((*d)->Read(2, 1).status().message()), HasSubstr("damaged PNG"));
}

}  // namespace
}  // namespace quant

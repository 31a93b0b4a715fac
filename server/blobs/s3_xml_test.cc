// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_xml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(S3XmlTest, ReadsRecordsOfAListing) {
  const std::string xml =
      "<?xml version='1.0'?><ListBucketResult xmlns=\"x\"><Prefix/><KeyCount>2</KeyCount><Contents><Key>a&amp;b</Key>"
      "<ETag>&quot;1&quot;</ETag></Contents><Contents><Key>c&#x41;&#66;</Key></Contents></ListBucketResult>";
  const auto records = XmlElements(xml, "Contents");
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(XmlText(records[0], "Key"), "a&b");
  EXPECT_EQ(XmlText(records[0], "ETag"), "\"1\"");
  EXPECT_EQ(XmlText(records[1], "Key"), "cAB");
  EXPECT_EQ(XmlText(records[1], "ETag"), "");
  EXPECT_THAT(XmlElements(xml, "Prefix"), ElementsAre(""));
  EXPECT_EQ(XmlText(xml, "KeyCount"), "2");
}

TEST(S3XmlTest, BrokenTextGivesNothingAndDoesNotHang) {
  for (const char* xml : {"", "<", "<Key", "<Key>", "<Key>a", "<Key a='", "</Key>", "<KeyCount>1</KeyCount>"}) {
    EXPECT_THAT(XmlElements(xml, "Key"), IsEmpty()) << xml;
  }
  EXPECT_EQ(XmlText("<A>&bogus;&</A>", "A"), "&bogus;&");
}

TEST(S3XmlTest, EscapesWhatItReads) {
  const std::string text = "<a & \"b\" 'c'>";
  EXPECT_EQ(XmlText("<A>" + XmlEscape(text) + "</A>", "A"), text);
}

}  // namespace
}  // namespace quant

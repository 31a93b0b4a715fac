// SPDX-License-Identifier: Apache-2.0
#include "common/view/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "common/view/proto_fields.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using testing::HasSubstr;

absl::Status Read(const std::string& json, v1::Recipe& recipe) { return JsonToMessage(json, recipe); }

TEST(JsonTest, AJobIsWrittenAsScriptsExpectIt) {
  v1::Job job;
  job.set_id("j-1");
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.set_sequence(9'007'199'254'740'993);
  job.mutable_create_time()->set_seconds(1'000'000'000);
  job.mutable_create_time()->set_nanos(250'000'000);
  v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_attempt_timeout()->set_seconds(90);
  spec.mutable_attempt_timeout()->set_nanos(500'000'000);
  (*spec.mutable_labels())["b"] = "2";
  (*spec.mutable_labels())["a"] = "\"<é>\n";
  v1::Recipe& recipe = *spec.mutable_quantize()->mutable_recipe();
  recipe.mutable_gptq()->set_damping(0.01f);
  recipe.mutable_gptq()->set_descent_passes(0);
  EXPECT_EQ(MessageToJson(job), R"({
  "id": "j-1",
  "spec": {
    "quantize": {
      "model_id": "",
      "recipe": {
        "gptq": {
          "act_order": "UNSPECIFIED",
          "damping": 0.01,
          "block_size": 0,
          "descent_passes": 0
        },
        "rules": [],
        "format": "UNSPECIFIED",
        "seed": 0,
        "memory_bytes": 0
      },
      "calibration_dataset_id": "",
      "evaluation_dataset_id": "",
      "output_name": ""
    },
    "attempt_timeout": "90.5s",
    "max_attempts": 0,
    "priority": 0,
    "labels": {
      "a": "\"<é>\n",
      "b": "2"
    }
  },
  "state": "SUCCEEDED",
  "sequence": 9007199254740993,
  "attempt": 0,
  "worker_id": "",
  "create_time": "2001-09-09T01:46:40.25Z",
  "result_model_id": "",
  "cached_from": "",
  "attached_to": "",
  "traceparent": ""
})");
}

TEST(JsonTest, AReportKeepsTheNamesOfTheContract) {
  v1::Report report;
  report.mutable_size()->set_original_bytes(10);
  report.add_metrics()->set_name("top1");
  report.mutable_latency()->mutable_original()->set_mean_ms(0.5);
  report.mutable_throughput()->set_quantized(12);
  report.add_phases()->set_seconds(2);
  report.add_layers()->set_sqnr_db(std::numeric_limits<double>::infinity());
  report.mutable_provenance()->add_data_digests("d");
  const std::string json = MessageToJson(report);
  for (const char* name : {"size",
                           "original_bytes",
                           "quantized_bytes",
                           "bits_per_weight",
                           "metrics",
                           "name",
                           "original",
                           "quantized",
                           "delta",
                           "low",
                           "high",
                           "samples",
                           "latency",
                           "mean_ms",
                           "std_ms",
                           "p50_ms",
                           "p95_ms",
                           "p99_ms",
                           "throughput",
                           "peak_memory_bytes",
                           "phases",
                           "seconds",
                           "layers",
                           "op",
                           "method",
                           "bits",
                           "group_size",
                           "mse",
                           "mae",
                           "relative_error",
                           "sqnr_db",
                           "fallback",
                           "provenance",
                           "model_digest",
                           "data_digests",
                           "build",
                           "isa",
                           "seed"}) {
    EXPECT_THAT(json, HasSubstr(absl::StrCat("\"", name, "\":"))) << name;
  }
  EXPECT_THAT(json, HasSubstr("\"sqnr_db\": \"Infinity\""));
  EXPECT_THAT(json, HasSubstr("\"original_bytes\": 10"));
}

TEST(JsonTest, ListsAndExtras) {
  EXPECT_EQ(ListToJson({}), "{\n  \"items\": []\n}");
  EXPECT_EQ(ListToJson({StringsToJson({{"id", "a"}}), "{}"}),
            "{\n  \"items\": [\n    {\n      \"id\": \"a\"\n    },\n    {}\n  ]\n}");
  v1::Digest digest;
  EXPECT_EQ(MessageToJson(digest, {{"id", "x"}}), "{\n  \"id\": \"x\",\n  \"sha256\": \"\",\n  \"size_bytes\": 0\n}");
}

TEST(JsonTest, TextThatIsNotUtf8BecomesReplacementCharacters) {
  EXPECT_EQ(StringsToJson({{"id", "a\xff"}}), "{\n  \"id\": \"a\xEF\xBF\xBD\"\n}");
}

TEST(JsonTest, ReadsItsOwnFormAndProtoJson) {
  for (const char* json :
       {R"({"static_int8": {"activation_symmetry": "ASYMMETRIC", "op_types": ["Conv"], "skip_first": true},
            "calibration": {"observer": "PERCENTILE", "percentile": 99.9, "samples": 256}, "seed": 7,
            "rules": [{"name": "a*", "skip": true}]})",
        R"({"staticInt8": {"activationSymmetry": "SYMMETRY_ASYMMETRIC", "opTypes": ["Conv"], "skipFirst": true},
            "calibration": {"observer": "OBSERVER_PERCENTILE", "percentile": 99.9, "samples": "256"}, "seed": "7",
            "rules": [{"name": "a*", "skip": true}], "evaluation": null})"}) {
    v1::Recipe recipe;
    ASSERT_THAT(Read(json, recipe), IsOk()) << json;
    EXPECT_EQ(recipe.static_int8().activation_symmetry(), v1::SYMMETRY_ASYMMETRIC);
    EXPECT_EQ(recipe.static_int8().op_types(0), "Conv");
    EXPECT_TRUE(recipe.static_int8().skip_first());
    EXPECT_EQ(recipe.calibration().observer(), v1::OBSERVER_PERCENTILE);
    EXPECT_EQ(recipe.calibration().percentile(), 99.9);
    EXPECT_EQ(recipe.calibration().samples(), 256);
    EXPECT_EQ(recipe.seed(), 7u);
    EXPECT_EQ(recipe.rules(0).name(), "a*");
    EXPECT_FALSE(recipe.has_evaluation());
  }
}

TEST(JsonTest, WhatIsWrittenReadsBackTheSame) {
  v1::Recipe recipe, again;
  recipe.mutable_mixed()->add_candidates()->mutable_awq()->set_clip_search(false);
  recipe.mutable_mixed()->add_candidates()->mutable_half()->set_type(v1::HALF_TYPE_BF16);
  recipe.mutable_mixed()->set_max_drop(0.1f);
  recipe.add_rules()->mutable_grid()->set_group_size(-1);
  recipe.set_seed(std::numeric_limits<uint64_t>::max());
  recipe.set_format(v1::EXPORT_FORMAT_GGUF);
  ASSERT_THAT(Read(MessageToJson(recipe), again), IsOk());
  EXPECT_EQ(again.SerializeAsString(), recipe.SerializeAsString());
}

TEST(JsonTest, ErrorsNameTheMemberAndTheRemedy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"static_int8": {"activation_symetry": 1}})",
       "no member \"activation_symetry\" in static_int8; there are weight_g"},
      {R"({"static_int8": {"skip_first": 1}})", "static_int8.skip_first: expects true or false"},
      {R"({"calibration": {"observer": "BEST"}})", "min-max|moving-average"},
      {R"({"calibration": {"samples": 1.5}})", "calibration.samples"},
      {R"({"calibration": {"samples": 1e30}})", "calibration.samples"},
      {R"({"calibration": {"bins": 4294967296}})", "calibration.bins: bins is a whole number of 32 bits"},
      {R"({"calibration": []})", "calibration: expects an object"},
      {R"({"rules": {}})", "rules: expects a list"},
      {R"({"rules": [{"name": 3}]})", "rules[0].name: expects a string"},
      {R"({"rtn": {}, "gptq": {}})", "only one method is allowed"},
      {R"({"seed": 1, "seed": 2})", "\"seed\" appears twice"},
      {R"({"seed": -1})", "seed"},
      {R"([1])", "expects an object"},
      {R"({"seed": })", "not JSON"},
      {R"({"rules": [{"name": "\ud800"}]})", "not JSON"},
  };
  for (const auto& [json, message] : cases) {
    v1::Recipe recipe;
    EXPECT_THAT(Read(json, recipe), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message))) << json;
  }
}

TEST(JsonTest, DeepNestingIsRefusedNotRecursed) {
  std::string json = "{", tail = "}";
  for (int i = 0; i < 100; ++i) {
    json += R"("mixed":{"candidates":[{)";
    tail += "]}}";
  }
  v1::Recipe recipe;
  EXPECT_THAT(Read(json + tail, recipe), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Read("{\"rules\":" + std::string(100'000, '['), recipe), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ProtoFieldsTest, EnumsInEveryForm) {
  const auto& type = *v1::Observer_descriptor();
  for (const char* text : {"min-max", "MIN_MAX", "min_max", "OBSERVER_MIN_MAX"}) {
    const auto value = ParseEnum(type, text);
    ASSERT_THAT(value, IsOk()) << text;
    EXPECT_EQ((*value)->number(), v1::OBSERVER_MIN_MAX);
    EXPECT_EQ(EnumFlagName(**value), "min-max");
  }
  EXPECT_THAT(ParseEnum(type, "unspecified").status(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(ShortEnumName(type, 77), "77");
  EXPECT_EQ(ShortEnumName(*v1::HalfType_descriptor(), v1::HALF_TYPE_BF16), "BF16");
}

}  // namespace
}  // namespace quant

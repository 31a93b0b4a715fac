// SPDX-License-Identifier: Apache-2.0
#include "server/queue/spec_check.h"

#include <functional>
#include <limits>
#include <string>

#include "absl/status/status_matchers.h"
#include "common/error_detail.h"
#include "common/proto_time.h"
#include "common/view/method_name.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/queue/fake_artifact_catalog.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

v1::JobSpec StaticSpec() {
  v1::JobSpec spec;
  spec.mutable_quantize()->set_model_id("m-1");
  spec.mutable_quantize()->set_calibration_dataset_id("d-1");
  spec.mutable_quantize()->mutable_recipe()->mutable_static_int8();
  return spec;
}

TEST(CheckSpec, FillsDefaults) {
  v1::JobSpec spec = StaticSpec();
  ASSERT_THAT(CheckSpec(&spec), IsOk());
  EXPECT_EQ(FromProto(spec.attempt_timeout()), absl::Hours(6));
  EXPECT_EQ(spec.max_attempts(), 3);
  EXPECT_EQ(spec.priority(), 3);
}

TEST(CheckSpec, KeepsWhatIsSet) {
  v1::JobSpec spec = StaticSpec();
  SetProto(absl::Hours(7 * 24), spec.mutable_attempt_timeout());
  spec.set_max_attempts(10);
  spec.set_priority(5);
  const std::string before = spec.SerializeAsString();
  ASSERT_THAT(CheckSpec(&spec), IsOk());
  EXPECT_EQ(spec.SerializeAsString(), before);
}

TEST(CheckSpec, TakesDynamicWithoutDataAndABenchmark) {
  v1::JobSpec dynamic;
  dynamic.mutable_quantize()->set_model_id("m-1");
  dynamic.mutable_quantize()->mutable_recipe()->mutable_dynamic();
  EXPECT_THAT(CheckSpec(&dynamic), IsOk());
  v1::JobSpec benchmark;
  benchmark.mutable_benchmark()->set_model_id("m-1");
  benchmark.mutable_benchmark()->mutable_evaluation()->set_latency_runs(-1);
  EXPECT_THAT(CheckSpec(&benchmark), IsOk());
}

TEST(CheckSpec, TakesATuneJobWithAndWithoutCandidates) {
  v1::JobSpec spec;
  spec.mutable_tune()->set_model_id("m-1");
  spec.mutable_tune()->set_evaluation_dataset_id("d-1");
  spec.mutable_tune()->add_candidates()->mutable_dynamic();
  spec.mutable_tune()->set_max_drop(0);
  EXPECT_THAT(CheckSpec(&spec), IsOk());
  spec.mutable_tune()->clear_candidates();
  spec.mutable_tune()->set_calibration_dataset_id("d-1");
  EXPECT_THAT(CheckSpec(&spec), IsOk());
}

TEST(CheckSpec, TakesSkipRulesByGlobAndRegularExpression) {
  v1::JobSpec spec = StaticSpec();
  v1::Recipe* recipe = spec.mutable_quantize()->mutable_recipe();
  recipe->add_rules()->set_name("*");
  recipe->mutable_rules(0)->set_skip(true);
  recipe->add_rules()->set_name("re:^layer[1-3]\\..*");
  recipe->mutable_rules(1)->set_skip(false);
  recipe->set_format(v1::EXPORT_FORMAT_ONNX);
  EXPECT_THAT(CheckSpec(&spec), IsOk());
}

struct BadCase {
  std::string name;
  std::function<void(v1::JobSpec*)> spoil;
  absl::StatusCode code;
  std::string field;  // the message names the field …
  std::string hint;   // … and the limit
};

class BadSpec : public testing::TestWithParam<BadCase> {};

TEST_P(BadSpec, IsRefusedNamingFieldAndLimit) {
  v1::JobSpec spec = StaticSpec();
  GetParam().spoil(&spec);
  EXPECT_THAT(CheckSpec(&spec),
              StatusIs(GetParam().code, AllOf(HasSubstr(GetParam().field), HasSubstr(GetParam().hint))));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kLacking = absl::StatusCode::kUnimplemented;
// A tune job that is right but for what is changed next.
v1::TuneSpec* TuneOf(v1::JobSpec* spec) {
  v1::TuneSpec* tune = spec->mutable_tune();
  tune->set_model_id("m-1");
  tune->set_calibration_dataset_id("d-1");
  tune->set_evaluation_dataset_id("d-1");
  return tune;
}
v1::Recipe* RecipeOf(v1::JobSpec* spec) { return spec->mutable_quantize()->mutable_recipe(); }

INSTANTIATE_TEST_SUITE_P(
    All, BadSpec,
    testing::Values(
        BadCase{"NoKind", [](v1::JobSpec* s) { s->clear_kind(); }, kInvalid, "kind", "quantize"},
        BadCase{"TuneNoData", [](v1::JobSpec* s) { TuneOf(s)->clear_evaluation_dataset_id(); }, kInvalid,
                "tune.evaluation_dataset_id", "required"},
        BadCase{"TuneStandardNoCalibration", [](v1::JobSpec* s) { TuneOf(s)->clear_calibration_dataset_id(); }, kInvalid,
                "tune.calibration_dataset_id is empty", "dynamic"},
        BadCase{"TuneStaticNoCalibration",
                [](v1::JobSpec* s) {
                  TuneOf(s)->clear_calibration_dataset_id();
                  s->mutable_tune()->add_candidates()->mutable_dynamic();
                  s->mutable_tune()->add_candidates()->mutable_static_int8();
                },
                kInvalid, "tune.candidates[1], method static", "calibration"},
        BadCase{"TuneCandidate",
                [](v1::JobSpec* s) { TuneOf(s)->add_candidates()->mutable_gptq()->mutable_grid()->set_bits(5); }, kInvalid,
                "tune.candidates[0].gptq.grid.bits is 5", "2, 3, 4 or 8"},
        BadCase{"TuneCandidateNoMethod", [](v1::JobSpec* s) { TuneOf(s)->add_candidates(); }, kInvalid,
                "tune.candidates[0]", "dynamic, static"},
        BadCase{"TuneCandidateNotBuilt", [](v1::JobSpec* s) { TuneOf(s)->add_candidates()->mutable_mixed(); }, kLacking,
                "\"mixed\"", "dynamic, static"},
        BadCase{"TuneCandidateMeasured",
                [](v1::JobSpec* s) {
                  TuneOf(s)->add_candidates()->mutable_dynamic();
                  s->mutable_tune()->mutable_candidates(0)->mutable_evaluation();
                },
                kInvalid, "tune.candidates[0].evaluation", "tune.evaluation"},
        BadCase{"TuneTooMany",
                [](v1::JobSpec* s) {
                  TuneOf(s);
                  for (int i = 0; i < 33; ++i) s->mutable_tune()->add_candidates()->mutable_dynamic();
                },
                kInvalid, "tune.candidates (number of) is 33", "32"},
        BadCase{"TuneDrop", [](v1::JobSpec* s) { TuneOf(s)->set_max_drop(-0.1); }, kInvalid, "tune.max_drop is -0.1",
                "from 0 to 100"},
        BadCase{"TuneDropNan",
                [](v1::JobSpec* s) { TuneOf(s)->set_max_drop(std::numeric_limits<double>::quiet_NaN()); }, kInvalid,
                "tune.max_drop", "from 0 to 100"},
        BadCase{"TuneObjective", [](v1::JobSpec* s) { TuneOf(s)->set_objective(static_cast<v1::TuneObjective>(7)); },
                kInvalid, "tune.objective", "7"},
        BadCase{"TuneLatencyNotMeasured",
                [](v1::JobSpec* s) {
                  TuneOf(s)->set_objective(v1::TUNE_OBJECTIVE_LATENCY);
                  s->mutable_tune()->mutable_evaluation()->set_latency_runs(-1);
                },
                kInvalid, "latency_runs is -1", "TUNE_OBJECTIVE_LATENCY"},
        BadCase{"TuneName", [](v1::JobSpec* s) { TuneOf(s)->set_output_name("a\nb"); }, kInvalid, "tune.output_name",
                "control"},
        BadCase{"KindCalibrate", [](v1::JobSpec* s) { s->mutable_calibrate(); }, kLacking, "\"calibrate\"",
                "quantize, benchmark, tune"},
        BadCase{"NoMethod", [](v1::JobSpec* s) { RecipeOf(s)->clear_method(); }, kInvalid, "quantize.recipe",
                "dynamic, static"},
        BadCase{"MethodSmoothQuant", [](v1::JobSpec* s) { RecipeOf(s)->mutable_smoothquant(); }, kLacking,
                "\"smoothquant\"", "dynamic, static, rtn"},
        BadCase{"GptqBits", [](v1::JobSpec* s) { RecipeOf(s)->mutable_gptq()->mutable_grid()->set_bits(5); }, kInvalid,
                "gptq.grid.bits is 5", "2, 3, 4 or 8"},
        BadCase{"GptqGroup", [](v1::JobSpec* s) { RecipeOf(s)->mutable_gptq()->mutable_grid()->set_group_size(8); },
                kInvalid, "gptq.grid.group_size is 8", "16 to 256"},
        BadCase{"GptqDamping", [](v1::JobSpec* s) { RecipeOf(s)->mutable_gptq()->set_damping(-1); }, kInvalid,
                "gptq.damping", "at most 1"},
        BadCase{"GptqWithoutData",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->mutable_gptq();
                  s->mutable_quantize()->clear_calibration_dataset_id();
                },
                kInvalid, "calibration_dataset_id", "gptq needs calibration data"},
        BadCase{"Nf4Block", [](v1::JobSpec* s) { RecipeOf(s)->mutable_nf4()->set_block_size(48); }, kInvalid,
                "nf4.block_size is 48", "power of two"},
        BadCase{"HqqNorm", [](v1::JobSpec* s) { RecipeOf(s)->mutable_hqq()->set_p(1.5f); }, kInvalid, "hqq.p", "at most 1"},
        BadCase{"RuleGrid",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->add_rules()->set_name("*");
                  RecipeOf(s)->mutable_rules(0)->mutable_grid()->set_bits(7);
                },
                kInvalid, "rules[0].grid.bits is 7", "2, 3, 4 or 8"},
        BadCase{"FormatUnknown", [](v1::JobSpec* s) { RecipeOf(s)->set_format(static_cast<v1::ExportFormat>(99)); },
                kInvalid, "recipe.format", "99"},
        BadCase{"TimeoutZero", [](v1::JobSpec* s) { s->mutable_attempt_timeout(); }, kInvalid, "attempt_timeout",
                "168h"},
        BadCase{"TimeoutLong", [](v1::JobSpec* s) { s->mutable_attempt_timeout()->set_seconds(7 * 86400 + 1); },
                kInvalid, "attempt_timeout", "168h"},
        BadCase{"TimeoutNegative", [](v1::JobSpec* s) { s->mutable_attempt_timeout()->set_seconds(-5); }, kInvalid,
                "attempt_timeout", "-5s"},
        BadCase{"Attempts", [](v1::JobSpec* s) { s->set_max_attempts(11); }, kInvalid, "max_attempts is 11", "10"},
        BadCase{"AttemptsNegative", [](v1::JobSpec* s) { s->set_max_attempts(-1); }, kInvalid, "max_attempts", "10"},
        BadCase{"Priority", [](v1::JobSpec* s) { s->set_priority(6); }, kInvalid, "priority is 6", "5"},
        BadCase{"LabelCount",
                [](v1::JobSpec* s) {
                  for (int i = 0; i < 17; ++i) (*s->mutable_labels())["k" + std::to_string(i)] = "v";
                },
                kInvalid, "labels", "16"},
        BadCase{"LabelKey", [](v1::JobSpec* s) { (*s->mutable_labels())[std::string(64, 'k')] = "v"; }, kInvalid,
                "labels", "63"},
        BadCase{"LabelEmptyKey", [](v1::JobSpec* s) { (*s->mutable_labels())[""] = "v"; }, kInvalid, "labels", "63"},
        BadCase{"LabelValue", [](v1::JobSpec* s) { (*s->mutable_labels())["k"] = std::string(64, 'v'); }, kInvalid,
                "labels", "63"},
        BadCase{"NoModel", [](v1::JobSpec* s) { s->mutable_quantize()->clear_model_id(); }, kInvalid,
                "quantize.model_id", "required"},
        BadCase{"LongModel", [](v1::JobSpec* s) { s->mutable_quantize()->set_model_id(std::string(65, 'm')); },
                kInvalid, "quantize.model_id", "64"},
        BadCase{"NoCalibrationData", [](v1::JobSpec* s) { s->mutable_quantize()->clear_calibration_dataset_id(); },
                kInvalid, "calibration_dataset_id", "static needs"},
        BadCase{"OutputName", [](v1::JobSpec* s) { s->mutable_quantize()->set_output_name(std::string(129, 'n')); },
                kInvalid, "output_name", "128"},
        BadCase{"OutputNameControl", [](v1::JobSpec* s) { s->mutable_quantize()->set_output_name("a\nb"); }, kInvalid,
                "output_name", "control"},
        BadCase{"GranularityPerGroup",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->mutable_static_int8()->set_weight_granularity(v1::GRANULARITY_PER_GROUP);
                },
                kInvalid, "static_int8.weight_granularity", "PER_CHANNEL"},
        BadCase{"SymmetryFullRange",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->mutable_static_int8()->set_activation_symmetry(v1::SYMMETRY_FULL_RANGE);
                },
                kInvalid, "activation_symmetry", "ASYMMETRIC"},
        BadCase{"ActivationType",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->mutable_static_int8()->set_activation_type(static_cast<v1::ActivationType>(7));
                },
                kInvalid, "activation_type", "7"},
        BadCase{"Bins", [](v1::JobSpec* s) { RecipeOf(s)->mutable_calibration()->set_bins(1000); }, kInvalid,
                "calibration.bins is 1000", "power of two"},
        BadCase{"Percentile", [](v1::JobSpec* s) { RecipeOf(s)->mutable_calibration()->set_percentile(100.5); },
                kInvalid, "calibration.percentile", "100"},
        BadCase{"PercentileNan",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->mutable_calibration()->set_percentile(std::numeric_limits<double>::quiet_NaN());
                },
                kInvalid, "calibration.percentile", "100"},
        BadCase{"Averaging", [](v1::JobSpec* s) { RecipeOf(s)->mutable_calibration()->set_averaging_constant(-0.1); },
                kInvalid, "averaging_constant", "at most 1"},
        BadCase{"Samples", [](v1::JobSpec* s) { RecipeOf(s)->mutable_calibration()->set_samples(-1); }, kInvalid,
                "calibration.samples is -1", "at least 0"},
        BadCase{"Observer",
                [](v1::JobSpec* s) { RecipeOf(s)->mutable_calibration()->set_observer(static_cast<v1::Observer>(9)); },
                kInvalid, "calibration.observer", "9"},
        BadCase{"LatencyRuns", [](v1::JobSpec* s) { RecipeOf(s)->mutable_evaluation()->set_latency_runs(-2); },
                kInvalid, "evaluation.latency_runs is -2", "-1"},
        BadCase{"Memory", [](v1::JobSpec* s) { RecipeOf(s)->set_memory_bytes(-1); }, kInvalid, "memory_bytes", "0"},
        BadCase{"RuleWithoutAction", [](v1::JobSpec* s) { RecipeOf(s)->add_rules()->set_name("*"); }, kInvalid,
                "rules[0]", "skip"},
        BadCase{"RuleWithoutName", [](v1::JobSpec* s) { RecipeOf(s)->add_rules()->set_skip(true); }, kInvalid,
                "rules[0].name", "pattern"},
        BadCase{"RuleRegex",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->add_rules()->set_name("re:([");
                  RecipeOf(s)->mutable_rules(0)->set_skip(true);
                },
                kInvalid, "rules[0].name", "ECMAScript"},
        BadCase{"RuleHugeRegex",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->add_rules()->set_name("re:((a{1000}){1000}){1000}");
                  RecipeOf(s)->mutable_rules(0)->set_skip(true);
                },
                kInvalid, "rules[0].name", "ECMAScript"},
        BadCase{"RuleRecipe",
                [](v1::JobSpec* s) {
                  RecipeOf(s)->add_rules()->set_name("*");
                  RecipeOf(s)->mutable_rules(0)->mutable_recipe();
                },
                kInvalid, "rules[0].recipe", "no method"},
        BadCase{"Huge",
                [](v1::JobSpec* s) {
                  for (int i = 0; i < 900; ++i) {
                    RecipeOf(s)->add_rules()->set_name(std::string(100, 'x'));
                    RecipeOf(s)->mutable_rules(i)->set_skip(true);
                  }
                },
                kInvalid, "spec has", "65536"}),
    [](const auto& param) { return param.param.name; });

TEST(CheckSpec, WhatIsNotBuiltHasAReason) {
  v1::JobSpec spec = StaticSpec();
  RecipeOf(&spec)->mutable_smoothquant();
  EXPECT_EQ(ReasonOf(CheckSpec(&spec)), "NOT_BUILT");
}

TEST(CheckInputs, EachInputMustExist) {
  FakeArtifactCatalog catalog;
  v1::JobSpec spec = StaticSpec();
  spec.mutable_quantize()->set_evaluation_dataset_id("d-2");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), StatusIs(absl::StatusCode::kNotFound, HasSubstr("m-1")));
  catalog.AddModel("m-1");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), StatusIs(absl::StatusCode::kNotFound, HasSubstr("d-1")));
  catalog.AddDataset("d-1");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), StatusIs(absl::StatusCode::kNotFound, HasSubstr("d-2")));
  catalog.AddDataset("d-2");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), IsOk());
}

TEST(CheckInputs, EachInputIsKeptFromExpiring) {
  FakeArtifactCatalog catalog;
  for (const char* id : {"m-1", "m-2"}) catalog.AddModel(id);
  for (const char* id : {"d-1", "d-2"}) catalog.AddDataset(id);
  v1::JobSpec spec = StaticSpec();
  spec.mutable_quantize()->set_evaluation_dataset_id("d-2");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), IsOk());
  v1::JobSpec benchmark;
  benchmark.mutable_benchmark()->set_model_id("m-1");
  benchmark.mutable_benchmark()->set_baseline_model_id("m-2");
  benchmark.mutable_benchmark()->set_dataset_id("d-1");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), benchmark, &catalog), IsOk());
  EXPECT_EQ(catalog.UsesOf("m-1"), 2);
  EXPECT_EQ(catalog.UsesOf("m-2"), 1);
  EXPECT_EQ(catalog.UsesOf("d-1"), 2);
  EXPECT_EQ(catalog.UsesOf("d-2"), 1);
}

TEST(CheckInputs, TheBaselineOfABenchmarkMustExist) {
  FakeArtifactCatalog catalog;
  catalog.AddModel("m-1");
  v1::JobSpec spec;
  spec.mutable_benchmark()->set_model_id("m-1");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), IsOk());
  spec.mutable_benchmark()->set_baseline_model_id("m-2");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), StatusIs(absl::StatusCode::kNotFound, HasSubstr("m-2")));
}

TEST(CheckInputs, ACheckpointThatCannotBeReadIsUnimplemented) {
  FakeArtifactCatalog catalog;
  catalog.AddModel("m-1", v1::MODEL_FORMAT_GGUF);
  catalog.AddDataset("d-1");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), StaticSpec(), &catalog),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("gguf"), HasSubstr("onnx"))));
}

TEST(CheckInputs, MethodsAreForTheirKindOfModel) {
  FakeArtifactCatalog catalog;
  catalog.AddModel("m-1", v1::MODEL_FORMAT_HUGGING_FACE);
  catalog.AddDataset("d-1");
  v1::JobSpec spec = StaticSpec();
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("method static"), HasSubstr("rtn, gptq"))));
  RecipeOf(&spec)->mutable_gptq();
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), IsOk());
  catalog.AddModel("m-1", v1::MODEL_FORMAT_ONNX);
  EXPECT_THAT(
      CheckInputs(OpenPrincipal(), spec, &catalog),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("method gptq"), HasSubstr("static or dynamic"))));
  spec = StaticSpec();
  RecipeOf(&spec)->set_format(v1::EXPORT_FORMAT_GGUF);
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("format gguf"), HasSubstr("onnx"))));
}

TEST(CheckInputs, TheDataAndEveryCandidateOfATuneJobAreChecked) {
  FakeArtifactCatalog catalog;
  catalog.AddModel("m-1");
  catalog.AddDataset("d-1");
  v1::JobSpec spec;
  spec.mutable_tune()->set_model_id("m-1");
  spec.mutable_tune()->set_calibration_dataset_id("d-1");
  spec.mutable_tune()->set_evaluation_dataset_id("d-2");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), StatusIs(absl::StatusCode::kNotFound, HasSubstr("d-2")));
  catalog.AddDataset("d-2");
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog), IsOk());
  spec.mutable_tune()->add_candidates()->mutable_static_int8();
  spec.mutable_tune()->add_candidates()->mutable_gptq();
  EXPECT_THAT(CheckInputs(OpenPrincipal(), spec, &catalog),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("method gptq")));
}

TEST(MethodName, FollowsTheCommandLine) {
  v1::Recipe recipe;
  EXPECT_EQ(MethodName(recipe), "");
  recipe.mutable_static_int8();
  EXPECT_EQ(MethodName(recipe), "static");
  recipe.mutable_half();
  EXPECT_EQ(MethodName(recipe), "fp16");
  recipe.mutable_half()->set_type(v1::HALF_TYPE_BF16);
  EXPECT_EQ(MethodName(recipe), "bf16");
}

}  // namespace
}  // namespace quant

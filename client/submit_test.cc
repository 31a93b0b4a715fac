// SPDX-License-Identifier: Apache-2.0
#include "client/submit.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/recipe_file.h"
#include "common/status_macros.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using testing::AllOf;
using testing::HasSubstr;

absl::StatusOr<v1::SubmitJobRequest> Parse(const std::vector<std::string>& args) {
  SubmitFlags submit;
  FlagSet flags("quantctl job submit", "");
  submit.AddTo(flags);
  RETURN_IF_ERROR(flags.Parse(args, nullptr));
  return submit.Build(flags);
}

// Words between blanks; "--model m" is added.
absl::StatusOr<v1::SubmitJobRequest> Parse(const std::string& line) {
  std::vector<std::string> args = absl::StrSplit(line, ' ', absl::SkipEmpty());
  args.insert(args.end(), {"--model", "m"});
  return Parse(args);
}

// The request of a command line against protobuf text, request_id aside.
void ExpectSpec(const std::string& line, const std::string& expected) {
  absl::StatusOr<v1::SubmitJobRequest> request = Parse(line);
  ASSERT_THAT(request, IsOk()) << line;
  v1::JobSpec want;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(expected, &want)) << expected;
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(request->spec(), want))
      << line << "\ngives\n"
      << request->spec().DebugString();
}

void ExpectRecipe(const std::string& line, const std::string& expected) {
  ExpectSpec(line, absl::StrCat("quantize { model_id: 'm' recipe {", expected, "} }"));
}

class RecipeFile {
 public:
  explicit RecipeFile(const std::string& text) : path_(testing::TempDir() + "/recipe_of_submit_test") {
    std::ofstream(path_) << text;
  }
  ~RecipeFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(SubmitTest, EveryMethodAloneIsItsMessageWithDefaults) {
  ExpectRecipe("--method dynamic", "dynamic {}");
  ExpectRecipe("--method static", "static_int8 {}");
  ExpectRecipe("--method smoothquant", "smoothquant {}");
  ExpectRecipe("--method rtn", "rtn {}");
  ExpectRecipe("--method gptq", "gptq {}");
  ExpectRecipe("--method awq", "awq {}");
  ExpectRecipe("--method nf4", "nf4 {}");
  ExpectRecipe("--method llm_int8", "llm_int8 {}");
  ExpectRecipe("--method fp16", "half { type: HALF_TYPE_FP16 }");
  ExpectRecipe("--method bf16", "half { type: HALF_TYPE_BF16 }");
  ExpectRecipe("--method mixed", "mixed {}");
  ExpectRecipe("--method hqq", "hqq {}");
}

TEST(SubmitTest, FlagsOfEachMethodSetItsFields) {
  for (const char* method : {"rtn", "gptq", "awq", "hqq"}) {
    ExpectRecipe(
        absl::StrCat("--method ", method, " --bits 4 --group-size -1 --symmetry full-range --scale-search mse"),
        absl::StrCat(method,
                     " { grid { bits: 4 group_size: -1 symmetry: SYMMETRY_FULL_RANGE "
                     "scale_search: SCALE_SEARCH_MSE } }"));
  }
  ExpectRecipe("--method dynamic --symmetry asymmetric --weight-granularity per-tensor --reduce-range never",
               "dynamic { weight_granularity: GRANULARITY_PER_TENSOR weight_symmetry: SYMMETRY_ASYMMETRIC "
               "reduce_range: REDUCE_RANGE_NEVER }");
  ExpectRecipe(
      "--method static --symmetry symmetric --activation-symmetry symmetric --activation-type int8 "
      "--weight-granularity per-channel --reduce-range always --skip-first --no-skip-last --op-types Conv,Gemm "
      "--bias-correction --cross-layer-equalization",
      "static_int8 { weight_granularity: GRANULARITY_PER_CHANNEL weight_symmetry: SYMMETRY_SYMMETRIC "
      "activation_symmetry: SYMMETRY_SYMMETRIC activation_type: ACTIVATION_TYPE_INT8 reduce_range: "
      "REDUCE_RANGE_ALWAYS skip_first: true op_types: 'Conv' op_types: 'Gemm' bias_correction: true "
      "cross_layer_equalization: true }");
  ExpectRecipe(
      "--method smoothquant --alpha 0 --auto-alpha --alpha-min 0.1 --alpha-max 0.9 --alpha-step 0.05 "
      "--activation-granularity per-tensor",
      "smoothquant { alpha: 0 auto_alpha: true alpha_min: 0.1 alpha_max: 0.9 alpha_step: 0.05 "
      "activation_granularity: GRANULARITY_PER_TENSOR }");
  ExpectRecipe(
      "--method gptq --act-order group-aware --damping 0.05 --block-size 64 --no-true-sequential "
      "--descent-passes 0 --min-token-fraction 0",
      "gptq { act_order: ACT_ORDER_GROUP_AWARE damping: 0.05 block_size: 64 true_sequential: false "
      "descent_passes: 0 min_token_fraction: 0 }");
  ExpectRecipe("--method awq --grid-points 40 --no-duo-scaling --clip-search --then-gptq",
               "awq { grid_points: 40 duo_scaling: false clip_search: true then_gptq: true }");
  ExpectRecipe("--method nf4 --block-size 128 --no-double-quantization --fp4 --absmax-search",
               "nf4 { block_size: 128 double_quantization: false fp4: true absmax_search: true }");
  ExpectRecipe("--method llm_int8 --threshold 0", "llm_int8 { threshold: 0 }");
  ExpectRecipe("--method hqq --norm 0.6 --iterations 5", "hqq { p: 0.6 iterations: 5 }");
  ExpectRecipe(
      "--method mixed --candidates rtn:4:128,rtn:8,static,bf16 --max-size 40MiB --sensitivity output-error",
      "mixed { candidates { rtn { grid { bits: 4 group_size: 128 } } } candidates { rtn { grid { bits: 8 } } } "
      "candidates { static_int8 {} } candidates { half { type: HALF_TYPE_BF16 } } size_bytes: 41943040 "
      "sensitivity: SENSITIVITY_OUTPUT_ERROR }");
  ExpectRecipe("--method mixed --bits-per-weight 4.5", "mixed { bits_per_weight: 4.5 }");
  ExpectRecipe("--method mixed --max-drop 0.5", "mixed { max_drop: 0.5 }");
}

TEST(SubmitTest, FlagsOfTheRecipeSetItsFields) {
  ExpectRecipe(
      "--method static --observer moving-average --averaging-constant 0.1 --bins 512 --calibration-samples 256 "
      "--calibration-batch 8 --sequence-length 64 --evaluation-samples 100 --evaluation-skip 256 "
      "--evaluation-batch 4 --latency-runs -1 --throughput-batch 2 --threads 3 --skip-error-profile "
      "--skip a* --skip re:b.* --format compressed-tensors --seed 18446744073709551615 --memory 2GiB",
      "static_int8 {} calibration { observer: OBSERVER_MOVING_AVERAGE averaging_constant: 0.1 bins: 512 "
      "samples: 256 batch_size: 8 sequence_length: 64 } evaluation { samples: 100 skip: 256 batch_size: 4 "
      "latency_runs: -1 throughput_batch: 2 threads: 3 skip_error_profile: true } rules { name: 'a*' skip: true } "
      "rules { name: 're:b.*' skip: true } format: EXPORT_FORMAT_COMPRESSED_TENSORS "
      "seed: 18446744073709551615 memory_bytes: 2147483648");
  ExpectRecipe("--method static --percentile 99.9",
               "static_int8 {} calibration { observer: OBSERVER_PERCENTILE percentile: 99.9 }");
}

TEST(SubmitTest, FlagsOfTheJobSetItsFields) {
  ExpectSpec(
      "--method rtn --calibration d1 --evaluation d2 --name out --priority 1 --max-attempts 5 --timeout 90m "
      "--label a=1 --label b=x=y",
      "quantize { model_id: 'm' recipe { rtn {} } calibration_dataset_id: 'd1' evaluation_dataset_id: 'd2' "
      "output_name: 'out' } priority: 1 max_attempts: 5 attempt_timeout { seconds: 5400 } "
      "labels { key: 'a' value: '1' } labels { key: 'b' value: 'x=y' }");
}

TEST(SubmitTest, EveryKindFillsItsSpec) {
  ExpectSpec("--kind calibrate --calibration d --observer entropy --calibration-samples 9",
             "calibrate { model_id: 'm' dataset_id: 'd' calibration { observer: OBSERVER_ENTROPY samples: 9 } }");
  ExpectSpec("--kind benchmark --evaluation d --baseline b --latency-runs 5",
             "benchmark { model_id: 'm' dataset_id: 'd' baseline_model_id: 'b' evaluation { latency_runs: 5 } }");
  ExpectSpec("--kind benchmark", "benchmark { model_id: 'm' evaluation {} }");
  ExpectSpec("--kind analyze --calibration d --method static",
             "analyze { model_id: 'm' dataset_id: 'd' recipe { static_int8 {} } }");
  ExpectSpec("--kind tune --calibration c --evaluation e --max-drop 0.5 --candidates static,dynamic",
             "tune { model_id: 'm' calibration_dataset_id: 'c' evaluation_dataset_id: 'e' max_drop: 0.5 "
             "candidates { static_int8 {} } candidates { dynamic {} } }");
  ExpectSpec(
      "--kind tune --evaluation e --objective latency --name n --max-drop 0 --evaluation-samples 9 "
      "--calibration-samples 8",
      "tune { model_id: 'm' evaluation_dataset_id: 'e' objective: TUNE_OBJECTIVE_LATENCY output_name: 'n' "
      "max_drop: 0 evaluation { samples: 9 } calibration { samples: 8 } }");
}

TEST(SubmitTest, AFlagOfAnotherMethodIsRefusedWithTheMethodsItBelongsTo) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"--method static --bits 4", "--bits belongs to rtn, gptq, awq, hqq, not to method static"},
      {"--method rtn --damping 0.1", "--damping belongs to gptq, not to method rtn"},
      {"--method gptq --alpha 0.5", "--alpha belongs to smoothquant, not to method gptq"},
      {"--method nf4 --group-size 64", "--group-size belongs to"},
      {"--method nf4 --symmetry symmetric", "--symmetry belongs to rtn, gptq, awq, hqq, dynamic, static, not to"},
      {"--method fp16 --percentile 99", "--percentile belongs to static, smoothquant, mixed"},
      {"--method bf16 --no-skip-first", "--skip-first belongs to static"},
      {"--method rtn --candidates static", "--candidates belongs to mixed"},
  };
  for (const auto& [line, message] : cases) {
    EXPECT_THAT(Parse(line).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message))) << line;
  }
}

TEST(SubmitTest, WrongUseIsToldWithTheRemedy) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no method: give --method, one of dynamic, static"},
      {"--method int4", "no method \"int4\"; there are dynamic"},
      {"--kind train", "no kind \"train\"; there are quantize"},
      {"--method rtn --bits four", "--bits: bits is a whole number of 32 bits, not \"four\""},
      {"--method rtn --bits 99999999999", "--bits"},
      {"--method static --observer best", "--observer: observer: \"best\" is none of min-max|moving-average"},
      {"--method gptq --damping nan", "--damping: damping is a finite number"},
      {"--method static --percentile 99 --observer entropy", "--percentile goes with --observer percentile only"},
      {"--method mixed --max-drop 1 --bits-per-weight 4", "exclude each other"},
      {"--method mixed --candidates int3", "--candidates: no method \"int3\""},
      {"--method mixed --candidates static:8", "method static has no bits"},
      {"--method mixed --max-size lots", "--max-size: \"lots\""},
      {"--method rtn --label x", "--label wants KEY=VALUE"},
      {"--method rtn --label x=1 --label x=2", "given twice"},
      {"--method rtn --skip=", "--skip wants the name of a layer"},
      {"--kind benchmark --method static", "--method does not belong to --kind benchmark"},
      {"--kind benchmark --calibration d", "--calibration does not belong to --kind benchmark"},
      {"--kind benchmark --calibration-samples 4", "--calibration-samples does not belong to --kind benchmark"},
      {"--kind benchmark --max-drop 4", "--max-drop does not belong to --kind benchmark"},
      {"--kind calibrate", "--kind calibrate needs --calibration DATASET"},
      {"--kind calibrate --calibration d --evaluation-skip 3", "it is for quantize, analyze, tune and benchmark"},
      {"--kind tune --calibration c", "--kind tune needs --evaluation DATASET"},
      {"--kind tune --calibration c --evaluation e --bits 4", "--bits does not belong to --kind tune"},
      {"--kind tune --evaluation e --objective speed", "objective: \"speed\" is none of size|latency"},
      {"--method rtn --objective size", "--objective does not belong to --kind quantize: it is for tune"},
      {"--method rtn --baseline b", "--baseline does not belong to --kind quantize: it is for benchmark"},
      {"--method rtn --bit 4", "did you mean --bits?"},
      {"--method rtn --recipe a --recipe b", "--recipe may be repeated for --kind tune only"},
  };
  for (const auto& [line, message] : cases) {
    EXPECT_THAT(Parse(line).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message))) << line;
  }
  EXPECT_THAT(Parse(std::vector<std::string>{"--method", "rtn"}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no model")));
  EXPECT_THAT(Parse("--recipe /nonexistent").status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent")));
}

TEST(SubmitTest, ARequestIdIsMadeUpAndNeverTheSame) {
  const std::string a = Parse("--method rtn")->request_id(), b = Parse("--method rtn")->request_id();
  EXPECT_EQ(a.size(), 32u);
  EXPECT_NE(a, b);
  EXPECT_EQ(Parse("--method rtn --request-id mine")->request_id(), "mine");
}

TEST(SubmitTest, FlagsOverrideTheRecipeFile) {
  for (const char* text :
       {R"( {"gptq": {"grid": {"bits": 3}, "damping": 0.1}, "seed": 4, "rules": [{"name": "x", "skip": true}]})",
        "# protobuf text\ngptq { grid { bits: 3 } damping: 0.1 } seed: 4 rules { name: 'x' skip: true }"}) {
    const RecipeFile file(text);
    ExpectRecipe("--recipe " + file.path(),
                 "gptq { grid { bits: 3 } damping: 0.1 } seed: 4 rules { name: 'x' skip: true }");
    ExpectRecipe(
        "--recipe " + file.path() + " --bits 4 --seed 5 --skip y --method gptq",
        "gptq { grid { bits: 4 } damping: 0.1 } seed: 5 rules { name: 'x' skip: true } rules { name: 'y' skip: true }");
    ExpectRecipe("--recipe " + file.path() + " --method rtn --bits 8",
                 "rtn { grid { bits: 8 } } seed: 4 rules { name: 'x' skip: true }");
    ExpectSpec("--kind tune --calibration c --evaluation e --recipe " + file.path() + " --recipe " + file.path(),
               "tune { model_id: 'm' calibration_dataset_id: 'c' evaluation_dataset_id: 'e' "
               "candidates { gptq { grid { bits: 3 } damping: 0.1 } seed: 4 rules { name: 'x' skip: true } } "
               "candidates { gptq { grid { bits: 3 } damping: 0.1 } seed: 4 rules { name: 'x' skip: true } } }");
    EXPECT_THAT(Parse("--alpha 1 --recipe " + file.path()).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not to method gptq")));
  }
  const RecipeFile observer(R"({"static_int8": {}, "calibration": {"observer": "ENTROPY"}})");
  EXPECT_THAT(Parse("--percentile 99 --recipe " + observer.path()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--observer percentile")));
  const RecipeFile parts(R"({"calibration": {"samples": 5}, "evaluation": {"samples": 6}})");
  ExpectSpec("--kind calibrate --calibration d --recipe " + parts.path(),
             "calibrate { model_id: 'm' dataset_id: 'd' calibration { samples: 5 } }");
  ExpectSpec("--kind benchmark --recipe " + parts.path(), "benchmark { model_id: 'm' evaluation { samples: 6 } }");
}

TEST(RecipeFileTest, ErrorsSayWhereAndWhat) {
  EXPECT_THAT(ParseRecipe("gptq {\n  dampning: 1 }", "r.txt").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("r.txt"), HasSubstr("line 2"), HasSubstr("dampning"))));
  EXPECT_THAT(ParseRecipe("{\"gptq\": {\"dampning\": 1}}", "r.json").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("r.json"), HasSubstr("dampning"))));
  EXPECT_THAT(ParseRecipe(" \n", "r"), IsOk());
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "mixed { candidates {";
  EXPECT_THAT(ParseRecipe(deep, "r").status(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ReadRecipe(testing::TempDir()).status(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("folder")));
}

}  // namespace
}  // namespace quant

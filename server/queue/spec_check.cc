// SPDX-License-Identifier: Apache-2.0
#include "server/queue/spec_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <regex>
#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error_detail.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/job_inputs.h"
#include "common/view/method_name.h"
#include "server/queue/capabilities.h"
#include "server/queue/field_check.h"
#include "server/queue/live_jobs.h"
#include "server/queue/weight_only_check.h"

namespace quant {
namespace {

// Limits that the contract leaves to the server; generous, against absurd requests.
constexpr int kMaxLabels = 16;
constexpr size_t kMaxLabelBytes = 63;
constexpr size_t kMaxIdBytes = 64;
constexpr size_t kMaxNameBytes = 128;
constexpr int kMaxRules = 1000;
constexpr size_t kMaxPatternBytes = 512;
constexpr int kMaxOpTypes = 100;
constexpr int64_t kMaxBatch = 65'536;
constexpr int64_t kMaxSequence = 1 << 20;
constexpr int64_t kMaxLatencyRuns = 1'000'000;
constexpr int64_t kMaxThreads = 1024;
constexpr int kMaxCandidates = 32;
constexpr double kMostDrop = 100;

absl::Status NotBuilt(std::string_view what, std::string_view value, std::span<const std::string_view> built) {
  const std::vector<std::string> names(built.begin(), built.end());
  return WithReason(absl::UnimplementedError(
                        absl::StrCat(std::string(what), " \"", std::string(value),
                                     "\" is not built into this server; there is: ", absl::StrJoin(names, ", "))),
                    "NOT_BUILT");
}

bool Contains(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::Status CheckBuilt(std::string_view what, std::string_view value, std::span<const std::string_view> built) {
  return Contains(built, value) ? absl::OkStatus() : NotBuilt(what, value, built);
}

// The enum's value without its type's prefix, in lower case: "onnx" for EXPORT_FORMAT_ONNX.
std::string ShortName(std::string_view enum_name, std::string_view prefix) {
  enum_name.remove_prefix(std::min(prefix.size(), enum_name.size()));
  return absl::AsciiStrToLower(AbslView(enum_name));
}

absl::Status CheckGranularity(const std::string& field, v1::Granularity value) {
  if (!v1::Granularity_IsValid(value)) return UnknownEnum(field, value);
  if (value == v1::GRANULARITY_UNSPECIFIED || value == v1::GRANULARITY_PER_TENSOR ||
      value == v1::GRANULARITY_PER_CHANNEL) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", v1::Granularity_Name(value),
                   "; INT8 methods take GRANULARITY_PER_CHANNEL or GRANULARITY_PER_TENSOR"));
}

absl::Status CheckSymmetry(const std::string& field, v1::Symmetry value) {
  if (!v1::Symmetry_IsValid(value)) return UnknownEnum(field, value);
  if (value != v1::SYMMETRY_FULL_RANGE) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is SYMMETRY_FULL_RANGE; INT8 methods take SYMMETRY_SYMMETRIC or SYMMETRY_ASYMMETRIC"));
}

absl::Status CheckReduceRange(const std::string& field, v1::ReduceRange value) {
  return v1::ReduceRange_IsValid(value) ? absl::OkStatus() : UnknownEnum(field, value);
}

absl::Status CheckDynamic(const std::string& at, const v1::DynamicInt8& options) {
  RETURN_IF_ERROR(CheckGranularity(at + ".weight_granularity", options.weight_granularity()));
  RETURN_IF_ERROR(CheckSymmetry(at + ".weight_symmetry", options.weight_symmetry()));
  return CheckReduceRange(at + ".reduce_range", options.reduce_range());
}

absl::Status CheckStatic(const std::string& at, const v1::StaticInt8& options) {
  RETURN_IF_ERROR(CheckGranularity(at + ".weight_granularity", options.weight_granularity()));
  RETURN_IF_ERROR(CheckSymmetry(at + ".weight_symmetry", options.weight_symmetry()));
  RETURN_IF_ERROR(CheckSymmetry(at + ".activation_symmetry", options.activation_symmetry()));
  RETURN_IF_ERROR(CheckReduceRange(at + ".reduce_range", options.reduce_range()));
  if (!v1::ActivationType_IsValid(options.activation_type())) {
    return UnknownEnum(at + ".activation_type", options.activation_type());
  }
  RETURN_IF_ERROR(InRange(at + ".op_types (number of)", options.op_types_size(), 0, kMaxOpTypes));
  for (const std::string& op : options.op_types()) {
    if (op.empty() || op.size() > kMaxNameBytes || HasControl(op)) {
      return BadText(at + ".op_types", op, kMaxNameBytes, "an ONNX operator type");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMethod(const std::string& at, const v1::Recipe& recipe) {
  const std::string_view method = MethodName(recipe);
  if (method.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        at, " has no method; there is: ",
        absl::StrJoin(std::vector<std::string>(std::begin(kBuiltMethods), std::end(kBuiltMethods)), ", ")));
  }
  RETURN_IF_ERROR(CheckBuilt("method", method, kBuiltMethods));
  if (recipe.has_dynamic()) return CheckDynamic(at + ".dynamic", recipe.dynamic());
  if (recipe.has_static_int8()) return CheckStatic(at + ".static_int8", recipe.static_int8());
  RETURN_IF_ERROR(CheckWeightOnly(at, recipe));
  if (recipe.has_half() && !v1::HalfType_IsValid(recipe.half().type())) {
    return UnknownEnum(at + ".half.type", recipe.half().type());
  }
  return absl::OkStatus();
}

absl::Status CheckRegex(const std::string& field, const std::string& pattern) {
  try {
    static_cast<void>(std::regex(pattern, std::regex::ECMAScript));
    return absl::OkStatus();
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", Quoted(pattern), " is no ECMAScript regular expression: ", error.what()));
  }
}

absl::Status CheckRule(const std::string& at, const v1::LayerRule& rule) {
  if (rule.name().empty() || rule.name().size() > kMaxPatternBytes) {
    return BadText(at + ".name", rule.name(), kMaxPatternBytes, "a pattern (\"*\" for any name)");
  }
  if (rule.name().starts_with("re:")) RETURN_IF_ERROR(CheckRegex(at + ".name", rule.name().substr(3)));
  if (rule.op_type().size() > kMaxNameBytes || HasControl(rule.op_type())) {
    return BadText(at + ".op_type", rule.op_type(), kMaxNameBytes, "an ONNX operator type");
  }
  switch (rule.action_case()) {
    case v1::LayerRule::kSkip:
      return CheckBuilt("rule action", "skip", kBuiltRuleActions);
    case v1::LayerRule::kRecipe:
      RETURN_IF_ERROR(CheckBuilt("rule action", "recipe", kBuiltRuleActions));
      if (rule.recipe().rules_size() > 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(at, ".recipe has rules of its own, which is one level too many"));
      }
      return CheckMethod(at + ".recipe", rule.recipe());
    case v1::LayerRule::kGrid:
      RETURN_IF_ERROR(CheckBuilt("rule action", "grid", kBuiltRuleActions));
      return CheckGrid(at + ".grid", rule.grid());
    case v1::LayerRule::ACTION_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(at, " has no action; set skip, grid or recipe"));
}

absl::Status CheckCalibration(const std::string& at, const v1::Calibration& calibration) {
  if (!v1::Observer_IsValid(calibration.observer())) return UnknownEnum(at + ".observer", calibration.observer());
  RETURN_IF_ERROR(DefaultOrUpTo(at + ".percentile", calibration.percentile(), 100));
  RETURN_IF_ERROR(DefaultOrUpTo(at + ".averaging_constant", calibration.averaging_constant(), 1));
  const int32_t bins = calibration.bins();
  if (bins != 0 && (bins < 128 || bins > 65'536 || (bins & (bins - 1)) != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(at, ".bins is ", bins, "; it must be a power of two from 128 to 65536, or 0 for the default"));
  }
  RETURN_IF_ERROR(InRange(at + ".samples", calibration.samples(), 0, kMaxCount));
  RETURN_IF_ERROR(InRange(at + ".batch_size", calibration.batch_size(), 0, kMaxBatch));
  return InRange(at + ".sequence_length", calibration.sequence_length(), 0, kMaxSequence);
}

absl::Status CheckEvaluation(const std::string& at, const v1::Evaluation& evaluation) {
  RETURN_IF_ERROR(InRange(at + ".samples", evaluation.samples(), 0, kMaxCount));
  RETURN_IF_ERROR(InRange(at + ".skip", evaluation.skip(), 0, kMaxCount));
  RETURN_IF_ERROR(InRange(at + ".batch_size", evaluation.batch_size(), 0, kMaxBatch));
  RETURN_IF_ERROR(InRange(at + ".latency_runs", evaluation.latency_runs(), -1, kMaxLatencyRuns));
  RETURN_IF_ERROR(InRange(at + ".throughput_batch", evaluation.throughput_batch(), 0, kMaxBatch));
  return InRange(at + ".threads", evaluation.threads(), 0, kMaxThreads);
}

absl::Status CheckRecipe(const std::string& at, const v1::Recipe& recipe) {
  RETURN_IF_ERROR(CheckMethod(at, recipe));
  if (!v1::ExportFormat_IsValid(recipe.format())) return UnknownEnum(at + ".format", recipe.format());
  if (recipe.format() != v1::EXPORT_FORMAT_UNSPECIFIED) {
    RETURN_IF_ERROR(
        CheckBuilt("format", ShortName(v1::ExportFormat_Name(recipe.format()), "EXPORT_FORMAT_"), kBuiltFormats));
  }
  RETURN_IF_ERROR(InRange(at + ".rules (number of)", recipe.rules_size(), 0, kMaxRules));
  for (int i = 0; i < recipe.rules_size(); ++i) {
    RETURN_IF_ERROR(CheckRule(absl::StrCat(at, ".rules[", i, "]"), recipe.rules(i)));
  }
  RETURN_IF_ERROR(CheckCalibration(at + ".calibration", recipe.calibration()));
  RETURN_IF_ERROR(CheckEvaluation(at + ".evaluation", recipe.evaluation()));
  return InRange(at + ".memory_bytes", recipe.memory_bytes(), 0, kMaxCount);
}

absl::Status CheckId(const std::string& field, const std::string& id, bool required) {
  if (id.empty() && !required) return absl::OkStatus();
  if (id.empty()) return absl::InvalidArgumentError(absl::StrCat(field, " is empty; it is required"));
  if (id.size() > kMaxIdBytes) return BadText(field, id, kMaxIdBytes, "an id as the server gave it");
  return absl::OkStatus();
}

bool Calibrates(const v1::Recipe& recipe) { return recipe.has_static_int8() || recipe.has_gptq() || recipe.has_awq(); }

absl::Status CheckOutputName(const std::string& field, const std::string& name) {
  if (name.size() <= kMaxNameBytes && !HasControl(name)) return absl::OkStatus();
  return BadText(field, name, kMaxNameBytes, "a name without control characters");
}

absl::Status CheckQuantize(const v1::QuantizeSpec& spec) {
  RETURN_IF_ERROR(CheckId("quantize.model_id", spec.model_id(), true));
  RETURN_IF_ERROR(CheckRecipe("quantize.recipe", spec.recipe()));
  const v1::Recipe& recipe = spec.recipe();
  if (Calibrates(recipe) && spec.calibration_dataset_id().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "quantize.calibration_dataset_id is empty; method ", std::string(MethodName(recipe)),
        " needs calibration data (", recipe.has_static_int8() ? "dynamic needs" : "rtn, nf4 and hqq need", " none)"));
  }
  RETURN_IF_ERROR(CheckId("quantize.calibration_dataset_id", spec.calibration_dataset_id(), false));
  RETURN_IF_ERROR(CheckId("quantize.evaluation_dataset_id", spec.evaluation_dataset_id(), false));
  return CheckOutputName("quantize.output_name", spec.output_name());
}

absl::Status CheckTune(const v1::TuneSpec& spec) {
  RETURN_IF_ERROR(CheckId("tune.model_id", spec.model_id(), true));
  RETURN_IF_ERROR(CheckId("tune.calibration_dataset_id", spec.calibration_dataset_id(), false));
  RETURN_IF_ERROR(CheckId("tune.evaluation_dataset_id", spec.evaluation_dataset_id(), true));
  RETURN_IF_ERROR(InRange("tune.candidates (number of)", spec.candidates_size(), 0, kMaxCandidates));
  if (spec.candidates().empty() && spec.calibration_dataset_id().empty()) {
    return absl::InvalidArgumentError(
        "tune.calibration_dataset_id is empty; the standard candidates need calibration data: name it, or candidates "
        "that need none (dynamic; rtn, nf4, hqq)");
  }
  for (int i = 0; i < spec.candidates_size(); ++i) {
    const v1::Recipe& recipe = spec.candidates(i);
    const std::string at = absl::StrCat("tune.candidates[", i, "]");
    RETURN_IF_ERROR(CheckRecipe(at, recipe));
    if (recipe.has_evaluation()) {
      return absl::InvalidArgumentError(
          absl::StrCat(at, ".evaluation is set; candidates are measured alike: set tune.evaluation"));
    }
    if (Calibrates(recipe) && spec.calibration_dataset_id().empty()) {
      return absl::InvalidArgumentError(absl::StrCat("tune.calibration_dataset_id is empty; ", at, ", method ",
                                                     AbslView(MethodName(recipe)), ", needs calibration data"));
    }
  }
  if (spec.has_max_drop() && !(spec.max_drop() >= 0 && spec.max_drop() <= kMostDrop)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tune.max_drop is ", spec.max_drop(), "; it must be from 0 to ", kMostDrop,
                     ": points of top-1, or a fraction (0.05 is 5 %) of perplexity or of the outputs"));
  }
  if (!v1::TuneObjective_IsValid(spec.objective())) return UnknownEnum("tune.objective", spec.objective());
  if (spec.objective() == v1::TUNE_OBJECTIVE_LATENCY && spec.evaluation().latency_runs() < 0) {
    return absl::InvalidArgumentError(
        "tune.objective is TUNE_OBJECTIVE_LATENCY and tune.evaluation.latency_runs is -1, which measures none");
  }
  RETURN_IF_ERROR(CheckCalibration("tune.calibration", spec.calibration()));
  RETURN_IF_ERROR(CheckEvaluation("tune.evaluation", spec.evaluation()));
  return CheckOutputName("tune.output_name", spec.output_name());
}

absl::Status CheckBenchmark(const v1::BenchmarkSpec& spec) {
  RETURN_IF_ERROR(CheckId("benchmark.model_id", spec.model_id(), true));
  RETURN_IF_ERROR(CheckId("benchmark.dataset_id", spec.dataset_id(), false));
  RETURN_IF_ERROR(CheckId("benchmark.baseline_model_id", spec.baseline_model_id(), false));
  return CheckEvaluation("benchmark.evaluation", spec.evaluation());
}

absl::Status CheckLabels(const v1::JobSpec& spec) {
  RETURN_IF_ERROR(InRange("labels (number of)", static_cast<int64_t>(spec.labels().size()), 0, kMaxLabels));
  for (const auto& [key, value] : spec.labels()) {
    if (key.empty() || key.size() > kMaxLabelBytes) return BadText("labels: a key", key, kMaxLabelBytes, "some text");
    if (value.size() > kMaxLabelBytes) return BadText("labels: the value of " + key, value, kMaxLabelBytes, "text");
  }
  return absl::OkStatus();
}

absl::Status CheckTimeout(const v1::JobSpec& spec) {
  if (!spec.has_attempt_timeout()) return absl::OkStatus();
  const absl::Duration timeout = FromProto(spec.attempt_timeout());
  if (timeout > absl::ZeroDuration() && timeout <= kMaxAttemptTimeout) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("attempt_timeout is ", absl::FormatDuration(timeout),
                                                 "; it must be above 0 and at most ",
                                                 absl::FormatDuration(kMaxAttemptTimeout)));
}

absl::StatusOr<v1::ModelFormat> CheckModel(const Principal& caller, const std::string& id, ArtifactCatalog* catalog) {
  ASSIGN_OR_RETURN(const v1::Model model, catalog->UseModel(caller, id));
  RETURN_IF_ERROR(
      CheckBuilt("model format", ShortName(v1::ModelFormat_Name(model.format()), "MODEL_FORMAT_"), kBuiltModelFormats));
  return model.format();
}

// Whether the method is for this kind of model, and can be written so.
absl::Status CheckMethodFits(const v1::Recipe& recipe, v1::ModelFormat model) {
  const bool language = model == v1::MODEL_FORMAT_HUGGING_FACE;
  const bool weight_only = !recipe.has_dynamic() && !recipe.has_static_int8();
  if (language != weight_only) {
    return absl::InvalidArgumentError(
        absl::StrCat("method ", std::string(MethodName(recipe)), " is for ",
                     weight_only ? "Hugging Face checkpoints" : "ONNX models", ", and the model is ",
                     language ? "a Hugging Face checkpoint: use rtn, gptq, awq, nf4 or hqq"
                              : "an ONNX file: use static or dynamic"));
  }
  if (!language && recipe.format() != v1::EXPORT_FORMAT_UNSPECIFIED && recipe.format() != v1::EXPORT_FORMAT_ONNX) {
    return absl::InvalidArgumentError(
        absl::StrCat("format ", ShortName(v1::ExportFormat_Name(recipe.format()), "EXPORT_FORMAT_"),
                     " is for Hugging Face checkpoints; an ONNX model is written as onnx"));
  }
  return absl::OkStatus();
}

absl::Status CheckDataset(const Principal& caller, const std::string& id, ArtifactCatalog* catalog) {
  return id.empty() ? absl::OkStatus() : catalog->UseDataset(caller, id).status();
}

}  // namespace

std::string_view MethodLabel(const v1::JobSpec& spec) {
  std::string_view name;
  if (spec.has_quantize()) name = MethodName(spec.quantize().recipe());
  if (spec.has_analyze()) name = MethodName(spec.analyze().recipe());
  return name.empty() ? "none" : name;
}

absl::Status CheckSpec(v1::JobSpec* spec) {
  const std::string_view kind = JobKindName(*spec);
  if (kind.empty()) {
    return absl::InvalidArgumentError("spec has no kind; set one of quantize, benchmark, tune");
  }
  RETURN_IF_ERROR(CheckBuilt("kind", kind, kBuiltKinds));
  if (spec->ByteSizeLong() > kMaxSpecBytes) {
    return absl::InvalidArgumentError(absl::StrCat("spec has ", spec->ByteSizeLong(), " bytes; at most ", kMaxSpecBytes,
                                                   " are taken: use patterns instead of one rule per layer"));
  }
  RETURN_IF_ERROR(CheckTimeout(*spec));
  RETURN_IF_ERROR(InRange("max_attempts", spec->max_attempts(), 0, kMaxMaxAttempts));
  RETURN_IF_ERROR(InRange("priority", spec->priority(), 0, kLowestPriority));
  RETURN_IF_ERROR(CheckLabels(*spec));
  if (spec->has_quantize()) RETURN_IF_ERROR(CheckQuantize(spec->quantize()));
  if (spec->has_benchmark()) RETURN_IF_ERROR(CheckBenchmark(spec->benchmark()));
  if (spec->has_tune()) RETURN_IF_ERROR(CheckTune(spec->tune()));
  if (!spec->has_attempt_timeout()) SetProto(kDefaultAttemptTimeout, spec->mutable_attempt_timeout());
  if (spec->max_attempts() == 0) spec->set_max_attempts(kDefaultMaxAttempts);
  if (spec->priority() == 0) spec->set_priority(kDefaultPriority);
  return absl::OkStatus();
}

absl::Status CheckInputs(const Principal& caller, const v1::JobSpec& spec, ArtifactCatalog* catalog) {
  const JobInputs inputs = InputsOf(spec);
  ASSIGN_OR_RETURN(const v1::ModelFormat format, CheckModel(caller, inputs.model, catalog));
  if (spec.has_quantize()) RETURN_IF_ERROR(CheckMethodFits(spec.quantize().recipe(), format));
  for (const v1::Recipe& candidate : spec.tune().candidates()) RETURN_IF_ERROR(CheckMethodFits(candidate, format));
  if (!inputs.baseline.empty()) RETURN_IF_ERROR(CheckModel(caller, inputs.baseline, catalog).status());
  RETURN_IF_ERROR(CheckDataset(caller, inputs.calibration, catalog));
  return CheckDataset(caller, inputs.evaluation, catalog);
}

}  // namespace quant

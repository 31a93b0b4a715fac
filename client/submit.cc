// SPDX-License-Identifier: Apache-2.0
#include "client/submit.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/recipe_file.h"
#include "common/proto_time.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/proto_fields.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

constexpr const char* kKinds[] = {"quantize", "calibrate", "benchmark", "analyze", "tune"};

// Flags that only some kinds have, and whether they need them.
struct KindFlag {
  const char* flag;
  const char* kinds;
  const char* needed_by;
};
constexpr KindFlag kKindFlags[] = {
    {"calibration", "quantize calibrate analyze tune", "calibrate analyze"},
    {"evaluation", "quantize benchmark tune", "tune"},
    {"baseline", "benchmark", ""},
    {"name", "quantize tune", ""},
    {"objective", "tune", ""},
    {"recipe", "quantize calibrate benchmark analyze tune", ""},
};

bool Has(const char* words, std::string_view word) {
  const std::vector<std::string> list = absl::StrSplit(words, ' ');
  return std::find(list.begin(), list.end(), word) != list.end();
}

}  // namespace

absl::Status AddLabel(std::string_view text, std::vector<std::pair<std::string, std::string>>& labels) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0 || !IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("--label wants KEY=VALUE, not ", Quoted(text)));
  }
  std::string key(text.substr(0, equals));
  for (const auto& [known, value] : labels) {
    if (known == key) return absl::InvalidArgumentError(absl::StrCat("--label ", Quoted(key), " is given twice"));
  }
  labels.emplace_back(std::move(key), text.substr(equals + 1));
  return absl::OkStatus();
}

void SubmitFlags::AddTo(FlagSet& flags) {
  flags.Add("kind", &kind_, absl::StrJoin(kKinds, "|"), "What the job does.");
  flags.Add("model", &model_, "ID", "The model, m-…. Needed.");
  flags.Add(
      "recipe", &recipes_, "FILE",
      "A recipe as JSON or protobuf text; flags given besides override it. For --kind tune it may be repeated, each "
      "one a candidate.");
  flags.Add("calibration", &calibration_, "DATASET", "Data to find activation ranges and statistics on, d-….");
  flags.Add("evaluation", &evaluation_, "DATASET", "Data to measure on, d-….");
  flags.Add("baseline", &baseline_, "MODEL", "For --kind benchmark: the model to compare with, as the original.");
  flags.Add("name", &name_, "NAME",
            "Name of the model made; default: the input's name, \"-\" and the method, or \"-tuned\".");
  flags.Add("objective", &objective_, "size|latency",
            "For --kind tune: what is made smallest among the candidates that keep --max-drop; default size.");
  flags.Add("priority", &priority_, "1..5", "1 is first, 5 last.");
  flags.Add("max-attempts", &max_attempts_, "N", "Attempts before the job is given up.");
  flags.Add("timeout", &timeout_, "DURATION", "Time one attempt may take, e.g. 30m.");
  flags.Add("label", &labels_, "KEY=VALUE", "A label to find the job by. Repeatable.");
  flags.Add("request-id", &request_id_, "UUID",
            "Makes submitting safe to repeat: the same id again returns the job that is there. Default: made up.");
  flags.Add("no-cache", &no_cache_, "", "Run even where the same model, data and recipe were run before.");
  recipe_.AddTo(flags);
}

absl::Status SubmitFlags::CheckKind(const FlagSet& flags) const {
  if (std::find(std::begin(kKinds), std::end(kKinds), kind_) == std::end(kKinds)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no kind ", Quoted(kind_), "; there are ", absl::StrJoin(kKinds, ", ")));
  }
  if (model_.empty()) return absl::InvalidArgumentError("no model: give --model ID (quantctl model list shows them)");
  for (const KindFlag& row : kKindFlags) {
    if (flags.IsSet(row.flag) && !Has(row.kinds, kind_)) {
      return absl::InvalidArgumentError(absl::StrCat("--", row.flag, " does not belong to --kind ", kind_,
                                                     ": it is for ",
                                                     absl::StrJoin(absl::StrSplit(row.kinds, ' '), ", ")));
    }
    if (!flags.IsSet(row.flag) && *row.needed_by != '\0' && Has(row.needed_by, kind_)) {
      return absl::InvalidArgumentError(absl::StrCat("--kind ", kind_, " needs --", row.flag, " DATASET"));
    }
  }
  for (const std::string& text : {model_, baseline_, calibration_, evaluation_, name_, request_id_}) {
    if (!IsValidUtf8(text)) return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not UTF-8"));
  }
  if (recipes_.size() > 1 && kind_ != "tune") {
    return absl::InvalidArgumentError("--recipe may be repeated for --kind tune only");
  }
  if (kind_ != "tune" && kind_ != "quantize" && kind_ != "analyze") {
    for (const char* flag : {"max-drop", "candidates"}) {
      if (flags.IsSet(flag)) {
        return absl::InvalidArgumentError(absl::StrCat("--", flag, " does not belong to --kind ", kind_));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::SubmitJobRequest> SubmitFlags::Build(const FlagSet& flags) const {
  RETURN_IF_ERROR(CheckKind(flags));
  v1::SubmitJobRequest request;
  v1::JobSpec& spec = *request.mutable_spec();
  std::vector<v1::Recipe> files;
  for (const std::string& path : recipes_) {
    ASSIGN_OR_RETURN(v1::Recipe recipe, ReadRecipe(path));
    files.push_back(std::move(recipe));
  }
  v1::Recipe recipe;
  if (!files.empty() && kind_ != "tune") recipe = files[0];
  const RecipeParts parts = kind_ == "calibrate"   ? RecipeParts::kCalibration
                            : kind_ == "benchmark" ? RecipeParts::kEvaluation
                            : kind_ == "tune"      ? RecipeParts::kData
                                                   : RecipeParts::kAll;
  RETURN_IF_ERROR(recipe_.Apply(flags, parts, kind_, recipe));

  if (kind_ == "quantize") {
    v1::QuantizeSpec& quantize = *spec.mutable_quantize();
    quantize.set_model_id(model_);
    *quantize.mutable_recipe() = std::move(recipe);
    quantize.set_calibration_dataset_id(calibration_);
    quantize.set_evaluation_dataset_id(evaluation_);
    quantize.set_output_name(name_);
  } else if (kind_ == "calibrate") {
    v1::CalibrateSpec& calibrate = *spec.mutable_calibrate();
    calibrate.set_model_id(model_);
    calibrate.set_dataset_id(calibration_);
    *calibrate.mutable_calibration() = std::move(*recipe.mutable_calibration());
  } else if (kind_ == "benchmark") {
    v1::BenchmarkSpec& benchmark = *spec.mutable_benchmark();
    benchmark.set_model_id(model_);
    benchmark.set_dataset_id(evaluation_);
    benchmark.set_baseline_model_id(baseline_);
    *benchmark.mutable_evaluation() = std::move(*recipe.mutable_evaluation());
  } else if (kind_ == "analyze") {
    v1::AnalyzeSpec& analyze = *spec.mutable_analyze();
    analyze.set_model_id(model_);
    analyze.set_dataset_id(calibration_);
    *analyze.mutable_recipe() = std::move(recipe);
  } else {
    v1::TuneSpec& tune = *spec.mutable_tune();
    tune.set_model_id(model_);
    tune.set_calibration_dataset_id(calibration_);
    tune.set_evaluation_dataset_id(evaluation_);
    for (v1::Recipe& file : files) *tune.add_candidates() = std::move(file);
    if (flags.IsSet("candidates")) {
      for (absl::string_view text : absl::StrSplit(recipe_.Value("candidates"), ',')) {
        absl::StatusOr<v1::Recipe> candidate = ParseCandidate(StdView(text));
        if (!candidate.ok()) {
          return absl::InvalidArgumentError(absl::StrCat("--candidates: ", candidate.status().message()));
        }
        *tune.add_candidates() = *std::move(candidate);
      }
    }
    if (recipe.has_calibration()) *tune.mutable_calibration() = std::move(*recipe.mutable_calibration());
    if (recipe.has_evaluation()) *tune.mutable_evaluation() = std::move(*recipe.mutable_evaluation());
    tune.set_output_name(name_);
    if (flags.IsSet("max-drop")) RETURN_IF_ERROR(SetPath(tune, "max_drop", recipe_.Value("max-drop")));
    if (flags.IsSet("objective")) RETURN_IF_ERROR(SetPath(tune, "objective", objective_));
  }
  if (flags.IsSet("priority")) spec.set_priority(priority_);
  if (flags.IsSet("max-attempts")) spec.set_max_attempts(max_attempts_);
  if (flags.IsSet("timeout")) SetProto(timeout_, spec.mutable_attempt_timeout());
  std::vector<std::pair<std::string, std::string>> labels;
  for (const std::string& label : labels_) RETURN_IF_ERROR(AddLabel(label, labels));
  for (auto& [key, value] : labels) (*spec.mutable_labels())[key] = std::move(value);
  request.set_no_cache(no_cache_);
  request.set_request_id(request_id_.empty() ? RandomId("", 32) : request_id_);
  return request;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "client/recipe_flags.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/method_name.h"
#include "common/view/proto_fields.h"
#include "quant/v1/recipe.pb.h"

namespace quant {
namespace {

using google::protobuf::FieldDescriptor;

enum class Group { kMethod, kCalibration, kEvaluation, kRecipe };
enum class Type { kValue, kBool, kBytes, kCommaList, kRepeated };

// `methods`: blank-separated; empty means every one. `path`: of the field, "$" being the method's own message. A flag
// may have several rows, for methods that keep the field elsewhere; the first one's value and help count. An empty
// `value` is filled with the choices of the field's enum.
struct Row {
  const char* flag;
  const char* value;
  Group group;
  const char* methods;
  const char* path;
  const char* help;
  Type type = Type::kValue;
};

constexpr char kGrid[] = "rtn gptq awq hqq";

constexpr Row kRows[] = {
    {"bits", "N", Group::kMethod, kGrid, "$.grid.bits", "Bits per weight: 2, 3, 4 or 8."},
    {"group-size", "N", Group::kMethod, kGrid, "$.grid.group_size",
     "Input channels that share a scale: 16 to 256, or -1 for one group per row."},
    {"symmetry", "", Group::kMethod, kGrid, "$.grid.symmetry", "Where zero sits in the weights' grid."},
    {"symmetry", "", Group::kMethod, "dynamic static", "$.weight_symmetry", ""},
    {"scale-search", "", Group::kMethod, kGrid, "$.grid.scale_search", "How the scale of a group is found."},
    {"weight-granularity", "per-tensor|per-channel", Group::kMethod, "dynamic static", "$.weight_granularity",
     "What shares a scale in the weights; per-channel by default."},
    {"reduce-range", "", Group::kMethod, "dynamic static", "$.reduce_range",
     "Whether weights are kept to 7 bits where 8 would saturate on CPUs without VNNI."},
    {"activation-symmetry", "", Group::kMethod, "static", "$.activation_symmetry",
     "Where zero sits in the activations' grid; asymmetric by default."},
    {"activation-type", "", Group::kMethod, "static", "$.activation_type",
     "8-bit type of activations; uint8 by default."},
    {"skip-first", "", Group::kMethod, "static", "$.skip_first", "Leave the first layer in floating point.",
     Type::kBool},
    {"skip-last", "", Group::kMethod, "static", "$.skip_last", "Leave the last layer in floating point.", Type::kBool},
    {"op-types", "OP,OP", Group::kMethod, "static", "$.op_types",
     "Operator types to quantize, e.g. Conv,Gemm; default: all that have an int8 kernel.", Type::kCommaList},
    {"bias-correction", "", Group::kMethod, "static", "$.bias_correction",
     "Add each layer's mean output error to its bias.", Type::kBool},
    {"cross-layer-equalization", "", Group::kMethod, "static", "$.cross_layer_equalization",
     "Equalize channel ranges of consecutive layers first.", Type::kBool},
    {"alpha", "X", Group::kMethod, "smoothquant", "$.alpha", "Migration strength from 0 to 1; default 0.5."},
    {"auto-alpha", "", Group::kMethod, "smoothquant", "$.auto_alpha", "Choose alpha per layer by measured error.",
     Type::kBool},
    {"alpha-min", "X", Group::kMethod, "smoothquant", "$.alpha_min", "Lower search bound of --auto-alpha; default 0."},
    {"alpha-max", "X", Group::kMethod, "smoothquant", "$.alpha_max", "Upper search bound of --auto-alpha; default 1."},
    {"alpha-step", "X", Group::kMethod, "smoothquant", "$.alpha_step", "Search step of --auto-alpha; default 0.1."},
    {"activation-granularity", "per-token|per-tensor", Group::kMethod, "smoothquant", "$.activation_granularity",
     "Activation ranges: per-token, found at run time (default), or per-tensor, from calibration."},
    {"act-order", "", Group::kMethod, "gptq", "$.act_order", "Order in which columns are visited; default static."},
    {"damping", "X", Group::kMethod, "gptq", "$.damping",
     "Fraction of the mean Hessian diagonal added to it; default 0.01."},
    {"block-size", "N", Group::kMethod, "gptq nf4", "$.block_size",
     "gptq: columns per lazy batch (128). nf4: weights per absmax (64)."},
    {"true-sequential", "", Group::kMethod, "gptq", "$.true_sequential",
     "Run a block again between its groups of layers; on by default.", Type::kBool},
    {"descent-passes", "N", Group::kMethod, "gptq", "$.descent_passes",
     "Coordinate-descent passes afterwards; default 1."},
    {"compensate", "", Group::kMethod, "gptq", "$.compensate",
     "Make good what earlier layers did to a layer's inputs; on by default.", Type::kBool},
    {"min-token-fraction", "X", Group::kMethod, "gptq", "$.min_token_fraction",
     "A module that saw fewer tokens than this fraction of those expected falls back to rtn; default 0.005."},
    {"grid-points", "N", Group::kMethod, "awq", "$.grid_points", "Points of the scale search; default 20."},
    {"duo-scaling", "", Group::kMethod, "awq", "$.duo_scaling",
     "Also divide by the weights' mean magnitude; by default both forms are tried.", Type::kBool},
    {"clip-search", "", Group::kMethod, "awq", "$.clip_search", "Search a clipping ratio per group; on by default.",
     Type::kBool},
    {"then-gptq", "", Group::kMethod, "awq", "$.then_gptq", "Run GPTQ on the scaled weights.", Type::kBool},
    {"double-quantization", "", Group::kMethod, "nf4", "$.double_quantization",
     "Quantize the absmax values too; on by default.", Type::kBool},
    {"fp4", "", Group::kMethod, "nf4", "$.fp4", "The FP4 table instead of NF4.", Type::kBool},
    {"absmax-search", "", Group::kMethod, "nf4", "$.absmax_search",
     "Search absmax by weighted error; off gives bitsandbytes' own bytes.", Type::kBool},
    {"threshold", "X", Group::kMethod, "llm_int8", "$.threshold",
     "Columns with an activation at or above this stay in floating point; default 6."},
    {"norm", "X", Group::kMethod, "hqq", "$.p", "Norm of the error; default 0.7."},
    {"iterations", "N", Group::kMethod, "hqq", "$.iterations", "Iterations; default 20."},
    {"candidates", "M[:BITS[:GROUP]],…", Group::kMethod, "mixed", "$.candidates",
     "Methods to choose from, e.g. rtn:4:128,rtn:8,static. Also for --kind tune, where the default is a standard set.",
     Type::kCommaList},
    {"bits-per-weight", "X", Group::kMethod, "mixed", "$.bits_per_weight", "Budget: mean bits per weight at most."},
    {"max-drop", "X", Group::kMethod, "mixed", "$.max_drop",
     "Budget: loss of accuracy at most: points of top-1, or a fraction of the perplexity (0.05 is 5 %). Also for "
     "--kind "
     "tune, without labels as a fraction of the outputs; default there 1 point or 0.05."},
    {"max-size", "BYTES", Group::kMethod, "mixed", "$.size_bytes", "Budget: size on disk at most, e.g. 40MiB.",
     Type::kBytes},
    {"sensitivity", "", Group::kMethod, "mixed", "$.sensitivity", "How layers are ranked."},

    {"observer", "", Group::kCalibration, "static smoothquant mixed", "calibration.observer",
     "How an activation's range is found; default histogram-mse."},
    {"percentile", "X", Group::kCalibration, "static smoothquant mixed", "calibration.percentile",
     "For --observer percentile (which it implies): share of values kept, in percent; default 99.99."},
    {"averaging-constant", "X", Group::kCalibration, "static smoothquant mixed", "calibration.averaging_constant",
     "For --observer moving-average: weight of the newest batch; default 0.01."},
    {"bins", "N", Group::kCalibration, "static smoothquant mixed", "calibration.bins",
     "Histogram bins, a power of two; default 2048."},
    {"calibration-samples", "N", Group::kCalibration, "", "calibration.samples",
     "Samples to use, from the dataset's start; 0: all."},
    {"calibration-batch", "N", Group::kCalibration, "", "calibration.batch_size", "Samples per batch; default 32."},
    {"sequence-length", "N", Group::kCalibration, "", "calibration.sequence_length",
     "Tokens per text sample; default 512."},

    {"evaluation-samples", "N", Group::kEvaluation, "", "evaluation.samples", "Samples to measure on; 0: all."},
    {"evaluation-skip", "N", Group::kEvaluation, "", "evaluation.skip",
     "Samples left out from the dataset's start, so that one dataset serves calibration and evaluation."},
    {"evaluation-batch", "N", Group::kEvaluation, "", "evaluation.batch_size", "Samples per batch; default 32."},
    {"latency-runs", "N", Group::kEvaluation, "", "evaluation.latency_runs",
     "Timed runs of each model; default 200, -1 for none."},
    {"throughput-batch", "N", Group::kEvaluation, "", "evaluation.throughput_batch",
     "Batch size of the throughput measurement; default 16."},
    {"threads", "N", Group::kEvaluation, "", "evaluation.threads",
     "Threads of the measured runs; default: the worker's."},
    {"skip-error-profile", "", Group::kEvaluation, "", "evaluation.skip_error_profile",
     "Do not measure the error of each layer.", Type::kBool},

    {"skip", "GLOB", Group::kRecipe, "", "rules",
     "Leave layers whose name matches in floating point (\"*\", \"?\", or \"re:\" and a regular expression). "
     "Repeatable.",
     Type::kRepeated},
    {"format", "", Group::kRecipe, "", "format", "What is written; default: natural for method and model."},
    {"seed", "N", Group::kRecipe, "", "seed", "Seed of every random choice; default 0."},
    {"memory", "BYTES", Group::kRecipe, "", "memory_bytes", "Memory the job may use, e.g. 4GiB; default: the worker's.",
     Type::kBytes},
};

// The oneof's member for a method's name.
std::string FieldOfMethod(std::string_view name) {
  if (name == "static") return "static_int8";
  if (name == "fp16" || name == "bf16") return "half";
  return std::string(name);
}

bool Belongs(const Row& row, std::string_view method) {
  if (*row.methods == '\0') return true;
  const std::vector<std::string> methods = absl::StrSplit(row.methods, ' ');
  return std::find(methods.begin(), methods.end(), method) != methods.end();
}

std::string MethodsOf(std::string_view flag) {
  std::vector<std::string> methods;
  for (const Row& row : kRows) {
    if (row.flag == flag) methods.push_back(absl::StrReplaceAll(row.methods, {{" ", ", "}}));
  }
  return absl::StrJoin(methods, ", ");
}

// The field that a row sets for one of its methods.
const FieldDescriptor& FieldOf(const Row& row, std::string_view method) {
  return FieldAt(v1::Recipe::default_instance(), absl::StrReplaceAll(row.path, {{"$", FieldOfMethod(method)}}));
}

// The first method a row is for; any method will do for a row without "$".
std::string AnyMethod(const Row& row) {
  return *row.methods == '\0' ? "static" : std::string(*absl::StrSplit(row.methods, ' ').begin());
}

// The choices for --format as users know them: "compressed-tensors", not "compressed_tensors".
std::string ValueName(const Row& row) {
  if (*row.value != '\0') return row.value;
  const FieldDescriptor& field = FieldOf(row, AnyMethod(row));
  return field.enum_type() == nullptr ? "" : EnumChoices(*field.enum_type());
}

absl::Status Wrong(std::string_view flag, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("--", AbslView(flag), ": ", status.message()));
}

}  // namespace

const std::vector<std::string>& MethodNames() {
  static const auto* const names = new std::vector<std::string>{
      "dynamic", "static", "smoothquant", "rtn", "gptq", "awq", "nf4", "llm_int8", "fp16", "bf16", "mixed", "hqq"};
  return *names;
}

absl::Status SetMethod(std::string_view name, v1::Recipe& recipe) {
  const auto& names = MethodNames();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no method ", Quoted(name), "; there are ", absl::StrJoin(names, ", ")));
  }
  const FieldDescriptor& field = FieldAt(recipe, FieldOfMethod(name));
  if (recipe.method_case() != field.number()) recipe.GetReflection()->MutableMessage(&recipe, &field);
  if (name == "fp16") recipe.mutable_half()->set_type(v1::HALF_TYPE_FP16);
  if (name == "bf16") recipe.mutable_half()->set_type(v1::HALF_TYPE_BF16);
  return absl::OkStatus();
}

absl::StatusOr<v1::Recipe> ParseCandidate(std::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(AbslView(text), ':');
  v1::Recipe recipe;
  RETURN_IF_ERROR(SetMethod(parts[0], recipe));
  const char* const flags[] = {"bits", "group-size"};
  if (parts.size() > 3)
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " has more than METHOD:BITS:GROUP"));
  for (size_t i = 1; i < parts.size(); ++i) {
    const Row* row = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) {
      return std::string_view(r.flag) == flags[i - 1] && Belongs(r, parts[0]);
    });
    if (row == std::end(kRows)) {
      return absl::InvalidArgumentError(
          absl::StrCat("method ", parts[0], " has no ", flags[i - 1], ": write ", parts[0], " alone"));
    }
    RETURN_IF_ERROR(SetPath(recipe, absl::StrReplaceAll(row->path, {{"$", FieldOfMethod(parts[0])}}), parts[i]));
  }
  return recipe;
}

RecipeFlags::RecipeFlags() = default;
RecipeFlags::~RecipeFlags() = default;

void RecipeFlags::AddTo(FlagSet& flags) {
  flags.Add("method", &targets_["method"].text, absl::StrJoin(MethodNames(), "|"), "How to quantize.");
  for (const Row& row : kRows) {
    const auto [it, is_new] = targets_.try_emplace(row.flag);
    if (!is_new) continue;
    const std::string help =
        absl::StrCat(row.help, *row.methods == '\0' ? "" : absl::StrCat(" [", MethodsOf(row.flag), "]"));
    if (row.type == Type::kBool) {
      flags.Add(row.flag, &it->second.boolean, "", help);
    } else if (row.type == Type::kRepeated) {
      flags.Add(row.flag, &it->second.list, ValueName(row), help);
    } else {
      flags.Add(row.flag, &it->second.text, ValueName(row), help);
    }
  }
}

const std::string& RecipeFlags::Value(std::string_view flag) const {
  const auto it = targets_.find(flag);
  CHECK(it != targets_.end()) << flag;
  return it->second.text;
}

absl::Status RecipeFlags::Apply(const FlagSet& flags, RecipeParts parts, std::string_view kind,
                                v1::Recipe& recipe) const {
  if (flags.IsSet("method")) {
    if (parts != RecipeParts::kAll) {
      return absl::InvalidArgumentError(
          absl::StrCat("--method does not belong to --kind ", AbslView(kind), ": it is for quantize and analyze"));
    }
    if (absl::Status status = SetMethod(Value("method"), recipe); !status.ok()) return Wrong("method", status);
  }
  const std::string method(MethodName(recipe));
  if (parts == RecipeParts::kAll && method.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("no method: give --method, one of ",
                                                   absl::StrJoin(MethodNames(), ", "), ", or a --recipe that has one"));
  }
  std::string budget;
  for (auto row = std::begin(kRows); row != std::end(kRows); ++row) {
    if (!flags.IsSet(row->flag)) continue;
    const std::string flag = row->flag;
    if (parts == RecipeParts::kData && (flag == "max-drop" || flag == "candidates")) continue;  // TuneSpec has its own
    const bool wanted = parts == RecipeParts::kAll ||
                        (parts != RecipeParts::kEvaluation && row->group == Group::kCalibration) ||
                        (parts != RecipeParts::kCalibration && row->group == Group::kEvaluation);
    if (!wanted) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, " does not belong to --kind ", AbslView(kind),
                       row->group == Group::kCalibration  ? ": it is for quantize, analyze, tune and calibrate"
                       : row->group == Group::kEvaluation ? ": it is for quantize, analyze, tune and benchmark"
                                                          : ": it is for quantize and analyze"));
    }
    if (parts == RecipeParts::kAll && !Belongs(*row, method)) {
      // Another row of the same flag may be for this method.
      const bool elsewhere = std::any_of(std::begin(kRows), std::end(kRows),
                                         [&](const Row& r) { return r.flag == flag && Belongs(r, method); });
      if (elsewhere) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, " belongs to ", MethodsOf(flag), ", not to method ", method));
    }
    const Target& target = targets_.find(flag)->second;
    const std::string path = absl::StrReplaceAll(row->path, {{"$", FieldOfMethod(method)}});
    if (flag == "bits-per-weight" || flag == "max-drop" || flag == "max-size") {
      if (!budget.empty())
        return absl::InvalidArgumentError(absl::StrCat("--", flag, " and --", budget, " exclude each other"));
      budget = flag;
    }
    absl::Status status;
    if (flag == "skip") {
      for (const std::string& glob : target.list) {
        if (glob.empty() || !IsValidUtf8(glob))
          return absl::InvalidArgumentError("--skip wants the name of a layer or a pattern");
        v1::LayerRule& rule = *recipe.add_rules();
        rule.set_name(glob);
        rule.set_skip(true);
      }
    } else if (flag == "candidates") {
      recipe.mutable_mixed()->clear_candidates();
      for (absl::string_view text : absl::StrSplit(target.text, ',')) {
        absl::StatusOr<v1::Recipe> candidate = ParseCandidate(StdView(text));
        if (!candidate.ok()) return Wrong(flag, candidate.status());
        *recipe.mutable_mixed()->add_candidates() = *std::move(candidate);
      }
    } else if (row->type == Type::kCommaList) {
      recipe.mutable_static_int8()->clear_op_types();
      for (absl::string_view text : absl::StrSplit(target.text, ',', absl::SkipEmpty())) {
        status.Update(SetPath(recipe, path, StdView(text)));
      }
    } else if (row->type == Type::kBool) {
      status = SetPath(recipe, path, target.boolean ? "true" : "false");
    } else if (row->type == Type::kBytes) {
      absl::StatusOr<int64_t> bytes = ParseBytes(target.text);
      if (!bytes.ok())
        return Wrong(flag,
                     absl::InvalidArgumentError(absl::StrCat(Quoted(target.text), " ", bytes.status().message())));
      status = SetPath(recipe, path, std::to_string(*bytes));
    } else {
      status = SetPath(recipe, path, target.text);
    }
    if (!status.ok()) return Wrong(flag, status);
  }
  if (flags.IsSet("percentile")) {
    v1::Calibration& calibration = *recipe.mutable_calibration();
    if (calibration.observer() == v1::OBSERVER_UNSPECIFIED) calibration.set_observer(v1::OBSERVER_PERCENTILE);
    if (calibration.observer() != v1::OBSERVER_PERCENTILE) {
      return absl::InvalidArgumentError("--percentile goes with --observer percentile only");
    }
  }
  return absl::OkStatus();
}

}  // namespace quant

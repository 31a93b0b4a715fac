// SPDX-License-Identifier: Apache-2.0
#include "worker/job/recipe.h"

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

using quant::v1::Recipe;

// Sets an enum field that is 0 ("unspecified") to its default.
template <typename Message, typename Enum>
void Default(Message* m, Enum (Message::*get)() const, void (Message::*set)(Enum), Enum otherwise) {
  if (static_cast<int>((m->*get)()) == 0) (m->*set)(otherwise);
}

void ResolveStatic(quant::v1::StaticInt8* s) {
  using S = quant::v1::StaticInt8;
  Default(s, &S::weight_granularity, &S::set_weight_granularity, quant::v1::GRANULARITY_PER_CHANNEL);
  Default(s, &S::weight_symmetry, &S::set_weight_symmetry, quant::v1::SYMMETRY_SYMMETRIC);
  Default(s, &S::activation_symmetry, &S::set_activation_symmetry, quant::v1::SYMMETRY_ASYMMETRIC);
  Default(s, &S::activation_type, &S::set_activation_type, quant::v1::ACTIVATION_TYPE_UINT8);
  Default(s, &S::reduce_range, &S::set_reduce_range, quant::v1::REDUCE_RANGE_AUTO);
}

void ResolveDynamic(quant::v1::DynamicInt8* d) {
  using D = quant::v1::DynamicInt8;
  Default(d, &D::weight_granularity, &D::set_weight_granularity, quant::v1::GRANULARITY_PER_CHANNEL);
  Default(d, &D::weight_symmetry, &D::set_weight_symmetry, quant::v1::SYMMETRY_SYMMETRIC);
  Default(d, &D::reduce_range, &D::set_reduce_range, quant::v1::REDUCE_RANGE_AUTO);
}

LayerSelection Selection(const Recipe& recipe) {
  LayerSelection s;
  for (const quant::v1::LayerRule& rule : recipe.rules()) {
    s.rules.push_back({.name = rule.name(), .op_type = rule.op_type(), .skip = rule.skip()});
  }
  return s;
}

ReduceRange FromProto(quant::v1::ReduceRange r) {
  switch (r) {
    case quant::v1::REDUCE_RANGE_NEVER:
      return ReduceRange::kNever;
    case quant::v1::REDUCE_RANGE_ALWAYS:
      return ReduceRange::kAlways;
    default:
      return ReduceRange::kAuto;
  }
}

WeightGranularity FromProto(quant::v1::Granularity g) {
  return g == quant::v1::GRANULARITY_PER_TENSOR ? WeightGranularity::kPerTensor : WeightGranularity::kPerChannel;
}

Observer FromProto(quant::v1::Observer o) {
  switch (o) {
    case quant::v1::OBSERVER_MIN_MAX:
      return Observer::kMinMax;
    case quant::v1::OBSERVER_MOVING_AVERAGE:
      return Observer::kMovingAverage;
    case quant::v1::OBSERVER_PERCENTILE:
      return Observer::kPercentile;
    case quant::v1::OBSERVER_ENTROPY:
      return Observer::kEntropy;
    default:
      return Observer::kHistogramMse;
  }
}

}  // namespace

std::string MethodName(const Recipe& recipe) {
  switch (recipe.method_case()) {
    case Recipe::kDynamic:
      return "dynamic";
    case Recipe::kStaticInt8:
      return "static";
    case Recipe::kSmoothquant:
      return "smoothquant";
    case Recipe::kRtn:
      return "rtn";
    case Recipe::kGptq:
      return "gptq";
    case Recipe::kAwq:
      return "awq";
    case Recipe::kNf4:
      return "nf4";
    case Recipe::kLlmInt8:
      return "llm_int8";
    case Recipe::kHalf:
      return recipe.half().type() == quant::v1::HALF_TYPE_BF16 ? "bf16" : "fp16";
    case Recipe::kMixed:
      return "mixed";
    case Recipe::kHqq:
      return "hqq";
    case Recipe::METHOD_NOT_SET:
      break;
  }
  return "none";
}

absl::StatusOr<Recipe> ResolveRecipe(Recipe recipe) {
  switch (recipe.method_case()) {
    case Recipe::kStaticInt8:
      ResolveStatic(recipe.mutable_static_int8());
      break;
    case Recipe::kDynamic:
      ResolveDynamic(recipe.mutable_dynamic());
      break;
    default:
      return absl::UnimplementedError(
          absl::StrCat("method '", MethodName(recipe), "' is not built yet; there are: static, dynamic"));
  }
  for (const quant::v1::LayerRule& rule : recipe.rules()) {
    if (rule.action_case() != quant::v1::LayerRule::kSkip) {
      return absl::UnimplementedError(absl::StrCat("rule '", rule.name(), "': the INT8 methods know the action skip"));
    }
  }
  if (recipe.format() == quant::v1::EXPORT_FORMAT_UNSPECIFIED) recipe.set_format(quant::v1::EXPORT_FORMAT_ONNX);
  if (recipe.format() != quant::v1::EXPORT_FORMAT_ONNX) {
    return absl::UnimplementedError(
        absl::StrCat("format ", quant::v1::ExportFormat_Name(recipe.format()), " is not built yet; there is: onnx"));
  }
  quant::v1::Calibration* c = recipe.mutable_calibration();
  using C = quant::v1::Calibration;
  Default(c, &C::observer, &C::set_observer, quant::v1::OBSERVER_HISTOGRAM_MSE);
  if (c->percentile() == 0) c->set_percentile(99.99);
  if (c->averaging_constant() == 0) c->set_averaging_constant(0.01);
  if (c->bins() == 0) c->set_bins(2048);
  if (c->batch_size() == 0) c->set_batch_size(32);
  *recipe.mutable_evaluation() = ResolveEvaluation(recipe.evaluation());
  return recipe;
}

StaticInt8Options StaticOptions(const Recipe& recipe, int threads) {
  const quant::v1::StaticInt8& s = recipe.static_int8();
  StaticInt8Options o;
  o.layers = Selection(recipe);
  o.layers.op_types.insert(s.op_types().begin(), s.op_types().end());
  o.layers.skip_first = s.skip_first();
  o.layers.skip_last = s.skip_last();
  o.weight_granularity = FromProto(s.weight_granularity());
  o.symmetric_weights = s.weight_symmetry() != quant::v1::SYMMETRY_ASYMMETRIC;
  o.symmetric_activations = s.activation_symmetry() != quant::v1::SYMMETRY_ASYMMETRIC;
  o.int8_activations = s.activation_type() == quant::v1::ACTIVATION_TYPE_INT8;
  o.reduce_range = FromProto(s.reduce_range());
  o.observer.observer = FromProto(recipe.calibration().observer());
  o.observer.percentile = recipe.calibration().percentile();
  o.bias_correction = s.bias_correction();
  o.cross_layer_equalization = s.cross_layer_equalization();
  o.threads = threads;
  return o;
}

DynamicInt8Options DynamicOptions(const Recipe& recipe) {
  const quant::v1::DynamicInt8& d = recipe.dynamic();
  return {.layers = Selection(recipe),
          .weight_granularity = FromProto(d.weight_granularity()),
          .symmetric_weights = d.weight_symmetry() != quant::v1::SYMMETRY_ASYMMETRIC,
          .reduce_range = FromProto(d.reduce_range())};
}

CalibrateOptions CalibrationOptions(const Recipe& recipe, int threads) {
  const quant::v1::Calibration& c = recipe.calibration();
  return {.threads = threads,
          .samples = c.samples(),
          .batch_size = c.batch_size(),
          .bins = c.bins(),
          .averaging_constant = c.averaging_constant()};
}

quant::v1::Evaluation ResolveEvaluation(quant::v1::Evaluation evaluation) {
  if (evaluation.batch_size() == 0) evaluation.set_batch_size(32);
  if (evaluation.latency_runs() == 0) evaluation.set_latency_runs(200);
  if (evaluation.throughput_batch() == 0) evaluation.set_throughput_batch(16);
  return evaluation;
}

EvaluateOptions EvaluationOptions(const quant::v1::Evaluation& e, int threads) {
  return {.skip = e.skip(),
          .samples = e.samples(),
          .batch_size = e.batch_size(),
          .threads = e.threads() > 0 ? e.threads() : threads};
}

}  // namespace quant

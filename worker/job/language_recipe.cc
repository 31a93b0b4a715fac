// SPDX-License-Identifier: Apache-2.0
#include "worker/job/language_recipe.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/job/recipe.h"
#include "worker/quantize/layer_pattern.h"

namespace quant {
namespace {

using quant::v1::Recipe;
using quant::v1::WeightGrid;
namespace wo = weight_only;

constexpr int kDefaultSamples = 128;
constexpr int kDefaultSequence = 512;

WeightGrid* MutableGrid(Recipe* recipe) {
  switch (recipe->method_case()) {
    case Recipe::kRtn:
      return recipe->mutable_rtn()->mutable_grid();
    case Recipe::kGptq:
      return recipe->mutable_gptq()->mutable_grid();
    case Recipe::kAwq:
      return recipe->mutable_awq()->mutable_grid();
    case Recipe::kHqq:
      return recipe->mutable_hqq()->mutable_grid();
    default:
      return nullptr;
  }
}

// Fills what `grid` leaves open from `base`.
void Inherit(const WeightGrid& base, WeightGrid* grid) {
  if (grid->bits() == 0) grid->set_bits(base.bits());
  if (grid->group_size() == 0) grid->set_group_size(base.group_size());
  if (grid->symmetry() == quant::v1::SYMMETRY_UNSPECIFIED) grid->set_symmetry(base.symmetry());
  if (grid->scale_search() == quant::v1::SCALE_SEARCH_UNSPECIFIED) grid->set_scale_search(base.scale_search());
}

WeightGrid DefaultGrid(const Recipe& recipe, bool has_calibration) {
  const bool symmetric = recipe.has_rtn() || recipe.has_gptq();
  WeightGrid grid;
  grid.set_bits(4);
  grid.set_group_size(recipe.has_hqq() ? 64 : 128);
  grid.set_symmetry(symmetric ? quant::v1::SYMMETRY_SYMMETRIC : quant::v1::SYMMETRY_ASYMMETRIC);
  const bool weighted = has_calibration || recipe.has_gptq() || recipe.has_awq();
  grid.set_scale_search(weighted ? quant::v1::SCALE_SEARCH_HESSIAN_MSE : quant::v1::SCALE_SEARCH_MSE);
  return grid;
}

absl::Status ResolveMethod(Recipe* recipe, bool has_calibration) {
  switch (recipe->method_case()) {
    case Recipe::kRtn:
    case Recipe::kHqq:
      break;
    case Recipe::kGptq: {
      quant::v1::Gptq* g = recipe->mutable_gptq();
      const wo::GptqOptions defaults;
      if (g->act_order() == quant::v1::ACT_ORDER_UNSPECIFIED) g->set_act_order(quant::v1::ACT_ORDER_STATIC);
      if (g->damping() == 0) g->set_damping(static_cast<float>(defaults.damping));
      if (g->block_size() == 0) g->set_block_size(defaults.block_size);
      if (!g->has_true_sequential()) g->set_true_sequential(true);
      if (!g->has_compensate()) g->set_compensate(true);
      if (!g->has_descent_passes()) g->set_descent_passes(defaults.descent_passes);
      if (!g->has_min_token_fraction()) g->set_min_token_fraction(static_cast<float>(defaults.min_token_fraction));
      break;
    }
    case Recipe::kAwq: {
      quant::v1::Awq* a = recipe->mutable_awq();
      if (a->grid_points() == 0) a->set_grid_points(20);
      if (!a->has_clip_search()) a->set_clip_search(true);
      break;
    }
    case Recipe::kNf4: {
      quant::v1::NormalFloat4* n = recipe->mutable_nf4();
      if (n->block_size() == 0) n->set_block_size(64);
      if (!n->has_double_quantization()) n->set_double_quantization(true);
      return absl::OkStatus();
    }
    default:
      return absl::UnimplementedError(absl::StrCat(
          "method '", MethodName(*recipe), "' is not built for language models; there are: rtn, gptq, awq, nf4, hqq"));
  }
  if (recipe->has_hqq()) {
    if (recipe->hqq().p() == 0) recipe->mutable_hqq()->set_p(0.7f);
    if (recipe->hqq().iterations() == 0) recipe->mutable_hqq()->set_iterations(20);
  }
  Inherit(DefaultGrid(*recipe, has_calibration), MutableGrid(recipe));
  return absl::OkStatus();
}

quant::v1::ExportFormat NaturalFormat(Recipe* recipe) {
  if (recipe->has_nf4()) return quant::v1::EXPORT_FORMAT_BITSANDBYTES;
  const int bits = MutableGrid(recipe)->bits();
  if (recipe->has_awq() && bits == 4) return quant::v1::EXPORT_FORMAT_AWQ;
  if ((recipe->has_rtn() || recipe->has_hqq()) && (bits == 4 || bits == 8)) {
    return quant::v1::EXPORT_FORMAT_COMPRESSED_TENSORS;
  }
  return quant::v1::EXPORT_FORMAT_GPTQ;
}

wo::GridOptions GridOf(const WeightGrid& g, CheckpointFormat format) {
  wo::GridOptions o;
  o.bits = g.bits();
  o.group_size = g.group_size();
  o.symmetry = g.symmetry() == quant::v1::SYMMETRY_ASYMMETRIC   ? wo::Symmetry::kAsymmetric
               : g.symmetry() == quant::v1::SYMMETRY_FULL_RANGE ? wo::Symmetry::kFullRange
                                                                : wo::Symmetry::kSymmetric;
  o.search = g.scale_search() == quant::v1::SCALE_SEARCH_MIN_MAX ? wo::ScaleSearch::kMinMax
             : g.scale_search() == quant::v1::SCALE_SEARCH_MSE   ? wo::ScaleSearch::kMse
                                                                 : wo::ScaleSearch::kWeightedMse;
  o.zero_min = LeastZeroPoint(format);
  return o;
}

LinearMethod MethodOf(const Recipe& r, const WeightGrid& grid, CheckpointFormat format, int threads) {
  LinearMethod m;
  m.name = MethodName(r);
  m.grid = GridOf(grid, format);
  switch (r.method_case()) {
    case Recipe::kRtn:
      m.kind = LinearMethod::Kind::kRtn;
      break;
    case Recipe::kGptq: {
      const quant::v1::Gptq& g = r.gptq();
      m.kind = LinearMethod::Kind::kGptq;
      m.gptq.act_order = g.act_order() == quant::v1::ACT_ORDER_OFF           ? wo::ActOrder::kOff
                         : g.act_order() == quant::v1::ACT_ORDER_DYNAMIC     ? wo::ActOrder::kDynamicGroups
                         : g.act_order() == quant::v1::ACT_ORDER_GROUP_AWARE ? wo::ActOrder::kGroupAware
                                                                             : wo::ActOrder::kStaticGroups;
      // The reference algorithm, when nothing is reordered: grids from weights as the sweep has changed them.
      if (m.gptq.act_order == wo::ActOrder::kOff) m.gptq.grid_source = wo::GridSource::kUpdated;
      m.gptq.damping = g.damping();
      m.gptq.block_size = g.block_size();
      m.gptq.descent_passes = g.descent_passes();
      m.gptq.min_token_fraction = g.min_token_fraction();
      m.gptq.threads = threads;
      break;
    }
    case Recipe::kAwq:
      m.kind = r.awq().then_gptq() ? LinearMethod::Kind::kGptq : LinearMethod::Kind::kRtn;
      m.scaled = true;
      m.gptq.threads = threads;
      m.awq.steps = r.awq().grid_points();
      m.awq.threads = threads;
      m.clip = r.awq().clip_search() && !r.awq().then_gptq();
      break;
    case Recipe::kNf4:
      m.kind = LinearMethod::Kind::kNf4;
      m.codebook.code = r.nf4().fp4() ? wo::FourBitCode::kFp4 : wo::FourBitCode::kNf4;
      m.codebook.block_size = r.nf4().block_size();
      m.codebook.double_quantization = r.nf4().double_quantization();
      m.codebook.search = r.nf4().absmax_search();
      break;
    case Recipe::kHqq:
      m.kind = LinearMethod::Kind::kHqq;
      m.hqq.p = r.hqq().p();
      m.hqq.iterations = r.hqq().iterations();
      break;
    default:
      break;
  }
  return m;
}

WeightSpec SpecOf(const LinearMethod& m) {
  if (m.kind == LinearMethod::Kind::kNf4) return {.codebook = true, .bits = 4, .group_size = m.codebook.block_size};
  return {.bits = m.grid.bits,
          .group_size = m.grid.group_size,
          .symmetric = m.grid.symmetry != wo::Symmetry::kAsymmetric,
          .dynamic_order = m.kind == LinearMethod::Kind::kGptq && m.gptq.act_order == wo::ActOrder::kDynamicGroups};
}

// The router of a mixture of experts decides, it does not transform: every published scheme leaves it alone.
bool IsRouter(const std::string& name) {
  return name.ends_with(".gate") || name.ends_with(".router") || name.ends_with(".shared_expert_gate");
}

struct Rule {
  LayerPattern pattern;
  const quant::v1::LayerRule* rule;
  bool used = false;
};

}  // namespace

absl::StatusOr<Recipe> ResolveLanguageRecipe(Recipe recipe, bool has_calibration) {
  RETURN_IF_ERROR(ResolveMethod(&recipe, has_calibration));
  for (quant::v1::LayerRule& rule : *recipe.mutable_rules()) {
    if (rule.has_grid()) {
      if (MutableGrid(&recipe) == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("rule '", rule.name(), "' sets a grid, which method ", MethodName(recipe), " has none of"));
      }
      Inherit(*MutableGrid(&recipe), rule.mutable_grid());
    } else if (rule.has_recipe()) {
      RETURN_IF_ERROR(ResolveMethod(rule.mutable_recipe(), has_calibration));
    }
  }
  if (recipe.format() == quant::v1::EXPORT_FORMAT_UNSPECIFIED) recipe.set_format(NaturalFormat(&recipe));
  quant::v1::Calibration* c = recipe.mutable_calibration();
  if (c->samples() == 0) c->set_samples(kDefaultSamples);
  if (c->sequence_length() == 0) c->set_sequence_length(kDefaultSequence);
  *recipe.mutable_evaluation() = ResolveEvaluation(recipe.evaluation());
  return recipe;
}

CheckpointFormat FormatOf(const Recipe& resolved) {
  switch (resolved.format()) {
    case quant::v1::EXPORT_FORMAT_ONNX:
      return CheckpointFormat::kOnnx;
    case quant::v1::EXPORT_FORMAT_AWQ:
      return CheckpointFormat::kAwq;
    case quant::v1::EXPORT_FORMAT_BITSANDBYTES:
      return CheckpointFormat::kBitsandbytes;
    case quant::v1::EXPORT_FORMAT_COMPRESSED_TENSORS:
      return CheckpointFormat::kCompressedTensors;
    case quant::v1::EXPORT_FORMAT_GGUF:
      return CheckpointFormat::kGguf;
    default:
      return CheckpointFormat::kGptq;
  }
}

ExportOptions ExportOptionsOf(const Recipe& resolved, std::string tool_version) {
  ExportOptions o;
  o.method = MethodName(resolved);
  o.tool_version = std::move(tool_version);
  Recipe copy = resolved;
  if (const WeightGrid* grid = MutableGrid(&copy)) {
    o.bits = grid->bits();
    o.group_size = grid->group_size();
    o.symmetric = grid->symmetry() != quant::v1::SYMMETRY_ASYMMETRIC;
  }
  if (resolved.has_gptq()) {
    o.damping = resolved.gptq().damping();
    o.true_sequential = resolved.gptq().true_sequential();
    o.static_groups = resolved.gptq().act_order() == quant::v1::ACT_ORDER_STATIC;
  }
  return o;
}

bool NeedsCalibration(const Recipe& resolved) {
  const auto needs = [](const Recipe& r) { return r.has_gptq() || r.has_awq(); };
  return needs(resolved) ||
         std::any_of(resolved.rules().begin(), resolved.rules().end(),
                     [&](const quant::v1::LayerRule& r) { return r.has_recipe() && needs(r.recipe()); });
}

absl::StatusOr<std::map<std::string, LinearMethod>> PlanLayers(const Recipe& resolved,
                                                               const std::vector<Linear>& linears, bool has_calibration,
                                                               int threads, std::vector<std::string>* notes) {
  const CheckpointFormat format = FormatOf(resolved);
  std::vector<Rule> rules;
  for (const quant::v1::LayerRule& rule : resolved.rules()) {
    ASSIGN_OR_RETURN(LayerPattern pattern, LayerPattern::Create(rule.name(), rule.op_type()));
    rules.push_back({.pattern = std::move(pattern), .rule = &rule});
  }
  Recipe copy = resolved;
  const WeightGrid grid = MutableGrid(&copy) != nullptr ? *MutableGrid(&copy) : WeightGrid();
  std::map<std::string, LinearMethod> plan;
  for (const Linear& linear : linears) {
    LinearMethod m = MethodOf(resolved, grid, format, threads);
    if (IsRouter(linear.name)) m = {.reason = "a router of experts stays in floating point"};
    for (Rule& r : rules) {
      if (!r.pattern.Matches(linear.name, "MatMul")) continue;
      r.used = true;
      if (r.rule->has_grid()) {
        m = MethodOf(resolved, r.rule->grid(), format, threads);
      } else if (r.rule->has_recipe()) {
        Recipe other = r.rule->recipe();
        m = MethodOf(other, MutableGrid(&other) != nullptr ? *MutableGrid(&other) : WeightGrid(), format, threads);
      } else if (r.rule->skip()) {
        m = {.reason = absl::StrCat("rule '", r.pattern.Text(), "'")};
      } else {
        m = MethodOf(resolved, grid, format, threads);
      }
    }
    if (m.kind != LinearMethod::Kind::kKeep) {
      const absl::Status holds = CheckFormat(format, SpecOf(m), linear.rows, linear.cols);
      if (!holds.ok()) {
        return absl::Status(holds.code(), absl::StrCat("layer '", linear.name, "': ", holds.message()));
      }
      if (!has_calibration && NeedsData(m)) {
        return absl::InvalidArgumentError(
            absl::StrCat("layer '", linear.name,
                         "': its errors are to be weighed with calibration data: submit with --calibration, or use "
                         "--scale-search mse and no --absmax-search"));
      }
    }
    plan[linear.name] = std::move(m);
  }
  for (const Rule& r : rules) {
    if (!r.used) notes->push_back(absl::StrCat("rule '", r.pattern.Text(), "' matches no linear layer"));
  }
  return plan;
}

}  // namespace quant

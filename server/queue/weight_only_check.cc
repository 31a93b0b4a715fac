// SPDX-License-Identifier: Apache-2.0
#include "server/queue/weight_only_check.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/queue/field_check.h"

namespace quant {
namespace {

absl::Status CheckGptq(const std::string& at, const v1::Gptq& g) {
  RETURN_IF_ERROR(CheckGrid(at + ".grid", g.grid()));
  if (!v1::ActOrder_IsValid(g.act_order())) return UnknownEnum(at + ".act_order", g.act_order());
  RETURN_IF_ERROR(DefaultOrUpTo(at + ".damping", g.damping(), 1));
  RETURN_IF_ERROR(InRange(at + ".block_size", g.block_size(), 0, 4096));
  RETURN_IF_ERROR(InRange(at + ".descent_passes", g.descent_passes(), 0, 100));
  return DefaultOrUpTo(at + ".min_token_fraction", g.min_token_fraction(), 1);
}

absl::Status CheckNf4(const std::string& at, const v1::NormalFloat4& n) {
  const int32_t block = n.block_size();
  if (block != 0 && (block < 32 || block > 4096 || (block & (block - 1)) != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(at, ".block_size is ", block, "; it must be a power of two from 32 to 4096, or 0 for 64"));
  }
  return absl::OkStatus();
}

absl::Status CheckHqq(const std::string& at, const v1::Hqq& h) {
  RETURN_IF_ERROR(CheckGrid(at + ".grid", h.grid()));
  RETURN_IF_ERROR(DefaultOrUpTo(at + ".p", h.p(), 1));
  return InRange(at + ".iterations", h.iterations(), 0, 1000);
}

}  // namespace

absl::Status CheckGrid(const std::string& at, const v1::WeightGrid& grid) {
  const int32_t bits = grid.bits();
  if (bits != 0 && bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return absl::InvalidArgumentError(absl::StrCat(at, ".bits is ", bits, "; it must be 2, 3, 4 or 8, or 0 for 4"));
  }
  const int32_t group = grid.group_size();
  if (group != 0 && group != -1 && (group < 16 || group > 256)) {
    return absl::InvalidArgumentError(absl::StrCat(
        at, ".group_size is ", group, "; it must be from 16 to 256, -1 for one group per row, or 0 for the default"));
  }
  if (!v1::Symmetry_IsValid(grid.symmetry())) return UnknownEnum(at + ".symmetry", grid.symmetry());
  if (!v1::ScaleSearch_IsValid(grid.scale_search())) return UnknownEnum(at + ".scale_search", grid.scale_search());
  return absl::OkStatus();
}

absl::Status CheckWeightOnly(const std::string& at, const v1::Recipe& recipe) {
  switch (recipe.method_case()) {
    case v1::Recipe::kRtn:
      return CheckGrid(at + ".rtn.grid", recipe.rtn().grid());
    case v1::Recipe::kGptq:
      return CheckGptq(at + ".gptq", recipe.gptq());
    case v1::Recipe::kAwq:
      RETURN_IF_ERROR(CheckGrid(at + ".awq.grid", recipe.awq().grid()));
      return InRange(at + ".awq.grid_points", recipe.awq().grid_points(), 0, 1000);
    case v1::Recipe::kNf4:
      return CheckNf4(at + ".nf4", recipe.nf4());
    case v1::Recipe::kHqq:
      return CheckHqq(at + ".hqq", recipe.hqq());
    default:
      return absl::OkStatus();
  }
}

}  // namespace quant

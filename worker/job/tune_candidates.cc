// SPDX-License-Identifier: Apache-2.0
#include "worker/job/tune_candidates.h"

#include <algorithm>
#include <cstdint>

#include "common/status_macros.h"
#include "worker/graph/linear.h"
#include "worker/job/load_checkpoint.h"

namespace quant {
namespace {

using quant::v1::Recipe;

std::vector<Recipe> OnnxCandidates() {
  std::vector<Recipe> all(5);
  all[0].mutable_dynamic();
  all[1].mutable_static_int8();
  all[2].mutable_static_int8();
  all[2].mutable_calibration()->set_observer(quant::v1::OBSERVER_ENTROPY);
  all[3].mutable_static_int8()->set_bias_correction(true);
  all[3].mutable_static_int8()->set_cross_layer_equalization(true);
  all[4].mutable_static_int8()->set_skip_first(true);
  all[4].mutable_static_int8()->set_skip_last(true);
  return all;
}

int32_t GroupSizeFor(const std::vector<Linear>& linears) {
  for (const int32_t size : {128, 64, 32}) {
    if (std::all_of(linears.begin(), linears.end(), [&](const Linear& l) { return l.cols % size == 0; })) return size;
  }
  return -1;
}

void SetGrid(int32_t bits, int32_t group_size, quant::v1::WeightGrid* grid) {
  grid->set_bits(bits);
  grid->set_group_size(group_size);
}

std::vector<Recipe> CheckpointCandidates(int32_t group_size) {
  std::vector<Recipe> all(5);
  SetGrid(3, group_size, all[0].mutable_gptq()->mutable_grid());
  SetGrid(4, group_size, all[1].mutable_gptq()->mutable_grid());
  SetGrid(4, group_size, all[2].mutable_awq()->mutable_grid());
  all[3].mutable_nf4();
  SetGrid(8, group_size, all[4].mutable_rtn()->mutable_grid());
  return all;
}

}  // namespace

absl::StatusOr<std::vector<Recipe>> StandardCandidates(const std::filesystem::path& model) {
  if (!IsLanguageModel(model)) return OnnxCandidates();
  ASSIGN_OR_RETURN(const LoadedCheckpoint loaded, LoadCheckpoint(model));
  return CheckpointCandidates(GroupSizeFor(FindLinears(loaded.model.graph)));
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/moe.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace quant::huggingface {

absl::StatusOr<std::string> MixtureOfExperts(Decoder& d, const std::string& module, const std::string& x,
                                             const Experts& experts) {
  const std::string gate = absl::StrCat(module, ".gate");
  const auto one = [&](const char* name, int64_t value) {
    return d.Constant(name, Tensor::Of<int64_t>({1}, std::vector<int64_t>{value}));
  };
  ASSIGN_OR_RETURN(const std::string products, d.Linear(gate, x, experts.count, d.sizes().hidden));
  const std::string shares = d.Add(absl::StrCat(gate, ".softmax"), "Softmax", {products}, {{"axis", int64_t{-1}}});
  std::string weights = absl::StrCat(gate, ".weights");
  const std::string chosen = absl::StrCat(gate, ".chosen");
  d.Append({.name = absl::StrCat(gate, ".top"),
            .op_type = "TopK",
            .inputs = {shares, one("experts.per_token", experts.per_token)},
            .outputs = {weights, chosen},
            .attributes = {{"axis", int64_t{-1}}}});
  if (experts.normalize) {
    const std::string sum = d.Add(absl::StrCat(gate, ".sum"), "ReduceSum", {weights, one("experts.axis", -1)});
    weights = d.Add(absl::StrCat(gate, ".normalized"), "Div", {weights, sum});
  }
  const std::string shape = d.Add(absl::StrCat(gate, ".shape"), "Shape", {shares});
  const std::string zeros = d.Add(absl::StrCat(gate, ".zeros"), "ConstantOfShape", {shape});
  const std::string all =
      d.Add(absl::StrCat(gate, ".scattered"), "ScatterElements", {zeros, chosen, weights}, {{"axis", int64_t{-1}}});
  const std::vector<std::string> per_expert =
      d.Split(absl::StrCat(gate, ".expert"), all, std::vector<int64_t>(static_cast<size_t>(experts.count), 1));
  std::string y;
  for (size_t e = 0; e < per_expert.size(); ++e) {
    const std::string expert = absl::StrCat(module, ".experts.", e);
    ASSIGN_OR_RETURN(const std::string out,
                     GatedMlp(d, expert, x, experts.intermediate, experts.act, Bias::kWhereStored, experts.names));
    std::string weighted = d.Add(absl::StrCat(expert, ".weighted"), "Mul", {out, per_expert[e]});
    y = y.empty() ? std::move(weighted) : d.Add(absl::StrCat(expert, ".sum"), "Add", {y, weighted});
  }
  return y;
}

}  // namespace quant::huggingface

// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/block.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/graph/subgraph.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

constexpr char kIds[] = "input_ids";

ValueInfo HiddenInfo(const std::string& name) {
  return {.name = name, .dtype = DType::kFloat32, .has_shape = true, .shape = {{}, {}, {}}};
}

}  // namespace

absl::StatusOr<DecoderBlock> DecoderBlock::Cut(const Graph& model, const std::string& input, const std::string& output) {
  DecoderBlock block;
  block.input_ = input;
  block.output_ = output;
  const std::vector<ValueInfo> from = {HiddenInfo(input)};
  const std::vector<std::string> to = {output};
  ASSIGN_OR_RETURN(block.graph_, Subgraph(model, from, to));
  for (const ValueInfo& v : block.graph_.inputs) {
    if (v.name == input || v.name == kIds) continue;
    return absl::InvalidArgumentError(absl::StrCat("the block from '", input, "' to '", output, "' needs input '", v.name, "'"));
  }
  return block;
}

std::vector<InputGroup> DecoderBlock::Groups() const {
  std::vector<InputGroup> groups;
  for (Linear& linear : FindLinears(graph_)) {
    const auto it = std::find_if(groups.begin(), groups.end(), [&](const InputGroup& g) { return g.input == linear.input; });
    InputGroup& group = it == groups.end() ? groups.emplace_back(InputGroup{.input = linear.input, .linears = {}}) : *it;
    group.linears.push_back(std::move(linear));
  }
  return groups;
}

absl::Status DecoderBlock::Run(const HiddenStates& hidden, TokenWindows tokens, std::span<const std::string> values,
                               int threads, const OnSample& on_sample, const ProgressFn& progress) const {
  // The input is no output of a graph: it is handed on as it is.
  std::vector<std::string> computed;
  for (const std::string& v : values) {
    if (v != input_) computed.push_back(v);
  }
  std::unique_ptr<Executable> executable;
  std::vector<std::string> inputs;
  if (!computed.empty()) {
    const std::vector<ValueInfo> from = {HiddenInfo(input_)};
    ASSIGN_OR_RETURN(Graph part, Subgraph(graph_, from, computed));
    for (const ValueInfo& v : part.inputs) inputs.push_back(v.name);
    ASSIGN_OR_RETURN(executable, Compile(std::make_shared<const Graph>(std::move(part)), {.threads = threads, .max_plans = 2}));
  }
  for (size_t s = 0; s < hidden.samples(); ++s) {
    if (absl::Status status = Tell(progress, static_cast<double>(s) / static_cast<double>(hidden.samples()), "");
        !status.ok()) {
      return status;
    }
    ASSIGN_OR_RETURN(const Tensor x, hidden.Read(s));
    std::vector<Tensor> given;
    for (const std::string& name : inputs) {
      if (name == input_) {
        given.push_back(x);
        continue;
      }
      ASSIGN_OR_RETURN(Tensor ids, Tensor::Allocate(DType::kInt64, {1, hidden.tokens(s)}));
      std::copy(tokens[s].begin(), tokens[s].end(), ids.mutable_data<int64_t>().begin());
      given.push_back(std::move(ids));
    }
    std::span<const Tensor> out;
    if (executable != nullptr) {
      ASSIGN_OR_RETURN(out, executable->Run(given));
    }
    std::vector<Tensor> shown;
    size_t next = 0;
    for (const std::string& v : values) shown.push_back(v == input_ ? x : out[next++]);
    RETURN_IF_ERROR(on_sample(s, shown));
  }
  return absl::OkStatus();
}

}  // namespace quant

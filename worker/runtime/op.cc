// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/op.h"

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "worker/runtime/executable.h"
#include "worker/runtime/ops/util.h"

namespace quant {
namespace {

std::string Key(std::string_view domain, std::string_view op_type) {
  if (domain == "ai.onnx") domain = "";
  return absl::StrCat(AbslView(domain), ":", AbslView(op_type));
}

const std::unordered_map<std::string, Op>& Table() {
  static const auto& table = *[] {
    auto* t = new std::unordered_map<std::string, Op>();
    for (const auto family :
         {ops::ConvOps, ops::PoolOps, ops::MatMulOps, ops::NormOps, ops::UnaryOps, ops::BinaryOps, ops::ReduceOps,
          ops::ShapeOps, ops::MoveOps, ops::CastOps, ops::QuantizeOps, ops::GatherOps, ops::ResizeOps,
          ops::RecurrentOps, ops::EinsumOps, ops::AttentionOps, ops::PackedLinearOps}) {
      for (const ops::OpEntry& entry : family()) t->emplace(Key(entry.domain, entry.op_type), entry.op);
    }
    return t;
  }();
  return table;
}

}  // namespace

const Op* FindOp(std::string_view domain, std::string_view op_type) {
  const auto it = Table().find(Key(domain, op_type));
  return it == Table().end() ? nullptr : &it->second;
}

absl::Status CheckSupported(const Graph& graph) {
  constexpr size_t kNamesShown = 5;
  std::map<std::string, std::vector<std::string>> missing;  // operator -> nodes, in order
  for (const Node& node : graph.nodes) {
    if (FindOp(node.domain, node.op_type) != nullptr) continue;
    missing[node.domain.empty() ? node.op_type : absl::StrCat(node.domain, ".", node.op_type)].push_back(node.name);
  }
  if (missing.empty()) return absl::OkStatus();
  std::string message =
      absl::StrCat("the model uses ", missing.size(), " unsupported operator", missing.size() == 1 ? "" : "s", ": ");
  const char* separator = "";
  for (const auto& [op, nodes] : missing) {
    absl::StrAppend(&message, separator, op, " (");
    separator = "; ";
    for (size_t i = 0; i < nodes.size() && i < kNamesShown; ++i) {
      absl::StrAppend(&message, i == 0 ? "'" : ", '", nodes[i], "'");
    }
    if (nodes.size() > kNamesShown) absl::StrAppend(&message, " and ", nodes.size() - kNamesShown, " more");
    absl::StrAppend(&message, ")");
  }
  return absl::UnimplementedError(message);
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// LayerPattern: which layers a rule of a recipe is about, by name and operator.
#ifndef QUANT_WORKER_QUANTIZE_LAYER_PATTERN_H_
#define QUANT_WORKER_QUANTIZE_LAYER_PATTERN_H_

#include <optional>
#include <regex>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quant {

// Whether `name` matches a glob: "*" any run of characters, "?" one character, all else itself.
bool GlobMatches(std::string_view glob, std::string_view name);

class LayerPattern {
 public:
  // `name` is a glob, or "re:" and an ECMAScript regular expression searched for in the layer's name; empty: any layer
  // of `op_type`. An empty `op_type` means any. INVALID_ARGUMENT: more than 512 bytes, or no regular expression.
  static absl::StatusOr<LayerPattern> Create(const std::string& name, const std::string& op_type);

  bool Matches(const std::string& layer, const std::string& op_type) const;
  // "NAME" or "NAME:OP", for messages.
  std::string Text() const;

 private:
  std::string name_;
  std::string op_type_;
  std::optional<std::regex> regex_;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LAYER_PATTERN_H_

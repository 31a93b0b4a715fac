// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/layer_pattern.h"

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

constexpr size_t kMaxPattern = 512;

}  // namespace

bool GlobMatches(std::string_view glob, std::string_view name) {
  size_t g = 0, n = 0;
  size_t star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (g < glob.size() && (glob[g] == '?' || (glob[g] != '*' && glob[g] == name[n]))) {
      ++g, ++n;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      resume = n;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

absl::StatusOr<LayerPattern> LayerPattern::Create(const std::string& name, const std::string& op_type) {
  if (name.size() > kMaxPattern) {
    return absl::InvalidArgumentError(
        absl::StrCat("a layer rule's name has ", name.size(), " bytes; at most ", kMaxPattern));
  }
  LayerPattern p;
  p.name_ = name;
  p.op_type_ = op_type;
  if (name.starts_with("re:")) {
    try {
      p.regex_.emplace(name.substr(3), std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& e) {
      return absl::InvalidArgumentError(absl::StrCat("layer rule '", name, "' is no regular expression: ", e.what()));
    }
  }
  return p;
}

bool LayerPattern::Matches(const std::string& layer, const std::string& op_type) const {
  if (!op_type_.empty() && op_type_ != op_type) return false;
  if (name_.empty()) return !op_type_.empty();
  return regex_.has_value() ? std::regex_search(layer, *regex_) : GlobMatches(name_, layer);
}

std::string LayerPattern::Text() const { return absl::StrCat(name_, op_type_.empty() ? "" : ":", op_type_); }

}  // namespace quant

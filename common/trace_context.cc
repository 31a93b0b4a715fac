// SPDX-License-Identifier: Apache-2.0
#include "common/trace_context.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/random_id.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr size_t kSize = 55;

bool IsHex(std::string_view s) {
  return std::all_of(s.begin(), s.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}
bool IsZero(std::string_view s) { return s.find_first_not_of('0') == std::string_view::npos; }

}  // namespace

std::string ParseTraceparent(std::string_view text) {
  if (text.size() < kSize) return "";
  const std::string_view version = text.substr(0, 2), trace = text.substr(3, 32), parent = text.substr(36, 16),
                         flags = text.substr(53, 2);
  if (text[2] != '-' || text[35] != '-' || text[52] != '-') return "";
  if (!IsHex(version) || !IsHex(trace) || !IsHex(parent) || !IsHex(flags)) return "";
  if (version == "ff" || IsZero(trace) || IsZero(parent)) return "";
  if (text.size() > kSize && (version == "00" || text[kSize] != '-')) return "";
  // The one flag of version 00, "sampled", is the lowest bit.
  const char last = flags[1];
  const int digit = last <= '9' ? last - '0' : last - 'a' + 10;
  return absl::StrCat("00-", AbslView(trace), "-", AbslView(parent), (digit & 1) != 0 ? "-01" : "-00");
}

std::string NewTraceparent() {
  // 48 hex digits of a hash over 200 random bits: zeros with a chance of 2^-64.
  const std::string ids = Sha256Hex(RandomId("", 40));
  return absl::StrCat("00-", ids.substr(0, 32), "-", ids.substr(32, 16), "-00");
}

std::string_view TraceId(std::string_view traceparent) {
  return traceparent.size() < kSize ? std::string_view() : traceparent.substr(3, 32);
}

}  // namespace quant

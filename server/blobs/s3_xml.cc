// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_xml.h"

#include <cstdint>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr std::pair<std::string_view, char> kEntities[] = {
    {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};

// The character that "&<name>;" stands for; only those of one byte occur in our keys and in S3's ids. '\0': unknown.
char Entity(std::string_view name) {
  for (const auto& [known, c] : kEntities) {
    if (name == known) return c;
  }
  uint32_t code = 0;
  const bool hex = name.size() > 2 && name[0] == '#' && name[1] == 'x';
  const bool number = hex ? absl::SimpleHexAtoi(AbslView(name.substr(2)), &code)
                          : name.size() > 1 && name[0] == '#' && absl::SimpleAtoi(AbslView(name.substr(1)), &code);
  return number && code < 128 ? static_cast<char>(code) : '\0';
}

std::string Decode(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t end = text[0] == '&' ? text.find(';') : std::string_view::npos;
    const char c = end == std::string_view::npos ? '\0' : Entity(text.substr(1, end - 1));
    out += c == '\0' ? text[0] : c;
    text.remove_prefix(c == '\0' ? 1 : end + 1);
  }
  return out;
}

}  // namespace

std::vector<std::string_view> XmlElements(std::string_view xml, std::string_view name) {
  const std::string open = absl::StrCat("<", AbslView(name));
  const std::string close = absl::StrCat("</", AbslView(name), ">");
  std::vector<std::string_view> found;
  for (size_t at = 0; (at = xml.find(open, at)) != std::string_view::npos;) {
    at += open.size();
    // "<Key>" or "<Key attribute…>", not "<KeyCount>".
    if (at >= xml.size() || (xml[at] != '>' && xml[at] != ' ' && xml[at] != '/')) continue;
    const size_t end_of_tag = xml.find('>', at);
    if (end_of_tag == std::string_view::npos) break;
    if (xml[end_of_tag - 1] == '/') {
      found.push_back(xml.substr(end_of_tag, 0));
      at = end_of_tag;  // not twice over a long tag
      continue;
    }
    const size_t end = xml.find(close, end_of_tag);
    if (end == std::string_view::npos) break;
    found.push_back(xml.substr(end_of_tag + 1, end - end_of_tag - 1));
    at = end + close.size();
  }
  return found;
}

std::string XmlText(std::string_view xml, std::string_view name) {
  const auto found = XmlElements(xml, name);
  return found.empty() ? "" : Decode(found.front());
}

std::string XmlEscape(std::string_view text) {
  return absl::StrReplaceAll(AbslView(text),
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&apos;"}});
}

}  // namespace quant

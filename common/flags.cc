// SPDX-License-Identifier: Apache-2.0
#include "common/flags.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

// Levenshtein distance; names are short.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

bool LooksLikeNumber(std::string_view s) {
  return s.size() > 1 && (absl::ascii_isdigit(static_cast<unsigned char>(s[1])) || s[1] == '.');
}

absl::Status ParseInt(const std::string& text, int64_t min, int64_t max, int64_t* value) {
  int64_t parsed = 0;
  if (!absl::SimpleAtoi(text, &parsed) || parsed < min || parsed > max) {
    return absl::InvalidArgumentError(absl::StrCat("wants an integer from ", min, " to ", max));
  }
  *value = parsed;
  return absl::OkStatus();
}

// Breaks `text` into lines of at most 100 columns, indented by 6.
std::string Wrap(std::string_view text) {
  std::string out;
  std::string line;
  const auto flush = [&] {
    if (!line.empty()) absl::StrAppend(&out, "      ", line, "\n");
    line.clear();
  };
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    if (!line.empty() && line.size() + 1 + word.size() > 94) flush();
    if (!line.empty()) line += ' ';
    line += word;
    at = end + 1;
  }
  flush();
  return out;
}

}  // namespace

FlagSet::FlagSet(std::string program, std::string synopsis)
    : program_(std::move(program)), synopsis_(std::move(synopsis)) {}

void FlagSet::Insert(Flag flag) {
  CHECK(Find(flag.name) == nullptr) << "flag --" << flag.name << " is defined twice";
  flags_.push_back(std::move(flag));
}

void FlagSet::Add(std::string name, std::string* target, std::string value_name, std::string help) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = *target,
          .set = [target](const std::string& text) {
            *target = text;
            return absl::OkStatus();
          }});
}

void FlagSet::Add(std::string name, bool* target, std::string value_name, std::string help) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = *target ? "true" : "",
          .is_bool = true,
          .set = [target](const std::string& text) {
            if (text != "true" && text != "false") return absl::InvalidArgumentError("wants true or false");
            *target = text == "true";
            return absl::OkStatus();
          }});
}

void FlagSet::Add(std::string name, int64_t* target, std::string value_name, std::string help, int64_t min,
                  int64_t max) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = absl::StrCat(*target),
          .set = [target, min, max](const std::string& text) { return ParseInt(text, min, max, target); }});
}

void FlagSet::Add(std::string name, int* target, std::string value_name, std::string help, int64_t min, int64_t max) {
  CHECK(min >= std::numeric_limits<int>::min() && max <= std::numeric_limits<int>::max());
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = absl::StrCat(*target),
          .set = [target, min, max](const std::string& text) {
            int64_t value = 0;
            RETURN_IF_ERROR(ParseInt(text, min, max, &value));
            *target = static_cast<int>(value);
            return absl::OkStatus();
          }});
}

void FlagSet::Add(std::string name, double* target, std::string value_name, std::string help) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = absl::StrCat(*target),
          .set = [target](const std::string& text) {
            double value = 0;
            if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
              return absl::InvalidArgumentError("wants a finite number");
            }
            *target = value;
            return absl::OkStatus();
          }});
}

void FlagSet::Add(std::string name, absl::Duration* target, std::string value_name, std::string help) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = absl::FormatDuration(*target),
          .set = [target](const std::string& text) {
            absl::Duration value;
            if (!absl::ParseDuration(text, &value) || value < absl::ZeroDuration() ||
                value == absl::InfiniteDuration()) {
              return absl::InvalidArgumentError("wants a duration with a unit, not negative, e.g. 30s, 250ms or 1h30m");
            }
            *target = value;
            return absl::OkStatus();
          }});
}

void FlagSet::Add(std::string name, std::vector<std::string>* target, std::string value_name, std::string help) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = absl::StrJoin(*target, " "),
          .set = [target](const std::string& text) {
            target->push_back(text);
            return absl::OkStatus();
          }});
}

void FlagSet::AddBytes(std::string name, int64_t* target, std::string value_name, std::string help) {
  Insert({.name = std::move(name),
          .value_name = std::move(value_name),
          .help = std::move(help),
          .default_text = absl::StrCat(*target),
          .set = [target](const std::string& text) {
            ASSIGN_OR_RETURN(*target, ParseBytes(text));
            return absl::OkStatus();
          }});
}

FlagSet::Flag* FlagSet::Find(std::string_view name) {
  for (Flag& flag : flags_) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

absl::Status FlagSet::Unknown(std::string_view name) const {
  const Flag* nearest = nullptr;
  size_t best = 0;
  for (const Flag& flag : flags_) {
    const size_t distance = EditDistance(name, flag.name);
    if (nearest == nullptr || distance < best) {
      nearest = &flag;
      best = distance;
    }
  }
  std::string message = absl::StrCat(program_, " has no flag ", Quoted(absl::StrCat("--", AbslView(name))));
  // A third of the letters wrong is still likely a slip; more is another word.
  if (nearest != nullptr && best <= std::max<size_t>(2, name.size() / 3)) {
    absl::StrAppend(&message, "; did you mean --", nearest->name, "?");
  }
  absl::StrAppend(&message, " (", program_, " --help lists them)");
  return absl::InvalidArgumentError(message);
}

absl::Status FlagSet::Assign(Flag& flag, const std::string& value) {
  if (absl::Status status = flag.set(value); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", flag.name, " ", status.message(), ", not ", Quoted(value)));
  }
  flag.is_set = true;
  return absl::OkStatus();
}

absl::Status FlagSet::Parse(const std::vector<std::string>& args, std::vector<std::string>* positional) {
  help_requested_ = false;
  const auto take_positional = [&](const std::string& arg) {
    if (positional == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(program_, " takes no argument ", Quoted(arg), "; see ", program_, " --help"));
    }
    positional->push_back(arg);
    return absl::OkStatus();
  };
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      help_requested_ = true;
      return absl::OkStatus();
    }
    if (arg == "--") {
      for (++i; i < args.size(); ++i) RETURN_IF_ERROR(take_positional(args[i]));
      break;
    }
    if (arg.size() < 2 || arg[0] != '-' || LooksLikeNumber(arg)) {
      RETURN_IF_ERROR(take_positional(arg));
      continue;
    }
    if (arg[1] != '-') {
      return absl::InvalidArgumentError(
          absl::StrCat(program_, " has no short flag ", Quoted(arg), "; flags are written --name"));
    }
    const size_t equals = arg.find('=');
    const std::string name = arg.substr(2, equals == std::string::npos ? equals : equals - 2);
    Flag* flag = Find(name);
    if (flag == nullptr && equals == std::string::npos && name.rfind("no-", 0) == 0) {
      Flag* const negated = Find(std::string_view(name).substr(3));
      if (negated != nullptr && negated->is_bool) {
        RETURN_IF_ERROR(Assign(*negated, "false"));
        continue;
      }
    }
    if (flag == nullptr) return Unknown(name);
    if (equals != std::string::npos) {
      RETURN_IF_ERROR(Assign(*flag, arg.substr(equals + 1)));
    } else if (flag->is_bool) {
      RETURN_IF_ERROR(Assign(*flag, "true"));
    } else if (i + 1 < args.size() &&
               (args[i + 1].empty() || args[i + 1][0] != '-' || args[i + 1] == "-" || LooksLikeNumber(args[i + 1]))) {
      RETURN_IF_ERROR(Assign(*flag, args[++i]));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " wants a value: --", name, " ", flag->value_name));
    }
  }
  return absl::OkStatus();
}

bool FlagSet::IsSet(std::string_view name) const {
  const auto it = std::find_if(flags_.begin(), flags_.end(), [&](const Flag& flag) { return flag.name == name; });
  CHECK(it != flags_.end()) << "no flag --" << name;
  return it->is_set;
}

std::vector<std::string> FlagSet::Names() const {
  std::vector<std::string> names = {"--help"};
  for (const Flag& flag : flags_) names.push_back(absl::StrCat("--", flag.name));
  std::sort(names.begin(), names.end());
  return names;
}

std::string FlagSet::Help() const {
  std::string out = absl::StrCat("Usage: ", synopsis_, "\n");
  if (!flags_.empty()) absl::StrAppend(&out, "\nFlags:\n");
  for (const Flag& flag : flags_) {
    absl::StrAppend(&out, "  --", flag.is_bool ? "[no-]" : "", flag.name);
    if (!flag.is_bool) absl::StrAppend(&out, " ", flag.value_name);
    if (!flag.default_text.empty()) absl::StrAppend(&out, "  (default ", flag.default_text, ")");
    absl::StrAppend(&out, "\n", Wrap(flag.help));
  }
  absl::StrAppend(&out, "  --help\n      Prints this.\n");
  if (!epilog_.empty()) absl::StrAppend(&out, "\n", epilog_, epilog_.back() == '\n' ? "" : "\n");
  return out;
}

absl::StatusOr<int64_t> ParseBytes(std::string_view text) {
  const auto error = [] {
    return absl::InvalidArgumentError("wants a size in bytes, e.g. 1048576, 512MiB or 4G, at most 2^63 - 1");
  };
  size_t digits = 0;
  while (digits < text.size() &&
         (absl::ascii_isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.')) {
    ++digits;
  }
  std::string unit = absl::AsciiStrToLower(AbslView(text.substr(digits)));
  int64_t factor = 1;
  if (!unit.empty() && unit != "b") {
    const size_t power = std::string_view("kmgt").find(unit[0]);
    const std::string rest = unit.substr(1);
    if (power == std::string_view::npos || (!rest.empty() && rest != "ib" && rest != "b")) return error();
    for (size_t i = 0; i <= power; ++i) factor *= rest == "b" ? 1000 : 1024;
  }
  const std::string_view number = text.substr(0, digits);
  int64_t whole = 0;
  if (absl::SimpleAtoi(AbslView(number), &whole)) {
    if (whole < 0 || whole > std::numeric_limits<int64_t>::max() / factor) return error();
    return whole * factor;
  }
  double fraction = 0;
  if (!absl::SimpleAtod(AbslView(number), &fraction)) return error();
  const double bytes = fraction * static_cast<double>(factor);
  if (!(bytes >= 0 && bytes < 9.2e18)) return error();
  return static_cast<int64_t>(bytes);
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "client/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/strings.h"

namespace quant {
namespace {

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Length of the UTF-8 sequence that a lead byte announces; 1 for anything else.
size_t SequenceLength(char lead) {
  const auto c = static_cast<unsigned char>(lead);
  return c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
}

}  // namespace

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const std::string_view sequence = text.substr(i, SequenceLength(text[i]));
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F are control characters too, written C2 80 to C2 9F.
    const bool control =
        c < 0x20 || c == 0x7F || (c == 0xC2 && sequence.size() == 2 && static_cast<unsigned char>(sequence[1]) < 0xA0);
    if (!control && IsValidUtf8(sequence)) {
      out += sequence;
      i += sequence.size();
    } else {
      out += '?';
      i += control && c == 0xC2 ? 2 : 1;
    }
  }
  return out;
}

int DisplayWidth(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return !IsContinuation(c); }));
}

size_t BytesOfColumns(std::string_view text, int columns) {
  size_t end = 0;
  for (int i = 0; i < columns && end < text.size(); ++i) {
    ++end;
    while (end < text.size() && IsContinuation(text[end])) ++end;
  }
  return end;
}

std::string Ellipsize(std::string_view text, int width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width <= 0) return "";
  return absl::StrCat(AbslView(text.substr(0, BytesOfColumns(text, width - 1))), "…");
}

std::string Significant(double value, int digits) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (value == 0) return "0";
  const int whole = static_cast<int>(std::floor(std::log10(std::abs(value)))) + 1;
  if (whole < -3) return absl::StrFormat("%.*g", digits, value);
  std::string text = absl::StrFormat("%.*f", std::max(0, digits - whole), value);
  if (text.find('.') != std::string::npos) {
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string HumanBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  int unit = -1;
  while (value >= 1023.5 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.*f %ciB", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, "KMGTPE"[unit]);
}

std::string HumanDuration(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 0.0995) return absl::StrFormat("%.0f ms", seconds * 1000);
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  if (seconds < 59.5) return absl::StrFormat("%.0f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
}

std::string HumanTime(absl::Time time) {
  if (time == absl::UnixEpoch()) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", time, absl::LocalTimeZone());
}

int TerminalWidth(std::FILE* file) {
  if (!isatty(fileno(file))) return 0;
  int columns;
  const char* asked = std::getenv("COLUMNS");
  if (asked != nullptr && absl::SimpleAtoi(asked, &columns) && columns >= 20 && columns <= 10'000) return columns;
  struct winsize size;
  if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) return size.ws_col;
  return 80;
}

void Table::Add(std::vector<std::string> cells) {
  CHECK_EQ(cells.size(), columns_.size());
  for (std::string& cell : cells) cell = Printable(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::Render(int width) const {
  std::vector<int> widths;
  int total = -2;
  for (size_t c = 0; c < columns_.size(); ++c) {
    int widest = DisplayWidth(columns_[c].header);
    for (const auto& row : rows_) widest = std::max(widest, DisplayWidth(row[c]));
    widths.push_back(widest);
    total += widest + 2;
  }
  constexpr int kNarrowest = 8;
  while (width > 0 && total > width) {
    int widest = -1;
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (!columns_[c].shrink || widths[c] <= std::max(kNarrowest, DisplayWidth(columns_[c].header))) continue;
      if (widest < 0 || widths[c] > widths[static_cast<size_t>(widest)]) widest = static_cast<int>(c);
    }
    if (widest < 0) break;
    --widths[static_cast<size_t>(widest)];
    --total;
  }
  std::string out;
  const auto line = [&](auto cell_of) {
    std::string text;
    for (size_t c = 0; c < columns_.size(); ++c) {
      const std::string cell = Ellipsize(cell_of(c), widths[c]);
      const std::string pad(static_cast<size_t>(widths[c] - DisplayWidth(cell)), ' ');
      absl::StrAppend(&text, c > 0 ? "  " : "", columns_[c].align == Align::kRight ? pad : "", cell,
                      columns_[c].align == Align::kLeft ? pad : "");
    }
    text.erase(text.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, text, "\n");
  };
  line([&](size_t c) { return columns_[c].header; });
  for (const auto& row : rows_) line([&](size_t c) { return row[c]; });
  return out;
}

ProgressLine::ProgressLine(std::FILE* out, int width, absl::Duration plain_interval)
    : out_(out), width_(width), plain_interval_(plain_interval) {}

ProgressLine::~ProgressLine() { Clear(); }

void ProgressLine::Clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  drawn_ = false;
  last_ = absl::InfinitePast();
}

void ProgressLine::Note(std::string_view text) {
  Clear();
  std::fprintf(out_, "%s\n", Printable(text).c_str());
  std::fflush(out_);
}

void ProgressLine::Update(std::string_view phase, double fraction, std::string_view detail) {
  const absl::Time now = absl::Now();
  const bool new_phase = phase != phase_;
  fraction = fraction >= 0 && fraction <= 1 ? fraction : fraction > 1 ? 1 : 0;  // a NaN counts as nothing done
  const bool ends = fraction >= 1 && fraction_ < 1;
  if (!new_phase && !ends && now - last_ < (width_ > 0 ? absl::Milliseconds(100) : plain_interval_)) return;
  std::string line;
  const int percent = static_cast<int>(fraction * 100);
  if (width_ > 0) {
    const int bar = width_ >= 100 ? 24 : 12;
    const int filled = static_cast<int>(fraction * bar);
    line = absl::StrFormat("%-10s [%s%s] %3d%%  %s", Printable(phase), std::string(static_cast<size_t>(filled), '='),
                           std::string(static_cast<size_t>(bar - filled), ' '), percent, Printable(detail));
    std::fprintf(out_, "\r%s\x1b[K", Ellipsize(line, width_ - 1).c_str());
    drawn_ = true;
  } else {
    line = absl::StrFormat("%s %d%%%s%s", Printable(phase), percent, detail.empty() ? "" : "  ", Printable(detail));
    if (line != line_) std::fprintf(out_, "%s\n", line.c_str());
    line_ = line;
  }
  std::fflush(out_);
  last_ = now;
  phase_ = phase;
  fraction_ = fraction;
}

std::string RateMeter::Describe(int64_t done, int64_t total, int64_t skipped, absl::Time now) {
  const int64_t moved = done - skipped;
  if (start_ == absl::InfinitePast()) {
    start_ = now;
    start_bytes_ = moved;
  }
  std::string text = absl::StrCat(HumanBytes(done), " of ", HumanBytes(total));
  const double seconds = absl::ToDoubleSeconds(now - start_);
  const double rate = static_cast<double>(moved - start_bytes_) / seconds;
  if (seconds < 0.5 || !(rate >= 1)) return text;
  absl::StrAppend(&text, ", ", HumanBytes(static_cast<int64_t>(rate)), "/s");
  if (done < total) {
    absl::StrAppend(&text, ", ", HumanDuration(absl::Seconds(static_cast<double>(total - done) / rate)), " left");
  }
  return text;
}

}  // namespace quant

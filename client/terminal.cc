// SPDX-License-Identifier: Apache-2.0
#include "client/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/strings.h"

namespace quant {
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

// SPDX-License-Identifier: Apache-2.0
// What quantctl needs to write for people beside common/view: tables, and a progress line that is a bar on a terminal
// and a few plain lines elsewhere.
#ifndef QUANT_CLIENT_TERMINAL_H_
#define QUANT_CLIENT_TERMINAL_H_

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/view/human.h"

namespace quant {

// Columns of the terminal that `file` is; 0 when it is none. The environment's COLUMNS wins when it is a number.
int TerminalWidth(std::FILE* file);

// Rows of text under a header, aligned, two blanks between columns.
class Table {
 public:
  enum class Align { kLeft, kRight };
  // `shrink` columns are cut, widest first, when the table is wider than allowed.
  struct Column {
    std::string header;
    Align align = Align::kLeft;
    bool shrink = false;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // REQUIRES: as many cells as columns. Cells are made Printable.
  void Add(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  // One line per row, no blanks at line ends. `width` 0: as wide as it takes.
  std::string Render(int width) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// A line on stderr that tells how far something is. On a terminal it is rewritten in place, at most ten times a second;
// elsewhere a plain line appears when the phase changes or ends, and every few seconds. Not thread-safe.
class ProgressLine {
 public:
  // `width` 0 means that `out` is no terminal.
  ProgressLine(std::FILE* out, int width, absl::Duration plain_interval = absl::Seconds(5));
  ~ProgressLine();  // clears the bar
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // `phase` begins the line; `fraction` is 0..1 and shown as a bar and percent; `detail` follows.
  void Update(std::string_view phase, double fraction, std::string_view detail);
  // A line that stays, above the bar.
  void Note(std::string_view text);
  // Removes the bar; the next Update draws it again.
  void Clear();

 private:
  std::FILE* const out_;
  const int width_;
  const absl::Duration plain_interval_;
  bool drawn_ = false;
  absl::Time last_ = absl::InfinitePast();
  double fraction_ = 0;
  std::string phase_;
  std::string line_;
};

// Rate and remaining time of a transfer, from its byte counts.
class RateMeter {
 public:
  // "12.3 MiB of 40.0 MiB, 8.1 MiB/s, 4 s left". `skipped` bytes took no time: they do not count for the rate.
  std::string Describe(int64_t done, int64_t total, int64_t skipped, absl::Time now);

 private:
  absl::Time start_ = absl::InfinitePast();
  int64_t start_bytes_ = 0;
};

}  // namespace quant

#endif  // QUANT_CLIENT_TERMINAL_H_

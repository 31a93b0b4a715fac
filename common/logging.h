// SPDX-License-Identifier: Apache-2.0
// Log lines on stderr, for people or for machines, with the ids of what they are about (docs/logs.md).
//
//   int main() {
//     InitLogging("quantd");            // before the first LOG
//     SetLogFormat(LogFormat::kJson);   // once the flags are read
//   …
//   const LogScope scope({.job = job.id(), .traceparent = job.traceparent()});
//   LOG(INFO) << "begins";              // has both, and what outer scopes of the thread said
//
// Text: Abseil's line with " [job=j-… request=r-… trace=…]" at its end. JSON: one object a line, whatever the message.
#ifndef QUANT_COMMON_LOGGING_H_
#define QUANT_COMMON_LOGGING_H_

#include <string>
#include <string_view>

#include "absl/base/log_severity.h"
#include "absl/status/statusor.h"

namespace quant {

enum class LogFormat { kText, kJson };

// "text" or "json".  INVALID_ARGUMENT.
absl::StatusOr<LogFormat> ParseLogFormat(std::string_view text);

// Sends lines of `least` and above to stderr, as text. Once, by main.
void InitLogging(std::string_view program, absl::LogSeverityAtLeast least = absl::LogSeverityAtLeast::kInfo);
void SetLogFormat(LogFormat format);

// What a line is about. Empty: not said.
struct LogFields {
  std::string job;          // Job.id
  std::string request;      // of the call
  std::string traceparent;  // parsed; see trace_context.h
};

// While it lives, lines of this thread have these fields; an empty one is as outside. Not to be moved or outlived by an
// outer one.
class LogScope {
 public:
  explicit LogScope(const LogFields& fields);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

  // Of this thread; what no scope says is as SetProcess said.
  static LogFields Current();
  // For all threads of the process: call it before there are others.
  static void SetProcess(LogFields fields);

 private:
  const LogFields outer_;
};

// A line without its end, for tests. `time` etc. are of the entry.
struct LogLine {
  std::string time;  // "2026-11-26T12:00:00.000123Z"
  std::string severity;
  std::string program;
  std::string source;  // "queue.cc:133"
  std::string message;
  LogFields fields;
};
std::string JsonLogLine(const LogLine& line);

}  // namespace quant

#endif  // QUANT_COMMON_LOGGING_H_

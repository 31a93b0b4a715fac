// SPDX-License-Identifier: Apache-2.0
#include "common/logging.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/log/log_entry.h"
#include "absl/log/log_sink.h"
#include "absl/log/log_sink_registry.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/strings.h"
#include "common/trace_context.h"

namespace quant {
namespace {

LogFields& Process() {
  static auto* const fields = new LogFields;  // logging goes on while the process ends
  return *fields;
}

LogFields& OfThread() {
  thread_local LogFields fields;
  return fields;
}

// A write the kernel takes whole (to a file or a pipe with room) keeps lines of several threads apart.
void WriteLine(std::string_view line) {
  while (!line.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data(), line.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody is there to be told
    line.remove_prefix(static_cast<size_t>(n));
  }
}

std::string TextFields(const LogFields& fields) {
  std::string out;
  const auto add = [&](const char* name, std::string_view value) {
    if (!value.empty()) absl::StrAppend(&out, out.empty() ? " [" : " ", name, "=", AbslView(value));
  };
  add("job", fields.job);
  add("request", fields.request);
  add("trace", TraceId(fields.traceparent));
  return out.empty() ? out : out + "]";
}

class StderrSink : public absl::LogSink {
 public:
  std::atomic<LogFormat> format{LogFormat::kText};
  std::string program;
  absl::LogSeverityAtLeast least = absl::LogSeverityAtLeast::kInfo;

  void Send(const absl::LogEntry& entry) override {
    if (entry.log_severity() < least) return;
    const LogFields fields = LogScope::Current();
    if (format == LogFormat::kText) {
      WriteLine(absl::StrCat(entry.text_message_with_prefix(), TextFields(fields), "\n"));
      return;
    }
    WriteLine(JsonLogLine({.time = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", entry.timestamp(), absl::UTCTimeZone()),
                           .severity = absl::LogSeverityName(entry.log_severity()),
                           .program = program,
                           .source = absl::StrCat(entry.source_basename(), ":", entry.source_line()),
                           .message = std::string(entry.text_message()),
                           .fields = fields}) +
              "\n");
  }
};

StderrSink& Sink() {
  static auto* const sink = new StderrSink;
  return *sink;
}

}  // namespace

absl::StatusOr<LogFormat> ParseLogFormat(std::string_view text) {
  if (text == "text") return LogFormat::kText;
  if (text == "json") return LogFormat::kJson;
  return absl::InvalidArgumentError(absl::StrCat("--log-format must be text or json, not ", Quoted(text)));
}

void InitLogging(std::string_view program, absl::LogSeverityAtLeast least) {
  Sink().program = std::string(program);
  Sink().least = least;
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kInfinity);  // Abseil's own sink
  absl::AddLogSink(&Sink());
  absl::InitializeLog();
}

void SetLogFormat(LogFormat format) { Sink().format = format; }

LogScope::LogScope(const LogFields& fields) : outer_(OfThread()) {
  LogFields& now = OfThread();
  if (!fields.job.empty()) now.job = fields.job;
  if (!fields.request.empty()) now.request = fields.request;
  if (!fields.traceparent.empty()) now.traceparent = fields.traceparent;
}

LogScope::~LogScope() { OfThread() = outer_; }

LogFields LogScope::Current() {
  LogFields fields = OfThread();
  const LogFields& process = Process();
  if (fields.job.empty()) fields.job = process.job;
  if (fields.request.empty()) fields.request = process.request;
  if (fields.traceparent.empty()) fields.traceparent = process.traceparent;
  return fields;
}

void LogScope::SetProcess(LogFields fields) { Process() = std::move(fields); }

std::string JsonLogLine(const LogLine& line) {
  nlohmann::ordered_json json;
  json["time"] = line.time;
  json["severity"] = line.severity;
  json["program"] = line.program;
  json["source"] = line.source;
  json["message"] = line.message;
  if (!line.fields.job.empty()) json["job"] = line.fields.job;
  if (!line.fields.request.empty()) json["request"] = line.fields.request;
  if (!line.fields.traceparent.empty()) json["trace"] = std::string(TraceId(line.fields.traceparent));
  return json.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// FlagSet: command-line flags without globals, for programs and their sub-commands.
//
//   std::string listen = "127.0.0.1:9000";
//   FlagSet flags("quantd", "quantd --listen ADDR:PORT --data DIR [flags]");
//   flags.Add("listen", &listen, "ADDR:PORT", "Where to serve gRPC.");
//   RETURN_IF_ERROR(flags.Parse(args, nullptr));
//   if (flags.help_requested()) { std::cout << flags.Help(); return 0; }
//
// Accepted: --name value, --name=value, --flag and --no-flag for bools (also --flag=true|false), and "--", after which
// everything is positional. Positional arguments and flags may mix. A value may start with "-" only as --name=value,
// or when it is a number. A flag given twice takes the last value; a list flag collects all. --help and -h are built
// in.
//
// Thread-compatible. Targets must outlive Parse; their values at the time of Add are the defaults that Help shows.
#ifndef QUANT_COMMON_FLAGS_H_
#define QUANT_COMMON_FLAGS_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quant {

class FlagSet {
 public:
  // `synopsis` is the usage line; it may have several lines.
  FlagSet(std::string program, std::string synopsis);

  // `value_name` stands for the value in the help; `help` is one or more sentences. Names are [a-z0-9-].
  void Add(std::string name, std::string* target, std::string value_name, std::string help);
  void Add(std::string name, bool* target, std::string value_name, std::string help);
  // Decimal integers within [min, max].
  void Add(std::string name, int64_t* target, std::string value_name, std::string help,
           int64_t min = std::numeric_limits<int64_t>::min(), int64_t max = std::numeric_limits<int64_t>::max());
  void Add(std::string name, int* target, std::string value_name, std::string help,
           int64_t min = std::numeric_limits<int>::min(), int64_t max = std::numeric_limits<int>::max());
  // Finite decimal numbers.
  void Add(std::string name, double* target, std::string value_name, std::string help);
  // "30s", "1h30m", "250ms"; not negative. A bare number other than 0 is refused: it has no unit.
  void Add(std::string name, absl::Duration* target, std::string value_name, std::string help);
  // May be given several times; each use appends.
  void Add(std::string name, std::vector<std::string>* target, std::string value_name, std::string help);
  // As ParseBytes; not negative.
  void AddBytes(std::string name, int64_t* target, std::string value_name, std::string help);

  // Text printed after the flags in Help, e.g. examples.
  void SetEpilog(std::string text) { epilog_ = std::move(text); }

  // Reads `args` (without argv[0]). Positional arguments are appended to *positional; where that is null they are an
  // error. Stops at --help or -h.
  //   INVALID_ARGUMENT: an unknown flag (the nearest known one is named), a missing or bad value (value and range
  //   named).
  absl::Status Parse(const std::vector<std::string>& args, std::vector<std::string>* positional);

  // True when the last Parse met --help or -h.
  bool help_requested() const { return help_requested_; }
  // True when the flag was given in any Parse: for defaults that depend on other flags.
  bool IsSet(std::string_view name) const;
  // Names with "--", sorted, for shell completion.
  std::vector<std::string> Names() const;
  std::string Help() const;

 private:
  struct Flag {
    std::string name;
    std::string value_name;
    std::string help;
    std::string default_text;
    bool is_bool = false;
    bool is_set = false;
    std::function<absl::Status(const std::string&)> set;
  };
  void Insert(Flag flag);
  Flag* Find(std::string_view name);
  absl::Status Unknown(std::string_view name) const;
  absl::Status Assign(Flag& flag, const std::string& value);

  std::string program_;
  std::string synopsis_;
  std::string epilog_;
  std::vector<Flag> flags_;
  bool help_requested_ = false;
};

// "1048576", "512MiB", "4G", "1.5GiB", "64k": a number and an optional unit. K, M, G, T mean powers of 1024, with or
// without "iB"; "kB", "MB", "GB", "TB" powers of 1000. Case does not matter.
//   INVALID_ARGUMENT: not a number, negative, an unknown unit, or past 2^63 - 1.
absl::StatusOr<int64_t> ParseBytes(std::string_view text);

}  // namespace quant

#endif  // QUANT_COMMON_FLAGS_H_

// SPDX-License-Identifier: Apache-2.0
// What a sub-command of quantctl is made of. Inside the client only.
#ifndef QUANT_CLIENT_COMMAND_H_
#define QUANT_CLIENT_COMMAND_H_

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/terminal.h"
#include "common/flags.h"

namespace quant {

// Exit statuses, fixed by the command line's contract.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;         // the job failed, or the server refused
inline constexpr int kExitUsage = 2;          // wrong flags or arguments
inline constexpr int kExitUnreachable = 3;    // no server there, or it does not answer
inline constexpr int kExitInterrupted = 130;  // Ctrl-C

// What --output asks for on stdout.
enum class OutputForm {
  kText,  // for people
  kJson,  // one document
  kId,    // the ids alone, one a line
};

// Where a command reads from and writes to.
class Session {
 public:
  Session(Client client, OutputForm form, std::FILE* out, std::FILE* err)
      : client_(std::move(client)), form_(form), out_(out), err_(err) {}

  Client& client() { return client_; }
  OutputForm form() const { return form_; }
  bool json() const { return form_ == OutputForm::kJson; }
  bool text() const { return form_ == OutputForm::kText; }
  // Columns for tables on stdout; 0: no limit.
  int width() const { return TerminalWidth(out_); }
  std::FILE* err() const { return err_; }

  // stdout; a missing newline at the end is added.
  void Print(std::string_view text);
  // A resource in the wanted form. `json` and `text` make theirs when asked.
  template <typename Json, typename Text>
  void PrintResource(std::string_view id, Json json, Text text) {
    Print(form_ == OutputForm::kId ? Printable(id) : form_ == OutputForm::kJson ? json() : text());
  }
  // stderr, a line.
  void Say(std::string_view text);

 private:
  Client client_;
  OutputForm form_;
  std::FILE* out_;
  std::FILE* err_;
};

struct CommandInfo {
  const char* group;      // "model"
  const char* name;       // "upload"
  const char* arguments;  // "ID DIR": one word each, all needed
  const char* summary;    // one sentence, for lists of commands
  const char* details;    // the rest of its --help: what to know, and examples
};

// Made anew for each run: it owns its flags' targets.
class Command {
 public:
  explicit Command(const CommandInfo& info) : info_(info) {}
  virtual ~Command() = default;

  const CommandInfo& info() const { return info_; }
  virtual void AddFlags(FlagSet&) {}
  // False where there is no resource for --output id to name.
  virtual bool HasIds() const { return true; }
  // Whatever can be found wrong without a server, after the flags were parsed: an error is wrong usage.
  virtual absl::Status Check(const FlagSet&, const std::vector<std::string>& /*arguments*/) { return absl::OkStatus(); }
  // The exit status, or the error to print.
  virtual absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) = 0;

 private:
  const CommandInfo info_;
};

using Commands = std::vector<std::unique_ptr<Command>>;

// In the order of the help.
Commands MakeCommands();
void AddArtifactCommands(Commands& commands);  // model, dataset, storage
void AddJobCommands(Commands& commands);
void AddWorkerCommands(Commands& commands);

// While one lives, Ctrl-C sets a flag (until the next RunQuantctl) instead of ending the program; a second Ctrl-C ends
// it. Not nested.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
  static bool Interrupted();
};

}  // namespace quant

#endif  // QUANT_CLIENT_COMMAND_H_

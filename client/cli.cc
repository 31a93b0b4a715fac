// SPDX-License-Identifier: Apache-2.0
#include "client/cli.h"

#include <signal.h>

#include <algorithm>
#include <csignal>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/command.h"
#include "common/logging.h"
#include "common/strings.h"
#include "common/trace_context.h"

namespace quant {
namespace {

constexpr char kIntro[] =
    "quantctl: uploads models, runs quantization jobs on a quantd service, shows what came of them.\n"
    "\n"
    "Usage: quantctl [--server ADDR:PORT] [--output text|json|id] GROUP COMMAND [ARGUMENTS] [FLAGS]\n";

constexpr char kOutro[] =
    "Global flags, before or after the command:\n"
    "  --server ADDR:PORT    the service; default: $QUANT_SERVER\n"
    "  --output text|json|id what goes to stdout: json, one JSON document; id, the ids alone\n"
    "  --tls-ca FILE         use TLS; authorities of the server's certificate; default: $QUANT_TLS_CA\n"
    "  --tls-cert, --tls-key FILE   show this certificate; default: $QUANT_TLS_CERT, $QUANT_TLS_KEY\n"
    "  --token-file FILE     show the token in it; default: $QUANT_TOKEN_FILE\n"
    "  --insecure-tokens     send the token without TLS beyond this machine\n"
    "  --help                help on everything, a group or a command\n"
    "  --version             prints the version\n"
    "\n"
    "$QUANT_TOKEN may hold the token itself. $TRACEPARENT (W3C Trace Context) names the trace of the calls.\n"
    "Exit status: 0 done, 1 the job failed or the server refused, 2 wrong usage, 3 server not reachable,\n"
    "130 stopped by Ctrl-C.\n"
    "\n"
    "Examples: a first job.\n"
    "  export QUANT_SERVER=127.0.0.1:9000\n"
    "  model=$(quantctl model upload resnet.onnx --output id)\n"
    "  data=$(quantctl dataset upload images/ --output id)\n"
    "  job=$(quantctl job submit --model $model --method static --calibration $data --watch --output id)\n"
    "  quantctl job report $job\n"
    "  quantctl model download $job quantized/\n";

constexpr char kExitStatus[] =
    "Exit status: 0 done (a watched job: it succeeded); 1 the server refused, a local file is in the\n"
    "way, or a watched job did not succeed; 2 wrong usage; 3 server not reachable; 130 Ctrl-C.\n";

// What the groups are about, for their --help.
constexpr std::pair<const char*, const char*> kGroups[] = {
    {"model", "Models: what is quantized, and what comes of it."},
    {"dataset", "Datasets: what models are calibrated and measured on."},
    {"job", "Jobs: quantize, calibrate or measure a model; follow that; see what came of it."},
    {"worker", "Workers: the processes that run jobs."},
};

constexpr char kBashHead[] =
    "# SPDX-License-Identifier: Apache-2.0\n"
    "# Bash completion for quantctl, made by `quantctl completion`: do not edit. To use it:\n"
    "#   source <(quantctl completion)\n"
    "_quantctl() {\n"
    "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} group='' name='' words='' files='' i\n"
    "  # Bash splits words at \"=\" and \":\".\n"
    "  [[ $cur == = ]] && cur=''\n"
    "  [[ $prev == = ]] && ((COMP_CWORD >= 2)) && prev=${COMP_WORDS[COMP_CWORD-2]}\n"
    "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "    case ${COMP_WORDS[i]} in\n"
    "      --server | --output | --tls-ca | --tls-cert | --tls-key | --token-file)\n"
    "        [[ ${COMP_WORDS[i+1]-} == = ]] && ((i++))\n"
    "        ((i++))\n"
    "        while [[ ${COMP_WORDS[i+1]-} == : ]]; do ((i += 2)); done ;;\n"
    "      -*) ;;\n"
    "      *) if [[ -z $group ]]; then group=${COMP_WORDS[i]}; elif [[ -z $name ]]; then name=${COMP_WORDS[i]}; fi ;;\n"
    "    esac\n"
    "  done\n";

constexpr char kBashTail[] =
    "  if [[ -n $files ]]; then\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
    "  else\n"
    "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
    "  fi\n"
    "}\n"
    "complete -F _quantctl quantctl\n";

volatile std::sig_atomic_t interrupted = 0;
struct sigaction previous_action;

// The flags every command has.
struct Globals {
  std::string server;
  std::string output = "text";
  ClientAuthOptions auth;

  void AddTo(FlagSet& flags) {
    flags.Add("server", &server, "ADDR:PORT", "The service; default: $QUANT_SERVER.");
    flags.Add("output", &output, "text|json|id",
              "What goes to stdout, and nothing else there: json, one JSON document; id, the ids alone, one a line.");
    auth.AddFlags(&flags);
  }
};

std::optional<OutputForm> ParseOutputForm(std::string_view text) {
  if (text == "text") return OutputForm::kText;
  if (text == "json") return OutputForm::kJson;
  if (text == "id") return OutputForm::kId;
  return std::nullopt;
}

FlagSet MakeFlags(Command& command, Globals& globals) {
  const CommandInfo& info = command.info();
  const std::string program = absl::StrCat("quantctl ", info.group, " ", info.name);
  // As on a man page: what it does above the flags, examples and exit status below.
  const std::string_view details = info.details;
  const size_t examples = std::min(details.find("Example"), details.size());
  const absl::string_view description = absl::StripTrailingAsciiWhitespace(AbslView(details.substr(0, examples)));
  FlagSet flags(program, absl::StrCat(program, *info.arguments == '\0' ? "" : " ", info.arguments, " [FLAGS]\n\n",
                                      info.summary, description.empty() ? "" : "\n", description));
  command.AddFlags(flags);
  globals.AddTo(flags);
  flags.SetEpilog(absl::StrCat(AbslView(details.substr(examples)), "\n", kExitStatus));
  return flags;
}

std::string GroupHelp(const Commands& commands, std::string_view group) {
  std::string out;
  for (const auto& command : commands) {
    const CommandInfo& info = command->info();
    if (!group.empty() && group != info.group) continue;
    absl::StrAppend(&out, absl::StrFormat("  %-30s %s\n", absl::StrJoin({info.group, info.name, info.arguments}, " "),
                                          info.summary));
  }
  return out;
}

// What the words before the flags of a command say.
struct Words {
  std::string group;
  std::string name;
  std::vector<std::string> rest;  // all other arguments, global flags included
  bool help = false;              // --help came before the command was complete
  bool version = false;
};

// A global flag that has a value.
bool IsGlobal(std::string_view arg) {
  static constexpr std::string_view kFlags[] = {"--server",   "--output",  "--tls-ca",
                                                "--tls-cert", "--tls-key", "--token-file"};
  return std::find(std::begin(kFlags), std::end(kFlags), arg) != std::end(kFlags);
}

absl::StatusOr<Words> SplitWords(const std::vector<std::string>& args) {
  Words words;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (!words.name.empty()) {
      words.rest.push_back(arg);
    } else if (arg == "--help" || arg == "-h") {
      words.help = true;
    } else if (arg == "--version") {
      words.version = true;
    } else if (arg == "--insecure-tokens") {
      words.rest.push_back(arg);
    } else if (IsGlobal(arg)) {
      words.rest.push_back(arg);
      if (i + 1 < args.size()) words.rest.push_back(args[++i]);
    } else if (arg.find('=') != std::string::npos && IsGlobal(arg.substr(0, arg.find('=')))) {
      words.rest.push_back(arg);
    } else if (absl::StartsWith(arg, "-") && arg.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(arg),
                                                     " stands before the command; only the global flags may: see "
                                                     "quantctl --help"));
    } else {
      (words.group.empty() ? words.group : words.name) = arg;
    }
  }
  return words;
}

int Wrong(const CliEnvironment& environment, std::string_view message, std::string_view help) {
  std::fprintf(environment.err, "quantctl: %s\nsee %s --help\n", Printable(message).c_str(), std::string(help).c_str());
  return kExitUsage;
}

// Prints why a command failed, with what to do about it where the server's message cannot know.
int Fail(const CliEnvironment& environment, const absl::Status& status, const std::string& server) {
  std::string message(status.message());
  int exit = kExitFailed;
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      message = absl::StrCat("cannot reach the server at ", server, ": ", message,
                             ". Is quantd running there? --server or QUANT_SERVER names another");
      exit = kExitUnreachable;
      break;
    case absl::StatusCode::kDeadlineExceeded:
      message = absl::StrCat("the server at ", server, " did not answer in time: ", message);
      exit = kExitUnreachable;
      break;
    case absl::StatusCode::kUnauthenticated:
      absl::StrAppend(&message, " (it is read from QUANT_TOKEN, --token-file or QUANT_TOKEN_FILE)");
      break;
    case absl::StatusCode::kUnimplemented:
      if (message.empty()) message = absl::StrCat("the server at ", server, " does not know this call: is it quantd?");
      break;
    case absl::StatusCode::kCancelled:
      exit = InterruptScope::Interrupted() ? kExitInterrupted : kExitUnreachable;
      if (exit == kExitUnreachable) message = absl::StrCat("the server at ", server, " cut the call short: ", message);
      break;
    default:
      break;
  }
  if (message.empty()) message = absl::StatusCodeToString(status.code());
  std::fprintf(environment.err, "quantctl: %s\n", Printable(message).c_str());
  return exit;
}

int RunCommand(Command& command, const std::vector<std::string>& args, const CliEnvironment& environment) {
  Globals globals;
  FlagSet flags = MakeFlags(command, globals);
  const std::string program = absl::StrCat("quantctl ", command.info().group, " ", command.info().name);
  std::vector<std::string> arguments;
  if (absl::Status status = flags.Parse(args, &arguments); !status.ok()) {
    return Wrong(environment, StdView(status.message()), program);
  }
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), environment.out);
    return kExitDone;
  }
  const std::vector<std::string> wanted = absl::StrSplit(command.info().arguments, ' ', absl::SkipEmpty());
  if (arguments.size() < wanted.size()) {
    return Wrong(
        environment,
        absl::StrCat(program, " wants ", absl::StrJoin(wanted, " "), ": ", wanted[arguments.size()], " is missing"),
        program);
  }
  if (arguments.size() > wanted.size()) {
    return Wrong(environment,
                 absl::StrCat(program, wanted.empty() ? " takes no argument" : " takes only ",
                              absl::StrJoin(wanted, " "), ", not ", Quoted(arguments[wanted.size()])),
                 program);
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].empty()) return Wrong(environment, absl::StrCat(wanted[i], " is empty"), program);
    if (!IsValidUtf8(arguments[i]) && wanted[i] == "ID") return Wrong(environment, "ID is not UTF-8", program);
  }
  const std::optional<OutputForm> form = ParseOutputForm(globals.output);
  if (!form.has_value()) {
    return Wrong(environment, absl::StrCat("--output is text, json or id, not ", Quoted(globals.output)), program);
  }
  if (form == OutputForm::kId && !command.HasIds()) {
    return Wrong(environment, absl::StrCat(program, " has no ids to print: --output is text or json"), program);
  }
  if (absl::Status status = command.Check(flags, arguments); !status.ok()) {
    return Wrong(environment, StdView(status.message()), program);
  }
  ClientOptions options;
  options.server = globals.server.empty() ? environment.getenv("QUANT_SERVER") : globals.server;
  options.auth = globals.auth;
  options.auth.FillFromEnvironment(environment.getenv);
  absl::StatusOr<Client> client = Client::Create(std::move(options));
  if (!client.ok()) return Wrong(environment, StdView(client.status().message()), program);
  const std::string server = client->server();
  // All calls of one run are of one trace: the caller's, or a new one.
  std::string trace = ParseTraceparent(environment.getenv("TRACEPARENT"));
  if (trace.empty()) trace = NewTraceparent();
  const LogScope scope({.traceparent = trace});
  Session session(*std::move(client), *form, environment.out, environment.err);
  absl::StatusOr<int> exit = command.Run(session, arguments);
  return exit.ok() ? *exit : Fail(environment, exit.status(), server);
}

int Dispatch(const std::vector<std::string>& args, const CliEnvironment& environment) {
  Commands commands = MakeCommands();
  absl::StatusOr<Words> words = SplitWords(args);
  if (!words.ok()) return Wrong(environment, StdView(words.status().message()), "quantctl");
  if (words->version) {
    std::fprintf(environment.out, "quantctl %s\n", environment.version.c_str());
    return kExitDone;
  }
  if (words->group == "completion" && words->name.empty() && !words->help) {
    std::fputs(CompletionScript().c_str(), environment.out);
    return kExitDone;
  }
  if (words->group.empty() || words->group == "help") {
    const std::string help =
        absl::StrCat(kIntro, "\nCommands (each has --help):\n", GroupHelp(commands, ""),
                     "  completion                     Print the bash completion script.\n\n", kOutro);
    const bool asked = words->help || words->group == "help";
    std::fputs(help.c_str(), asked ? environment.out : environment.err);
    return asked ? kExitDone : kExitUsage;
  }
  const std::string list = GroupHelp(commands, words->group);
  if (list.empty()) {
    return Wrong(environment,
                 absl::StrCat("no command ", Quoted(words->group), "; there are model, dataset, storage, job, worker"),
                 "quantctl");
  }
  if (words->name.empty()) {
    const char* about = "";
    for (const auto& [group, text] : kGroups) {
      if (words->group == group) about = text;
    }
    std::fprintf(
        words->help ? environment.out : environment.err,
        "Usage: quantctl %s COMMAND [ARGUMENTS] [FLAGS]\n\n%s\n\nCommands (each has --help, with examples):\n%s\n"
        "quantctl --help tells the global flags and the exit statuses.\n",
        words->group.c_str(), about, list.c_str());
    return words->help ? kExitDone : kExitUsage;
  }
  for (const auto& command : commands) {
    if (words->group != command->info().group || words->name != command->info().name) continue;
    if (words->help) words->rest.push_back("--help");
    return RunCommand(*command, words->rest, environment);
  }
  return Wrong(environment, absl::StrCat("no command ", Quoted(absl::StrCat(words->group, " ", words->name))),
               absl::StrCat("quantctl ", words->group));
}

}  // namespace

void Session::Print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), out_);
  if (text.empty() || text.back() != '\n') std::fputc('\n', out_);
}

void Session::Say(std::string_view text) { std::fprintf(err_, "%s\n", Printable(text).c_str()); }

Commands MakeCommands() {
  Commands commands;
  AddArtifactCommands(commands);
  AddJobCommands(commands);
  AddWorkerCommands(commands);
  return commands;
}

int RunQuantctl(const std::vector<std::string>& args, const CliEnvironment& environment) {
  interrupted = 0;
  const int exit = Dispatch(args, environment);
  if (std::fflush(environment.out) != 0 || std::ferror(environment.out)) {
    std::fputs("quantctl: cannot write to stdout\n", environment.err);
    return exit == kExitDone ? kExitFailed : exit;
  }
  return exit;
}

std::string CompletionScript() {
  std::string out = kBashHead;
  std::vector<std::string> groups;
  for (const auto& command : MakeCommands()) {
    if (groups.empty() || groups.back() != command->info().group) groups.push_back(command->info().group);
  }
  absl::StrAppend(&out, "  case $group in\n    '') words='", absl::StrJoin(groups, " "),
                  " completion help --server --output --help --version' ;;\n");
  for (const std::string& group : groups) {
    absl::StrAppend(&out, "    ", group, ")\n      case $name in\n        '') words='");
    std::string names, cases;
    for (const auto& command : MakeCommands()) {
      const CommandInfo& info = command->info();
      if (group != info.group) continue;
      absl::StrAppend(&names, info.name, " ");
      Globals globals;
      const FlagSet flags = MakeFlags(*command, globals);
      absl::StrAppend(&cases, "        ", info.name, ")\n          words='", absl::StrJoin(flags.Names(), " "), "'\n");
      if (absl::StrContains(info.arguments, "PATH") || absl::StrContains(info.arguments, "DIR")) {
        absl::StrAppend(&cases, "          [[ $cur == -* ]] || files=1\n");
      }
      // The value names of the help tell what a flag takes.
      std::string values;
      for (absl::string_view line : absl::StrSplit(flags.Help(), '\n')) {
        const std::vector<std::string> parts = absl::StrSplit(line, ' ', absl::SkipEmpty());
        if (parts.size() < 2 || !absl::StartsWith(line, "  --") || absl::StartsWith(parts[0], "--[no-]")) continue;
        absl::StrAppend(&values, "            ", parts[0], ") ",
                        absl::StrContains(parts[1], '|')
                            ? absl::StrCat("files='' words='", absl::StrJoin(absl::StrSplit(parts[1], '|'), " "), "'")
                        : parts[1] == "FILE" ? "files=1"
                                             : "files='' words=''",
                        " ;;\n");
      }
      absl::StrAppend(&cases, "          case $prev in\n", values, "          esac ;;\n");
    }
    absl::StrAppend(&out, names, "--server --output --help' ;;\n", cases, "      esac ;;\n");
  }
  return absl::StrCat(out, "  esac\n", kBashTail);
}

InterruptScope::InterruptScope() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second one ends the program
  sigaction(SIGINT, &action, &previous_action);
}
InterruptScope::~InterruptScope() { sigaction(SIGINT, &previous_action, nullptr); }
bool InterruptScope::Interrupted() { return interrupted != 0; }

}  // namespace quant

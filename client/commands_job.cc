// SPDX-License-Identifier: Apache-2.0
// quantctl job.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "client/report_text.h"
#include "client/submit.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/job_inputs.h"
#include "common/view/job_view.h"
#include "common/view/json.h"
#include "common/view/proto_fields.h"
#include "common/view/report_view.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

std::string JobText(const v1::Job& job) {
  std::string out;
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty()) absl::StrAppend(&out, absl::StrFormat("%-10s %s\n", name, Printable(value)));
  };
  line("id", job.id());
  line("state", StateName(job));
  line("does", JobTitle(job));
  line("model", InputsOf(job.spec()).model);
  line("result", job.result_model_id());
  line("answered from", job.cached_from());
  line("waits for", job.attached_to());
  if (job.has_expire_time())
    line("kept until", absl::FormatTime(absl::RFC3339_sec, FromProto(job.expire_time()), absl::UTCTimeZone()));
  if (job.state() == v1::JOB_STATE_RUNNING || job.state() == v1::JOB_STATE_CANCELLING) {
    line("progress", absl::StrCat(ProgressText(job, absl::Now()), "  ", ProgressFigures(job.progress()), "  ",
                                  job.progress().message()));
    line("worker", job.worker_id());
  }
  if (job.has_error()) line("error", ErrorText(job.error()));
  line("attempt", job.attempt() > 0 ? absl::StrCat(job.attempt()) : "");
  line("created", HumanTime(FromProto(job.create_time())));
  if (job.has_start_time()) line("started", HumanTime(FromProto(job.start_time())));
  if (job.has_end_time()) line("ended", HumanTime(FromProto(job.end_time())));
  if (job.has_retry_time() && job.state() == v1::JOB_STATE_RETRY_WAIT) line("retry", ProgressText(job, absl::Now()));
  line("run time", RunTime(job, absl::Now()) == "-" ? "" : RunTime(job, absl::Now()));
  line("trace", job.traceparent());
  std::map<std::string, std::string> labels(job.spec().labels().begin(), job.spec().labels().end());
  for (const auto& [key, value] : labels) line("label", absl::StrCat(key, "=", value));
  return out;
}

void PrintJob(Session& session, const v1::Job& job) {
  session.PrintResource(
      job.id(), [&] { return MessageToJson(job); },
      [&] { return absl::StrCat("job ", Printable(job.id()), " ", StateName(job)); });
}

// Follows a job to its end with a progress line, prints it, and gives the exit status.
absl::StatusOr<int> Watch(Session& session, const std::string& id) {
  InterruptScope interrupt;
  ProgressLine line(session.err(), TerminalWidth(session.err()));
  int attempt = 0;
  const Client::WatchCallbacks callbacks = {
      .job =
          [&](const v1::Job& job) {
            if (IsSettled(job)) return line.Clear();
            if (job.state() == v1::JOB_STATE_RETRY_WAIT && job.attempt() != attempt) {
              attempt = job.attempt();
              line.Note(absl::StrCat("attempt ", attempt, " ended with ", ErrorText(job.error())));
            }
            if (job.state() == v1::JOB_STATE_RUNNING && !job.progress().phase().empty()) {
              const std::string figures = ProgressFigures(job.progress());
              line.Update(job.progress().phase(), job.progress().fraction(),
                          absl::StrCat(figures, figures.empty() ? "" : "  ", job.progress().message()));
            } else {
              line.Update(
                  absl::AsciiStrToLower(StateName(job)), 0,
                  job.state() == v1::JOB_STATE_QUEUED ? "waiting for a worker" : ProgressText(job, absl::Now()));
            }
          },
      .note = [&](const std::string& text) { line.Note(text); },
      .cancelled = [] { return InterruptScope::Interrupted(); }};
  absl::StatusOr<v1::Job> job = session.client().WatchJob(id, callbacks);
  line.Clear();
  if (InterruptScope::Interrupted()) {
    return absl::CancelledError(absl::StrCat("stopped watching; the job goes on. quantctl job watch ", id,
                                             " shows it again, quantctl job cancel ", id, " ends it"));
  }
  if (!job.ok()) return job.status();
  session.PrintResource(
      id, [&] { return MessageToJson(*job); },
      [&] {
        return absl::StrCat(
            "job ", Printable(id), " ", StateName(*job),
            RunTime(*job, absl::Now()) == "-" ? "" : absl::StrCat(" after ", RunTime(*job, absl::Now())),
            job->result_model_id().empty() ? "" : absl::StrCat(", result ", Printable(job->result_model_id())),
            job->cached_from().empty() ? "" : absl::StrCat(", answered from job ", Printable(job->cached_from())));
      });
  if (job->state() == v1::JOB_STATE_SUCCEEDED) {
    if (session.text()) session.Say(absl::StrCat("see quantctl job report ", id));
    return kExitDone;
  }
  session.Say(absl::StrCat("quantctl: job ", id, " ", StateName(*job),
                           job->has_error() ? absl::StrCat(": ", ErrorText(job->error())) : ""));
  return kExitFailed;
}

class Submit : public Command {
 public:
  using Command::Command;
  Submit(const CommandInfo& info, std::unique_ptr<SubmitFlags> submit) : Command(info), submit_(std::move(submit)) {}
  void AddFlags(FlagSet& flags) override {
    flags.Add("watch", &watch_, "", "Follow the job to its end; the exit status is then 0 only if it succeeded.");
    submit_->AddTo(flags);
  }
  absl::Status Check(const FlagSet& flags, const std::vector<std::string>&) override {
    ASSIGN_OR_RETURN(v1::SubmitJobRequest request, submit_->Build(flags));
    request_ = std::make_unique<v1::SubmitJobRequest>(std::move(request));
    return absl::OkStatus();
  }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>&) override {
    ASSIGN_OR_RETURN(const v1::Job job, session.client().SubmitJob(*request_));
    if (!watch_) {
      PrintJob(session, job);
      if (session.text()) session.Say(absl::StrCat("see quantctl job watch ", job.id()));
      return kExitDone;
    }
    if (session.text()) PrintJob(session, job);
    return Watch(session, job.id());
  }

 private:
  std::unique_ptr<SubmitFlags> submit_;
  std::unique_ptr<v1::SubmitJobRequest> request_;
  bool watch_ = false;
};

class List : public Command {
 public:
  using Command::Command;
  void AddFlags(FlagSet& flags) override {
    flags.Add("limit", &limit_, "N", "Show the newest N; 0: all.", 0);
    flags.Add("state", &states_, EnumChoices(*v1::JobState_descriptor()), "Only jobs in this state. Repeatable.");
    flags.Add("kind", &kind_, "quantize|calibrate|benchmark|analyze|tune", "Only jobs of this kind.");
    flags.Add("label", &labels_, "KEY=VALUE", "Only jobs with this label. Repeatable: all of them.");
  }
  absl::Status Check(const FlagSet&, const std::vector<std::string>&) override {
    filter_ = std::make_unique<v1::ListJobsRequest>();
    for (const std::string& state : states_) {
      absl::StatusOr<const google::protobuf::EnumValueDescriptor*> value = ParseEnum(*v1::JobState_descriptor(), state);
      if (!value.ok()) return absl::InvalidArgumentError(absl::StrCat("--state: ", value.status().message()));
      RETURN_IF_ERROR(SetPath(*filter_, "states", state));
    }
    if (!IsValidUtf8(kind_)) return absl::InvalidArgumentError("--kind is not UTF-8");
    filter_->set_kind(kind_);
    std::vector<std::pair<std::string, std::string>> labels;
    for (const std::string& label : labels_) RETURN_IF_ERROR(AddLabel(label, labels));
    for (auto& [key, value] : labels) (*filter_->mutable_labels())[key] = value;
    return absl::OkStatus();
  }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>&) override {
    bool more = false;
    ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, session.client().ListJobs(*filter_, limit_, &more));
    if (session.json()) {
      std::vector<std::string> items;
      items.reserve(jobs.size());
      for (const v1::Job& job : jobs) items.push_back(MessageToJson(job));
      session.Print(ListToJson(items));
    } else if (session.form() == OutputForm::kId) {
      for (const v1::Job& job : jobs) session.Print(Printable(job.id()));
    } else if (jobs.empty()) {
      session.Say("no such jobs: quantctl job submit --help");
    } else {
      using enum Table::Align;
      Table table({{"ID"},
                   {"DOES", kLeft, true},
                   {"STATE"},
                   {"PROGRESS", kLeft, true},
                   {"MODEL"},
                   {"CREATED"},
                   {"RAN", kRight}});
      for (const v1::Job& job : jobs) {
        table.Add({job.id(), JobTitle(job), StateName(job),
                   job.has_error() && IsSettled(job) ? job.error().reason() : ProgressText(job, absl::Now()),
                   InputsOf(job.spec()).model, HumanTime(FromProto(job.create_time())), RunTime(job, absl::Now())});
      }
      session.Print(table.Render(session.width()));
    }
    if (more) session.Say(absl::StrCat("there are more than ", limit_, ": --limit 0 lists all"));
    return kExitDone;
  }

 private:
  int64_t limit_ = 50;
  std::vector<std::string> states_;
  std::string kind_;
  std::vector<std::string> labels_;
  std::unique_ptr<v1::ListJobsRequest> filter_;
};

class Show : public Command {
 public:
  using Command::Command;
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    ASSIGN_OR_RETURN(const v1::Job job, session.client().GetJob(arguments[0]));
    session.PrintResource(job.id(), [&] { return MessageToJson(job); }, [&] { return JobText(job); });
    return kExitDone;
  }
};

class WatchCommand : public Command {
 public:
  using Command::Command;
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    return Watch(session, arguments[0]);
  }
};

// cancel and retry: one call, then the job after it.
class Change : public Command {
 public:
  using Call = absl::StatusOr<v1::Job> (Client::*)(const std::string&);
  Change(const CommandInfo& info, Call call) : Command(info), call_(call) {}
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    ASSIGN_OR_RETURN(const v1::Job job, (session.client().*call_)(arguments[0]));
    PrintJob(session, job);
    return kExitDone;
  }

 private:
  const Call call_;
};

class Delete : public Command {
 public:
  using Command::Command;
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    RETURN_IF_ERROR(session.client().DeleteJob(arguments[0]));
    session.PrintResource(
        arguments[0], [&] { return StringsToJson({{"id", arguments[0]}}); },
        [&] { return absl::StrCat("job ", Printable(arguments[0]), " deleted"); });
    return kExitDone;
  }
};

class Report : public Command {
 public:
  using Command::Command;
  bool HasIds() const override { return false; }
  void AddFlags(FlagSet& flags) override {
    flags.Add("format", &format_, "text|json|html", "json also with --output json; html is one self-contained page.");
  }
  absl::Status Check(const FlagSet& flags, const std::vector<std::string>&) override {
    format_given_ = flags.IsSet("format");
    if (format_ == "text" || format_ == "json" || format_ == "html") return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--format is text, json or html, not ", Quoted(format_)));
  }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    if (session.json() && !format_given_) format_ = "json";
    ASSIGN_OR_RETURN(const v1::Report report, session.client().GetJobReport(arguments[0]));
    if (format_ == "json") {
      session.Print(MessageToJson(report));
      return kExitDone;
    }
    ASSIGN_OR_RETURN(const v1::Job job, session.client().GetJob(arguments[0]));
    session.Print(format_ == "html" ? ReportHtml(report, job) : ReportText(report, job));
    return kExitDone;
  }

 private:
  std::string format_ = "text";
  bool format_given_ = false;
};

constexpr char kSubmitHelp[] =
    "A flag in [brackets] belongs to those methods only. Flags not given take the service's defaults;\n"
    "the job's report repeats the recipe with every default filled in. Rules and everything else of\n"
    "quant.v1.Recipe can stand in a --recipe file, as JSON or protobuf text:\n"
    "  {\"static_int8\": {\"skip_first\": true}, \"calibration\": {\"observer\": \"ENTROPY\"}}\n"
    "\n"
    "Kinds: quantize needs a --method, or a --recipe with one; calibrate finds ranges only; benchmark\n"
    "measures a model, against --baseline if given; analyze tells each layer's sensitivity; tune\n"
    "searches recipes (--candidates, --recipe) under --max-drop.\n"
    "\n"
    "Examples:\n"
    "  quantctl job submit --model m-… --method dynamic\n"
    "  quantctl job submit --model m-… --method static --calibration d-… --evaluation d-… \\\n"
    "      --calibration-samples 256 --evaluation-skip 256 --percentile 99.9 --watch\n"
    "  quantctl job submit --model m-… --method gptq --bits 4 --group-size 128 \\\n"
    "      --calibration d-… --skip 'lm_head*' --label team=nlp\n"
    "  quantctl job submit --kind benchmark --model m-… --baseline m-… --evaluation d-… --watch\n"
    "  job=$(quantctl job submit --model m-… --recipe recipe.json --seed 7 --watch --output id)\n";

}  // namespace

void AddJobCommands(Commands& commands) {
  const auto add = [&](std::unique_ptr<Command> command) { commands.push_back(std::move(command)); };
  add(std::make_unique<Submit>(
      CommandInfo{"job", "submit", "", "Submit a job: what to do with which model.", kSubmitHelp},
      std::make_unique<SubmitFlags>()));
  add(std::make_unique<List>(CommandInfo{"job", "list", "", "List jobs, newest first.",
                                         "Examples:\n"
                                         "  quantctl job list --state running --state queued\n"
                                         "  quantctl job list --label team=vision --output id\n"}));
  add(std::make_unique<Show>(
      CommandInfo{"job", "show", "ID", "Show a job.", "Example:\n  quantctl job show j-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<WatchCommand>(
      CommandInfo{"job", "watch", "ID", "Follow a job to its end.",
                  "Progress goes to stderr; with --output json the job as it ended goes to stdout. Ctrl-C stops\n"
                  "watching, not the job. A server that restarts is reached again; after 60 s without one the exit\n"
                  "status is 3.\n\n"
                  "Example:\n  quantctl job watch j-0a1b2c3d4e5f6g7h && quantctl job report j-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Change>(CommandInfo{"job", "cancel", "ID", "Ask that a job stop.",
                                           "A running job is CANCELLING until its worker has stopped it.\n\n"
                                           "Example:\n  quantctl job cancel j-0a1b2c3d4e5f6g7h\n"},
                               &Client::CancelJob));
  add(std::make_unique<Change>(CommandInfo{"job", "retry", "ID", "Queue a failed, cancelled or dead job again.",
                                           "Example:\n  quantctl job retry j-0a1b2c3d4e5f6g7h\n"},
                               &Client::RetryJob));
  add(std::make_unique<Delete>(CommandInfo{"job", "delete", "ID", "Delete a job that is not running, with its report.",
                                           "Models that it made stay.\n\n"
                                           "Example:\n  quantctl job delete j-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Report>(
      CommandInfo{"job", "report", "ID", "Show what a job measured.",
                  "Examples:\n"
                  "  quantctl job report j-0a1b2c3d4e5f6g7h\n"
                  "  quantctl job report j-0a1b2c3d4e5f6g7h --format html >report.html\n"
                  "  quantctl job report j-… --format json | jq '.metrics[] | {name, delta}'\n"}));
}

}  // namespace quant

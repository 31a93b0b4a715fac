// SPDX-License-Identifier: Apache-2.0
#include "server/pages/page_parts.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/proto_time.h"
#include "common/strings.h"
#include "common/view/human.h"
#include "common/view/job_view.h"
#include "common/view/json.h"
#include "common/view/proto_fields.h"

namespace quant {
namespace {

constexpr int kMostFiles = 200;
constexpr const char* kPhases[] = {"fetch",  "load",     "calibrate", "quantize", "export",
                                   "verify", "evaluate", "benchmark", "upload"};

Markup Name(const char* kind, const std::string& id, const std::string& name) {
  return Link(absl::StrCat("/", kind, "/", UrlEncode(id)), name.empty() ? id : name);
}

Markup Files(const google::protobuf::RepeatedPtrField<v1::File>& files) {
  HtmlTable table({"File", ">Size", "SHA-256"});
  for (int i = 0; i < std::min(files.size(), kMostFiles); ++i) {
    table.Add({Text(files[i].path()), Text(HumanBytes(files[i].digest().size_bytes())),
               Element("small", "dim", Text(files[i].digest().sha256()))});
  }
  Markup out = Element("h2", "", Text(absl::StrCat("Files: ", files.size()))) + table.Render();
  if (files.size() > kMostFiles) {
    out = out + Element("p", "dim", Text(absl::StrCat("and ", files.size() - kMostFiles, " more: quantctl shows all")));
  }
  return out;
}

// What a running job does now.
Markup Now(const v1::Job& job) {
  const v1::Progress& progress = job.progress();
  if (progress.phase().empty()) return Element("div", "now", Text("starting"));
  Markup steps;
  for (const char* const phase : kPhases) {
    if (!steps.html.empty()) steps = steps + Text(" · ");
    steps = steps + (progress.phase() == phase ? Element("b", "", Text(phase)) : Text(phase));
  }
  const std::string percent = absl::StrFormat("%d %%", static_cast<int>(100 * progress.fraction()));
  const std::string figures = ProgressFigures(progress);
  return Element("div", "now",
                 Element("p", "",
                         Element("b", "", Text(progress.phase())) + Text(" " + percent) +
                             Text(figures.empty() ? "" : ", " + figures)) +
                     Markup{absl::StrFormat("<progress max=\"1\" value=\"%.3f\"></progress>", progress.fraction())} +
                     Element("p", "", Text(progress.message())) + Element("p", "steps", steps));
}

Markup Specification(const v1::Job& job) {
  std::string json;
  // HtmlEscape makes line ends printable, so it goes line by line.
  for (absl::string_view line : absl::StrSplit(MessageToJson(job.spec()), '\n')) {
    absl::StrAppend(&json, Text(StdView(line)).html, "\n");
  }
  return Element("details", "",
                 Element("summary", "", Text("What was asked for, as JSON")) + Element("pre", "", Markup{json}));
}

}  // namespace

Markup JobRows(const std::vector<v1::Job>& jobs, absl::Time now) {
  if (jobs.empty()) return Element("p", "dim", Text("none"));
  HtmlTable table({"Job", "Does", "State", "Progress", "Result", "Created", ">Ran"});
  for (const v1::Job& job : jobs) {
    table.Add({ResourceLink("jobs", job.id()), Text(JobTitle(job)), StateBadge(job), JobProgress(job, now),
               ResourceLink("models", job.result_model_id()), Ago(FromProto(job.create_time()), now),
               Text(RunTime(job, now) == "-" ? "" : RunTime(job, now))});
  }
  return table.Render();
}

Markup WorkerRows(const std::vector<v1::Worker>& workers, absl::Time now) {
  if (workers.empty()) return Element("p", "dim", Text("none"));
  HtmlTable table({"Worker", "State", "Runs", ">Slots", ">Threads", ">Memory", "ISA", "Build", "Heard"});
  for (const v1::Worker& worker : workers) {
    const v1::WorkerInfo& info = worker.info();
    const Markup state = worker.lost()              ? Element("span", "state bad", Text("LOST"))
                         : worker.draining()        ? Element("span", "state", Text("DRAINING"))
                         : worker.job_ids().empty() ? Element("span", "state good", Text("IDLE"))
                                                    : Element("span", "state busy", Text("BUSY"));
    Markup runs;
    for (const std::string& id : worker.job_ids()) runs = runs + ResourceLink("jobs", id) + Text(" ");
    table.Add({Text(info.id()), state, runs, Text(absl::StrCat(info.slots())), Text(absl::StrCat(info.threads())),
               Text(info.memory_bytes() > 0 ? HumanBytes(info.memory_bytes()) : ""), Text(info.isa()),
               Text(info.build()), Ago(FromProto(worker.heartbeat_time()), now)});
  }
  return table.Render();
}

Markup ModelRows(const std::vector<v1::Model>& models, absl::Time now) {
  if (models.empty()) return Element("p", "dim", Text("none"));
  HtmlTable table({"Name", "Id", "Format", ">Size", "Made by", "Created"});
  for (const v1::Model& model : models) {
    table.Add({Name("models", model.id(), model.name()), Element("span", "id", Text(model.id())),
               Text(ShortEnumName(*v1::ModelFormat_descriptor(), model.format())), Text(HumanBytes(model.size_bytes())),
               ResourceLink("jobs", model.source_job_id()), Ago(FromProto(model.create_time()), now)});
  }
  return table.Render();
}

Markup DatasetRows(const std::vector<v1::Dataset>& datasets, absl::Time now) {
  if (datasets.empty()) return Element("p", "dim", Text("none"));
  HtmlTable table({"Name", "Id", ">Size", "Created"});
  for (const v1::Dataset& dataset : datasets) {
    table.Add({Name("datasets", dataset.id(), dataset.name()), Element("span", "id", Text(dataset.id())),
               Text(HumanBytes(dataset.size_bytes())), Ago(FromProto(dataset.create_time()), now)});
  }
  return table.Render();
}

Markup StateFilter(const std::string& state) {
  Markup links;
  for (const char* const name :
       {"", "queued", "running", "retry_wait", "cancelling", "succeeded", "failed", "cancelled", "dead"}) {
    const std::string text = std::string_view(name).empty() ? "all" : name;
    const std::string href = std::string_view(name).empty() ? "/jobs" : absl::StrCat("/jobs?state=", name);
    links = links + (state == name ? Element("b", "", Text(text)) : Link(href, text));
  }
  return Element("div", "filter", links);
}

Markup JobFacts(const v1::Job& job, const JobNames& names, absl::Time now) {
  Markup out =
      Element("h1", "", Text(absl::StrCat(JobTitle(job), " ")) + StateBadge(job)) + Element("p", "sub", Text(job.id()));
  if (job.state() == v1::JOB_STATE_RUNNING || job.state() == v1::JOB_STATE_CANCELLING) out = out + Now(job);
  if (job.has_error()) out = out + Element("p", "error", Text(ErrorText(job.error())));
  HtmlList facts;
  facts.Add("model", names.model);
  facts.Add("result", names.result);
  facts.Add("calibration", names.calibration);
  facts.Add("evaluation", names.evaluation);
  facts.Add("answered from", ResourceLink("jobs", job.cached_from()));
  facts.Add("waits for", ResourceLink("jobs", job.attached_to()));
  if (job.state() == v1::JOB_STATE_RETRY_WAIT) facts.Add("retry", Text(ProgressText(job, now)));
  facts.Add("worker", Text(job.worker_id()));
  if (job.attempt() > 0) {
    const int most = job.spec().max_attempts();
    facts.Add("attempt", Text(absl::StrCat(job.attempt(), most > 0 ? absl::StrCat(" of ", most) : "")));
  }
  facts.Add("created", Moment(FromProto(job.create_time())));
  if (job.has_start_time()) facts.Add("started", Moment(FromProto(job.start_time())));
  if (job.has_end_time()) facts.Add("ended", Moment(FromProto(job.end_time())));
  if (job.has_start_time()) facts.Add("run time", Text(RunTime(job, now)));
  if (job.has_expire_time()) facts.Add("kept until", Moment(FromProto(job.expire_time())));
  const std::map<std::string, std::string> sorted(job.spec().labels().begin(), job.spec().labels().end());
  Markup labels;
  for (const auto& [key, value] : sorted)
    labels = labels + Element("span", "label", Text(absl::StrCat(key, "=", value)));
  facts.Add("labels", labels);
  facts.Add("trace", Text(job.traceparent()));
  return out + facts.Render() + Specification(job);
}

Markup ModelFacts(const v1::Model& model) {
  HtmlList facts;
  facts.Add("id", Text(model.id()));
  facts.Add("format", Text(ShortEnumName(*v1::ModelFormat_descriptor(), model.format())));
  facts.Add("size", Text(HumanBytes(model.size_bytes())));
  facts.Add("made by", ResourceLink("jobs", model.source_job_id()));
  facts.Add("created", Moment(FromProto(model.create_time())));
  facts.Add("digest", Text(model.digest()));
  return Element("h1", "", Text(model.name().empty() ? model.id() : model.name())) + facts.Render() +
         Files(model.files());
}

Markup DatasetFacts(const v1::Dataset& dataset) {
  HtmlList facts;
  facts.Add("id", Text(dataset.id()));
  facts.Add("size", Text(HumanBytes(dataset.size_bytes())));
  facts.Add("created", Moment(FromProto(dataset.create_time())));
  facts.Add("digest", Text(dataset.digest()));
  return Element("h1", "", Text(dataset.name().empty() ? dataset.id() : dataset.name())) + facts.Render() +
         Files(dataset.files());
}

}  // namespace quant

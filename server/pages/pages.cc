// SPDX-License-Identifier: Apache-2.0
#include "server/pages/pages.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/job_inputs.h"
#include "common/view/job_view.h"
#include "common/view/report_view.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/report.pb.h"
#include "quant/v1/workers.pb.h"
#include "server/pages/page_html.h"
#include "server/pages/page_parts.h"
#include "server/queue/queue.h"
#include "server/store/artifact_store.h"

namespace quant {
namespace {

constexpr char kListJobs[] = "/quant.v1.JobService/ListJobs";
constexpr char kGetJob[] = "/quant.v1.JobService/GetJob";
constexpr char kGetReport[] = "/quant.v1.JobService/GetJobReport";
constexpr char kListModels[] = "/quant.v1.ArtifactService/ListModels";
constexpr char kGetModel[] = "/quant.v1.ArtifactService/GetModel";
constexpr char kListDatasets[] = "/quant.v1.ArtifactService/ListDatasets";
constexpr char kGetDataset[] = "/quant.v1.ArtifactService/GetDataset";
constexpr char kListWorkers[] = "/quant.v1.WorkerService/ListWorkers";

constexpr int kNewest = 10;  // rows of a list on the first page
constexpr int kPageSize = 50;
constexpr absl::Duration kRefresh = absl::Seconds(5);

// A path of ours to go to after a login: nothing that leads elsewhere.
std::string SafeNext(const std::string& next) {
  const bool safe = absl::StartsWith(next, "/") && !absl::StartsWith(next, "//") && next.size() <= 200 &&
                    next.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-_.?=&%") ==
                        std::string::npos;
  return safe ? next : "/";
}

}  // namespace

class Pages::Impl {
 public:
  explicit Impl(const PagesOptions& options) : options_(options), access_(options.access, options.clock) {}

  HttpResponse Answer(const HttpRequest& request) {
    if (request.path == "/icon.svg") return Icon();
    if (const absl::Status origin = access_.CheckOrigin(request); !origin.ok()) return Problem(request, origin);
    if (request.path == "/login" && access_.has_login()) return Login(request);
    if (request.path == "/logout" && access_.has_login()) return Logout(request);
    if (request.method == "POST") return Plain(405, "nothing here is changed from a browser: use quantctl\n");
    const absl::StatusOr<Principal> caller = access_.Identify(request);
    if (!caller.ok()) return Problem(request, caller.status());
    absl::StatusOr<HttpResponse> page = Route(request, *caller);
    if (page.ok()) return *std::move(page);
    if (absl::IsPermissionDenied(page.status())) {
      access_.Audit(request, *caller, absl::StrCat("page", request.path), "", page.status());
    }
    return Problem(request, page.status(), &*caller);
  }

 private:
  PageFrame Frame(std::string title, std::string section, const Principal* caller) const {
    PageFrame frame{.title = std::move(title), .section = std::move(section)};
    frame.navigation = caller != nullptr;
    if (caller == nullptr) return frame;
    frame.workers = access_.Allowed(*caller, kListWorkers);
    if (access_.has_login()) {
      frame.who = caller->role == Role::kUser ? absl::StrCat(caller->name, " of ", caller->tenant)
                                              : absl::StrCat(caller->name, ", ", AbslView(RoleName(caller->role)));
    }
    return frame;
  }

  static HttpResponse Plain(int code, std::string text) {
    return {.code = code, .type = "text/plain; charset=utf-8", .body = std::move(text)};
  }

  // A page that says what is wrong; for who is not logged in, the form.
  HttpResponse Problem(const HttpRequest& request, const absl::Status& status, const Principal* caller = nullptr) {
    if (absl::IsUnauthenticated(status)) {
      const bool first = ReasonOf(status) == "TOKEN_MISSING";
      const std::string next = absl::StrCat(request.path, request.query.empty() ? "" : "?", request.query);
      HttpResponse page = LoginForm(401, first ? "" : std::string(status.message()), SafeNext(next));
      page.headers.emplace_back("WWW-Authenticate", "Bearer");
      return page;
    }
    int code = 503;
    std::string text(status.message());
    if (absl::IsResourceExhausted(status)) code = 429;
    if (absl::IsPermissionDenied(status)) code = 403;
    if (absl::IsInvalidArgument(status)) code = 400;
    if (absl::IsNotFound(status) || ReasonOf(status) == "NOT_VISIBLE") code = 404;
    HttpResponse page = MakePage(code, Frame("Not to be shown", "", caller),
                                 Element("h1", "", Text("Not to be shown")) + Element("p", "", Text(text)));
    if (const absl::Duration wait = RetryAfterOf(status); wait > absl::ZeroDuration()) {
      page.headers.emplace_back("Retry-After", absl::StrCat(absl::ToInt64Seconds(absl::Ceil(wait, absl::Seconds(1)))));
    }
    return page;
  }

  HttpResponse LoginForm(int code, const std::string& problem, const std::string& next) {
    Markup body = Element("h1", "", Text("Log in"));
    if (!problem.empty()) body = body + Element("p", "error", Text(problem));
    body = body + Markup{absl::StrCat(
                      "<form class=\"login\" method=\"post\" action=\"/login\"><label for=\"token\">Token, as for "
                      "quantctl (QUANT_TOKEN)</label><input id=\"token\" name=\"token\" type=\"password\" "
                      "autocomplete=\"current-password\" maxlength=\"200\" required autofocus>"
                      "<input type=\"hidden\" name=\"next\" value=\"",
                      Text(next).html, "\"><button>Log in</button></form>")};
    return MakePage(code, Frame("Log in", "", nullptr), body);
  }

  HttpResponse Login(const HttpRequest& request) {
    if (request.method != "POST") return LoginForm(200, "", "/");
    const std::string next = SafeNext(FormValue(request.body, "next"));
    const absl::StatusOr<std::string> cookie = access_.Login(request, FormValue(request.body, "token"));
    if (absl::IsUnauthenticated(cookie.status())) return LoginForm(401, std::string(cookie.status().message()), next);
    if (!cookie.ok()) return Problem(request, cookie.status());
    return Redirect(next, *cookie);
  }

  HttpResponse Logout(const HttpRequest& request) {
    if (request.method != "POST") return Plain(405, "use the button\n");
    const absl::StatusOr<std::string> cookie = access_.Logout(request);
    if (!cookie.ok()) return Problem(request, cookie.status());
    return Redirect("/login", *cookie);
  }

  static HttpResponse Redirect(const std::string& path, const std::string& cookie) {
    HttpResponse response = Plain(303, "go on\n");
    response.headers = {{"Location", path}, {"Set-Cookie", cookie}};
    return response;
  }

  absl::StatusOr<HttpResponse> Route(const HttpRequest& request, const Principal& caller) {
    const std::string& path = request.path;
    if (path == "/") return First(request, caller);
    if (path == "/jobs") return JobList(request, caller);
    if (path == "/models") return ModelList(request, caller);
    if (path == "/datasets") return DatasetList(request, caller);
    if (path == "/workers") return WorkerList(request, caller);
    constexpr std::string_view kReport = "/report";
    for (const char* const folder : {"/jobs/", "/models/", "/datasets/"}) {
      if (!absl::StartsWith(path, folder)) continue;
      std::string id = path.substr(std::string_view(folder).size());
      const bool report = folder[1] == 'j' && absl::EndsWith(id, AbslView(kReport));
      if (report) id.resize(id.size() - kReport.size());
      if (!IsRandomId(id, std::string{folder[1], '-'})) break;
      if (report) return ReportPage(request, caller, id);
      if (folder[1] == 'j') return JobPage(request, caller, id);
      return folder[1] == 'm' ? ModelPage(caller, id) : DatasetPage(caller, id);
    }
    return absl::NotFoundError("there is no such page");
  }

  static void SetRefresh(const HttpRequest& request, PageFrame* frame) {
    if (FormValue(request.query, "refresh") != "off") frame->refresh = kRefresh;
  }

  absl::StatusOr<HttpResponse> First(const HttpRequest& request, const Principal& caller) {
    RETURN_IF_ERROR(access_.Allow(caller, kListJobs));
    PageFrame frame = Frame("Status", "", &caller);
    SetRefresh(request, &frame);
    const absl::Time now = options_.clock->Now();
    v1::ListJobsRequest jobs;
    jobs.set_page_size(kNewest);
    ASSIGN_OR_RETURN(const v1::ListJobsResponse newest, options_.queue->List(caller, jobs));
    Markup body = Element("h1", "", Text("Jobs")) + JobRows({newest.jobs().begin(), newest.jobs().end()}, now);
    if (!newest.next_page_token().empty()) body = body + Element("p", "pages", Link("/jobs", "all jobs"));
    if (frame.workers) {
      const v1::ListWorkersResponse workers = options_.queue->ListWorkers();
      body = body + Element("h2", "", Text("Workers")) +
             WorkerRows({workers.workers().begin(), workers.workers().end()}, now);
    }
    v1::ListModelsRequest models;
    models.set_page_size(kNewest);
    ASSIGN_OR_RETURN(const v1::ListModelsResponse made, options_.artifacts->ListModels(caller, models));
    body =
        body + Element("h2", "", Text("Newest models")) + ModelRows({made.models().begin(), made.models().end()}, now);
    return MakePage(200, frame, body);
  }

  // "first page" and "next page" of a list. `keep` is the rest of the query.
  static Markup PageLinks(const std::string& path, const std::string& keep, bool first, const std::string& next) {
    Markup links;
    const std::string amp = keep.empty() ? "" : "&";
    if (!first) links = links + Link(absl::StrCat(path, keep.empty() ? "" : "?", keep), "newest");
    if (!next.empty()) links = links + Link(absl::StrCat(path, "?", keep, amp, "page=", UrlEncode(next)), "older");
    return links.html.empty() ? links : Element("p", "pages", links);
  }

  absl::StatusOr<HttpResponse> JobList(const HttpRequest& request, const Principal& caller) {
    RETURN_IF_ERROR(access_.Allow(caller, kListJobs));
    PageFrame frame = Frame("Jobs", "jobs", &caller);
    v1::ListJobsRequest list;
    list.set_page_size(kPageSize);
    list.set_page_token(FormValue(request.query, "page"));
    const std::string state = FormValue(request.query, "state");
    v1::JobState value = v1::JOB_STATE_UNSPECIFIED;
    if (!state.empty() && !v1::JobState_Parse(absl::StrCat("JOB_STATE_", absl::AsciiStrToUpper(state)), &value)) {
      return absl::InvalidArgumentError(absl::StrCat("there is no state ", Quoted(state)));
    }
    if (!state.empty()) list.add_states(value);
    ASSIGN_OR_RETURN(const v1::ListJobsResponse page, options_.queue->List(caller, list));
    if (list.page_token().empty() && state.empty()) SetRefresh(request, &frame);
    const Markup body = Element("h1", "", Text("Jobs")) + StateFilter(state) +
                        JobRows({page.jobs().begin(), page.jobs().end()}, options_.clock->Now()) +
                        PageLinks("/jobs", state.empty() ? "" : absl::StrCat("state=", UrlEncode(state)),
                                  list.page_token().empty(), page.next_page_token());
    return MakePage(200, frame, body);
  }

  // The name of a model or dataset that a job works on, in its list of facts.
  Markup Named(const Principal& caller, const char* kind, const std::string& id) {
    if (id.empty()) return {};
    std::string name;
    if (std::string_view(kind) == "models") {
      if (const auto model = options_.artifacts->GetModel(caller, id); model.ok()) name = model->name();
    } else if (const auto dataset = options_.artifacts->GetDataset(caller, id); dataset.ok()) {
      name = dataset->name();
    }
    Markup link = ResourceLink(kind, id);
    return name.empty() ? link : Text(name) + Text(" ") + Element("span", "dim", link);
  }

  absl::StatusOr<HttpResponse> JobPage(const HttpRequest& request, const Principal& caller, const std::string& id) {
    RETURN_IF_ERROR(access_.Allow(caller, kGetJob));
    ASSIGN_OR_RETURN(const v1::Job job, options_.queue->Get(caller, id));
    PageFrame frame = Frame(absl::StrCat(JobTitle(job), " ", job.id()), "jobs", &caller);
    if (!IsSettled(job)) SetRefresh(request, &frame);
    JobNames names;
    const JobInputs inputs = InputsOf(job.spec());
    names.model = Named(caller, "models", inputs.model);
    names.result = Named(caller, "models", job.result_model_id());
    names.calibration = Named(caller, "datasets", inputs.calibration);
    names.evaluation = Named(caller, "datasets", inputs.evaluation);
    Markup body = JobFacts(job, names, options_.clock->Now());
    if (job.state() == v1::JOB_STATE_SUCCEEDED && access_.Allowed(caller, kGetReport)) {
      const absl::StatusOr<v1::Report> report = options_.queue->GetReport(caller, id);
      access_.Audit(request, caller, kGetReport, id, report.status());
      if (report.ok()) {
        body = body + Element("h2", "", Text("Report")) +
               Element("p", "", Link(absl::StrCat("/jobs/", id, "/report"), "alone, to keep or print")) +
               Markup{ReportBody(*report)};
      } else {
        body = body + Element("p", "error", Text(StdView(report.status().message())));
      }
    }
    return MakePage(200, frame, body);
  }

  absl::StatusOr<HttpResponse> ReportPage(const HttpRequest& request, const Principal& caller, const std::string& id) {
    RETURN_IF_ERROR(access_.Allow(caller, kGetReport));
    ASSIGN_OR_RETURN(const v1::Job job, options_.queue->Get(caller, id));
    const absl::StatusOr<v1::Report> report = options_.queue->GetReport(caller, id);
    access_.Audit(request, caller, kGetReport, id, report.status());
    if (absl::IsFailedPrecondition(report.status())) return absl::NotFoundError(report.status().message());
    RETURN_IF_ERROR(report.status());
    return MakeReportPage(ReportHtml(*report, job));
  }

  absl::StatusOr<HttpResponse> ModelList(const HttpRequest& request, const Principal& caller) {
    RETURN_IF_ERROR(access_.Allow(caller, kListModels));
    v1::ListModelsRequest list;
    list.set_page_size(kPageSize);
    list.set_page_token(FormValue(request.query, "page"));
    ASSIGN_OR_RETURN(const v1::ListModelsResponse page, options_.artifacts->ListModels(caller, list));
    return MakePage(200, Frame("Models", "models", &caller),
                    Element("h1", "", Text("Models")) +
                        ModelRows({page.models().begin(), page.models().end()}, options_.clock->Now()) +
                        PageLinks("/models", "", list.page_token().empty(), page.next_page_token()));
  }

  absl::StatusOr<HttpResponse> DatasetList(const HttpRequest& request, const Principal& caller) {
    RETURN_IF_ERROR(access_.Allow(caller, kListDatasets));
    v1::ListDatasetsRequest list;
    list.set_page_size(kPageSize);
    list.set_page_token(FormValue(request.query, "page"));
    ASSIGN_OR_RETURN(const v1::ListDatasetsResponse page, options_.artifacts->ListDatasets(caller, list));
    return MakePage(200, Frame("Datasets", "datasets", &caller),
                    Element("h1", "", Text("Datasets")) +
                        DatasetRows({page.datasets().begin(), page.datasets().end()}, options_.clock->Now()) +
                        PageLinks("/datasets", "", list.page_token().empty(), page.next_page_token()));
  }

  absl::StatusOr<HttpResponse> ModelPage(const Principal& caller, const std::string& id) {
    RETURN_IF_ERROR(access_.Allow(caller, kGetModel));
    ASSIGN_OR_RETURN(const v1::Model model, options_.artifacts->GetModel(caller, id));
    return MakePage(200, Frame(absl::StrCat("Model ", id), "models", &caller), ModelFacts(model));
  }

  absl::StatusOr<HttpResponse> DatasetPage(const Principal& caller, const std::string& id) {
    RETURN_IF_ERROR(access_.Allow(caller, kGetDataset));
    ASSIGN_OR_RETURN(const v1::Dataset dataset, options_.artifacts->GetDataset(caller, id));
    return MakePage(200, Frame(absl::StrCat("Dataset ", id), "datasets", &caller), DatasetFacts(dataset));
  }

  absl::StatusOr<HttpResponse> WorkerList(const HttpRequest& request, const Principal& caller) {
    RETURN_IF_ERROR(access_.Allow(caller, kListWorkers));
    PageFrame frame = Frame("Workers", "workers", &caller);
    SetRefresh(request, &frame);
    const v1::ListWorkersResponse workers = options_.queue->ListWorkers();
    return MakePage(200, frame,
                    Element("h1", "", Text("Workers")) +
                        WorkerRows({workers.workers().begin(), workers.workers().end()}, options_.clock->Now()));
  }

  const PagesOptions options_;
  PageAccess access_;
};

Pages::Pages(const PagesOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Pages::~Pages() = default;
HttpResponse Pages::Answer(const HttpRequest& request) { return impl_->Answer(request); }

}  // namespace quant

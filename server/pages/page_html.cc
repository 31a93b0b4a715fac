// SPDX-License-Identifier: Apache-2.0
#include "server/pages/page_html.h"

#include <algorithm>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "common/proto_time.h"
#include "common/strings.h"
#include "common/view/html.h"
#include "common/view/human.h"
#include "common/view/job_view.h"
#include "common/view/report_view.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

// On top of ReportStyle(), which has the colours, tables and lists.
constexpr char kPageStyle[] = R"css(
body{max-width:75rem}
body>header{display:flex;flex-wrap:wrap;align-items:center;gap:.25rem 1.25rem;border-bottom:1px solid var(--line);padding-bottom:.6rem}
body>header b{font-size:1.1rem}
body>header b a{color:inherit;text-decoration:none}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem}
nav a[aria-current]{color:inherit;font-weight:600;text-decoration:none}
.who{margin-left:auto;display:flex;gap:.75rem;align-items:center;color:var(--dim)}
a{color:var(--new)}
h1{margin-top:1rem;overflow-wrap:anywhere}
button,input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.3rem .7rem}
button{cursor:pointer}
form.login{display:grid;gap:.6rem;max-width:28rem;margin-top:1rem}
form.login input{width:100%}
.filter{display:flex;flex-wrap:wrap;gap:.25rem .9rem;margin:.5rem 0 1rem}
.filter a[aria-current]{color:inherit;font-weight:600;text-decoration:none}
.state{display:inline-block;border-radius:.3rem;padding:0 .45rem;font-size:.8rem;font-weight:600;background:var(--card);border:1px solid var(--line);white-space:nowrap}
.state.good{color:var(--good);border-color:var(--good)}
.state.bad{color:var(--bad);border-color:var(--bad)}
.state.busy{color:var(--new);border-color:var(--new)}
progress{appearance:none;display:block;width:100%;min-width:7rem;height:.5rem;border:0;border-radius:.25rem;background:var(--line);overflow:hidden}
progress::-webkit-progress-bar{background:var(--line)}
progress::-webkit-progress-value{background:var(--new)}
progress::-moz-progress-bar{background:var(--new)}
.now{background:var(--card);border-radius:.5rem;padding:.75rem 1rem;margin:1rem 0}
.now progress{height:.8rem;margin:.5rem 0}
.now p{margin:.2rem 0;overflow-wrap:anywhere}
.steps{color:var(--dim);font-size:.85rem}
.steps b{color:var(--fg)}
.error{border-left:.3rem solid var(--bad);background:var(--card);padding:.6rem 1rem;margin:1rem 0;border-radius:.3rem;overflow-wrap:anywhere;white-space:pre-wrap}
.dim{color:var(--dim)}
.label{display:inline-block;background:var(--card);border:1px solid var(--line);border-radius:.3rem;padding:0 .4rem;margin:0 .3rem .2rem 0;font-size:.85rem;overflow-wrap:anywhere}
.pages{display:flex;gap:1rem;margin:1rem 0}
td{overflow-wrap:anywhere}
.id,td time{white-space:nowrap}
table.rows td.n{padding-right:1.2rem}
footer{color:var(--dim);font-size:.8rem;margin:2.5rem 0 1rem;border-top:1px solid var(--line);padding-top:.5rem}
@media(max-width:44rem){
table.rows thead{display:none}
table.rows,table.rows tbody{display:block}
table.rows tr{display:grid;grid-template-columns:6rem 1fr;gap:.1rem .75rem;background:var(--card);border-radius:.5rem;padding:.6rem .8rem;margin:0 0 .6rem}
table.rows td{display:contents;text-align:left}
table.rows td::before{content:attr(data-name);color:var(--dim);font-size:.85rem}
table.rows td.none{display:none}
table.rows td>div{min-width:0}
}
@media print{body>header nav,.who,.filter,.pages{display:none}}
)css";

std::string CspHash(std::string_view style) {
  std::string digest;
  CHECK(absl::HexStringToBytes(Sha256Hex(style), &digest));
  return absl::StrCat("'sha256-", absl::Base64Escape(digest), "'");
}

std::vector<std::pair<std::string, std::string>> SafeHeaders() {
  static const auto* const policy =
      new std::string(absl::StrCat("default-src 'none'; style-src ", CspHash(ReportStyle()), " ", CspHash(kPageStyle),
                                   "; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"));
  return {{"Content-Security-Policy", *policy},
          {"X-Content-Type-Options", "nosniff"},
          {"X-Frame-Options", "DENY"},
          {"Referrer-Policy", "no-referrer"},
          {"Cross-Origin-Opener-Policy", "same-origin"},
          {"Cross-Origin-Resource-Policy", "same-origin"},
          {"Vary", "Cookie, Authorization"}};
}

void NavigationLink(std::string_view name, const PageFrame& frame, std::string* out) {
  absl::StrAppend(out, "<a href=\"/", AbslView(name), "\"", frame.section == name ? " aria-current=\"page\"" : "", ">",
                  AbslView(name), "</a>");
}

}  // namespace

Markup operator+(Markup a, const Markup& b) {
  a.html += b.html;
  return a;
}

Markup Text(std::string_view text) { return {HtmlEscape(text)}; }

Markup Link(std::string_view href, std::string_view text) {
  CHECK(!href.empty() && href.front() == '/') << href;
  return {absl::StrCat("<a href=\"", HtmlEscape(href), "\">", HtmlEscape(text), "</a>")};
}

Markup Element(std::string_view tag, std::string_view css, const Markup& inside) {
  return {absl::StrCat("<", AbslView(tag), css.empty() ? "" : absl::StrCat(" class=\"", AbslView(css), "\""), ">",
                       inside.html, "</", AbslView(tag), ">")};
}

Markup ResourceLink(std::string_view kind, std::string_view id) {
  if (id.empty()) return {};
  return Element("span", "id", Link(absl::StrCat("/", AbslView(kind), "/", UrlEncode(id)), id));
}

Markup StateBadge(const v1::Job& job) {
  std::string_view css;
  switch (job.state()) {
    case v1::JOB_STATE_SUCCEEDED:
      css = "state good";
      break;
    case v1::JOB_STATE_FAILED:
    case v1::JOB_STATE_DEAD:
    case v1::JOB_STATE_RETRY_WAIT:
      css = "state bad";
      break;
    case v1::JOB_STATE_RUNNING:
    case v1::JOB_STATE_CANCELLING:
      css = "state busy";
      break;
    default:
      css = "state";
  }
  return Element("span", css, Text(StateName(job)));
}

Markup JobProgress(const v1::Job& job, absl::Time now) {
  if (job.has_error() && IsSettled(job)) return Text(job.error().reason());
  if (job.state() == v1::JOB_STATE_QUEUED) {
    if (job.attached_to().empty()) return {};
    return Text("waits for ") + ResourceLink("jobs", job.attached_to());
  }
  const std::string text = ProgressText(job, now);
  if (job.state() != v1::JOB_STATE_RUNNING && job.state() != v1::JOB_STATE_CANCELLING) return Text(text);
  std::string left;
  if (job.progress().has_remaining()) {
    left = absl::StrCat(", ", HumanDuration(FromProto(job.progress().remaining())), " left");
  }
  return {absl::StrFormat("<progress max=\"1\" value=\"%.3f\"></progress>%s", job.progress().fraction(),
                          HtmlEscape(text + left))};
}

Markup Moment(absl::Time time) {
  const absl::TimeZone utc = absl::UTCTimeZone();
  return {absl::StrCat("<time datetime=\"", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, utc), "\">",
                       absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, utc), "</time>")};
}

Markup Ago(absl::Time time, absl::Time now) {
  const absl::TimeZone utc = absl::UTCTimeZone();
  const std::string exact = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, utc);
  const absl::Duration age = now - time;
  const std::string text = age < absl::Seconds(1) ? "now"
                           : age < absl::Hours(48)
                               ? absl::StrCat(HumanDuration(absl::Floor(age, absl::Seconds(1))), " ago")
                               : absl::FormatTime("%Y-%m-%d", time, utc);
  return {absl::StrCat("<time datetime=\"", exact, "\" title=\"", exact, "\">", text, "</time>")};
}

void HtmlTable::Add(const std::vector<Markup>& cells) {
  CHECK_EQ(cells.size(), headers_.size());
  rows_ += "<tr>";
  for (size_t i = 0; i < cells.size(); ++i) {
    const bool number = headers_[i].front() == '>';
    absl::StrAppend(&rows_, "<td class=\"", number ? "n" : "", cells[i].html.empty() ? " none" : "", "\" data-name=\"",
                    HtmlEscape(headers_[i].substr(number ? 1 : 0)), "\"><div>", cells[i].html, "</div></td>");
  }
  rows_ += "</tr>\n";
}

Markup HtmlTable::Render() const {
  std::string head;
  for (const std::string& header : headers_) {
    const bool number = header.front() == '>';
    absl::StrAppend(&head, number ? "<th class=\"n\">" : "<th>", HtmlEscape(header.substr(number ? 1 : 0)), "</th>");
  }
  return {
      absl::StrCat("<table class=\"rows\"><thead><tr>", head, "</tr></thead><tbody>\n", rows_, "</tbody></table>\n")};
}

void HtmlList::Add(std::string_view name, const Markup& value) {
  if (value.html.empty()) return;
  absl::StrAppend(&items_, "<dt>", HtmlEscape(name), "</dt><dd>", value.html, "</dd>\n");
}

Markup HtmlList::Render() const { return {absl::StrCat("<dl>\n", items_, "</dl>\n")}; }

HttpResponse MakePage(int code, const PageFrame& frame, const Markup& body) {
  std::string out = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n",
      frame.refresh > absl::ZeroDuration()
          ? absl::StrCat("<meta http-equiv=\"refresh\" content=\"", absl::ToInt64Seconds(frame.refresh), "\">\n")
          : "",
      "<link rel=\"icon\" href=\"/icon.svg\">\n<title>", HtmlEscape(frame.title), " – quantd</title>\n<style>",
      AbslView(ReportStyle()), "</style><style>", kPageStyle,
      "</style></head><body>\n<header><b><a href=\"/\">quantd</a></b>");
  if (frame.navigation) {
    out += "<nav>";
    for (const char* name : {"jobs", "models", "datasets"}) NavigationLink(name, frame, &out);
    if (frame.workers) NavigationLink("workers", frame, &out);
    out += "</nav>";
  }
  if (!frame.who.empty()) {
    absl::StrAppend(&out, "<form class=\"who\" method=\"post\" action=\"/logout\"><span>", HtmlEscape(frame.who),
                    "</span><button>log out</button></form>");
  }
  absl::StrAppend(&out, "</header>\n<main>\n", body.html, "</main>\n");
  if (frame.refresh > absl::ZeroDuration()) {
    absl::StrAppend(&out, "<footer>This page loads itself again every ", absl::ToInt64Seconds(frame.refresh),
                    " s. <a href=\"?refresh=off\">Stop that.</a></footer>\n");
  }
  out += "</body></html>\n";
  return {.code = code, .body = std::move(out), .headers = SafeHeaders()};
}

HttpResponse MakeReportPage(std::string html) { return {.body = std::move(html), .headers = SafeHeaders()}; }

HttpResponse Icon() {
  return {.type = "image/svg+xml",
          .body =
              "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 8 8\"><path fill=\"#2563c9\" "
              "d=\"M0 6h2v2H0zM2 4h2v4H2zM4 2h2v6H4zM6 0h2v8H6z\"/></svg>",
          .headers = SafeHeaders()};
}

std::string FormValue(std::string_view form, std::string_view name) {
  for (absl::string_view pair : absl::StrSplit(AbslView(form), '&')) {
    const size_t equals = pair.find('=');
    if (pair.substr(0, equals) != AbslView(name)) continue;
    if (equals == absl::string_view::npos) return "";
    std::string value;
    const absl::string_view raw = pair.substr(equals + 1);
    for (size_t i = 0; i < raw.size(); ++i) {
      std::string byte;
      if (raw[i] == '%' && i + 2 < raw.size() && absl::HexStringToBytes(raw.substr(i + 1, 2), &byte)) {
        value += byte;
        i += 2;
      } else {
        value += raw[i] == '+' ? ' ' : raw[i];
      }
    }
    return value;
  }
  return "";
}

std::string UrlEncode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '-') {
      out += c;
    } else {
      absl::StrAppendFormat(&out, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return out;
}

}  // namespace quant

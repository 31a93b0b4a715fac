// SPDX-License-Identifier: Apache-2.0
// The building blocks of the pages. Markup is HTML that is safe to send: it is made by the functions here, which escape
// what they are given.
#ifndef QUANT_SERVER_PAGES_PAGE_HTML_H_
#define QUANT_SERVER_PAGES_PAGE_HTML_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/http/http_message.h"

namespace quant {

namespace v1 {
class Job;
}  // namespace v1

struct Markup {
  std::string html;
};
Markup operator+(Markup a, const Markup& b);

Markup Text(std::string_view text);
// `href` begins with "/"; values in its query have gone through UrlEncode.
Markup Link(std::string_view href, std::string_view text);
// <tag class="css">…</tag>; `tag` and `css` are constants of ours.
Markup Element(std::string_view tag, std::string_view css, const Markup& inside);
// A link to /KIND/id; nothing for an empty id.
Markup ResourceLink(std::string_view kind, std::string_view id);
Markup StateBadge(const v1::Job& job);
// How far a running job is, as a bar with words; what it waits for; nothing for one that has ended.
Markup JobProgress(const v1::Job& job, absl::Time now);
// "3m05s ago", or a date when that is long past; both in a <time>.
Markup Ago(absl::Time time, absl::Time now);
// "2026-11-26 14:05:09 UTC"
Markup Moment(absl::Time time);

// A table whose rows become cards on a narrow screen.
class HtmlTable {
 public:
  // A header that begins with '>' is of numbers: aligned to the right.
  explicit HtmlTable(std::vector<std::string> headers) : headers_(std::move(headers)) {}
  // REQUIRES: as many cells as headers.
  void Add(const std::vector<Markup>& cells);
  bool empty() const { return rows_.empty(); }
  Markup Render() const;

 private:
  const std::vector<std::string> headers_;
  std::string rows_;
};

// Names and values, one below the other; empty values are left out.
class HtmlList {
 public:
  void Add(std::string_view name, const Markup& value);
  Markup Render() const;

 private:
  std::string items_;
};

struct PageFrame {
  std::string title;
  std::string section;   // which link of the navigation is the present one: "jobs"
  std::string who;       // "ann of acme"; empty: no login here, or nobody logged in
  bool workers = false;  // whether the navigation has /workers
  bool navigation = true;
  absl::Duration refresh = absl::ZeroDuration();  // the page loads itself again after; zero: never
};

// The whole response, with headers that keep it out of caches, frames and other sites, and allow no script.
HttpResponse MakePage(int code, const PageFrame& frame, const Markup& body);
// The same headers on a page made elsewhere, whose only style is ReportStyle().
HttpResponse MakeReportPage(std::string html);
// The mark of the pages, an SVG.
HttpResponse Icon();

// The value of a name in a query or a form; "" when it is not there. '+' is a blank.
std::string FormValue(std::string_view form, std::string_view name);
// Everything but [A-Za-z0-9_.-] as %XX.
std::string UrlEncode(std::string_view text);

}  // namespace quant

#endif  // QUANT_SERVER_PAGES_PAGE_HTML_H_

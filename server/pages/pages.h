// SPDX-License-Identifier: Apache-2.0
// Pages: the read-only status pages for a browser, made anew for each request. HTML without script; its own style only.
//
//   /                    newest jobs, workers (operators), newest models
//   /jobs  /jobs/ID      all jobs by state, paged; one job with its progress, error, specification and report
//   /jobs/ID/report      the report alone, as quantctl writes it: one file to keep or print
//   /models  /models/ID  /datasets  /datasets/ID  /workers
//   /login  /logout      with tokens only (page_access.h)
//
// Nothing here changes anything but the browser's own cookie. What a caller sees is what the rpc behind each part would
// answer it: method_table.h says who may ask, the queue and the store look at the tenant. All text from outside goes
// through HtmlEscape, and a content security policy allows no script, no frame and no style but the two known by hash.
#ifndef QUANT_SERVER_PAGES_PAGES_H_
#define QUANT_SERVER_PAGES_PAGES_H_

#include <memory>

#include "common/clock.h"
#include "server/http/http_message.h"
#include "server/pages/page_access.h"

namespace quant {

class ArtifactStore;
class JobQueue;

struct PagesOptions {
  JobQueue* queue = nullptr;
  ArtifactStore* artifacts = nullptr;
  Clock* clock = nullptr;
  PageAccessOptions access;
};

// Thread-safe.
class Pages {
 public:
  // What `options` names must outlive the object.
  explicit Pages(const PagesOptions& options);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  HttpResponse Answer(const HttpRequest& request);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_PAGES_PAGES_H_

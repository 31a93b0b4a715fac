// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/view/json.h"
#include "quant/v1/workers.pb.h"

namespace quant {
namespace {

std::string WorkerState(const v1::Worker& worker) {
  if (worker.lost()) return "lost";
  if (worker.draining()) return worker.job_ids().empty() ? "drained" : "draining";
  return worker.job_ids().empty() ? "idle" : "busy";
}

// A worker is a resource too: its id stands first.
std::string WorkerJson(const v1::Worker& worker) { return MessageToJson(worker, {{"id", worker.info().id()}}); }

class List : public Command {
 public:
  List()
      : Command({"worker", "list", "", "List workers seen in the last hour.",
                 "States: idle, busy, draining (finishes its jobs, takes no more), drained, lost (silent).\n\n"
                 "Examples:\n"
                 "  quantctl worker list\n"
                 "  quantctl worker list --output id\n"}) {}
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>&) override {
    ASSIGN_OR_RETURN(const std::vector<v1::Worker> workers, session.client().ListWorkers());
    if (session.json()) {
      std::vector<std::string> items;
      items.reserve(workers.size());
      for (const v1::Worker& worker : workers) items.push_back(WorkerJson(worker));
      session.Print(ListToJson(items));
      return kExitDone;
    }
    if (session.form() == OutputForm::kId) {
      for (const v1::Worker& worker : workers) session.Print(Printable(worker.info().id()));
      return kExitDone;
    }
    if (workers.empty()) session.Say("no workers: start quant-worker --server ADDR:PORT --cache DIR");
    using enum Table::Align;
    Table table({{"ID", kLeft, true},
                 {"STATE"},
                 {"JOBS", kRight},
                 {"SLOTS", kRight},
                 {"THREADS", kRight},
                 {"MEMORY", kRight},
                 {"ISA"},
                 {"HEARD", kRight},
                 {"BUILD", kLeft, true}});
    for (const v1::Worker& worker : workers) {
      const v1::WorkerInfo& info = worker.info();
      table.Add(
          {info.id(), WorkerState(worker), absl::StrCat(worker.job_ids_size()), absl::StrCat(info.slots()),
           absl::StrCat(info.threads()), HumanBytes(info.memory_bytes()), info.isa(),
           absl::StrCat(HumanDuration(std::max(absl::Now() - FromProto(worker.heartbeat_time()), absl::ZeroDuration())),
                        " ago"),
           info.build()});
    }
    if (!table.empty()) session.Print(table.Render(session.width()));
    return kExitDone;
  }
};

class Drain : public Command {
 public:
  Drain()
      : Command({"worker", "drain", "ID", "Tell a worker to take no more jobs and to exit once idle.",
                 "Its running jobs are finished first.\n\n"
                 "Example:\n"
                 "  quantctl worker drain build7-4211-x9k2\n"}) {}
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    ASSIGN_OR_RETURN(const v1::Worker worker, session.client().DrainWorker(arguments[0]));
    session.PrintResource(
        worker.info().id(), [&] { return WorkerJson(worker); },
        [&] { return absl::StrCat("worker ", Printable(worker.info().id()), " ", WorkerState(worker)); });
    return kExitDone;
  }
};

}  // namespace

void AddWorkerCommands(Commands& commands) {
  commands.push_back(std::make_unique<List>());
  commands.push_back(std::make_unique<Drain>());
}

}  // namespace quant

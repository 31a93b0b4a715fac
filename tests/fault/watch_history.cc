// SPDX-License-Identifier: Apache-2.0
// watch_history SERVER JOB: every state that a watch of the client library sees, as one JSON object per line, until the
// job ends. The history checker judges them. Exit status: 0 the watch ended, 1 it did not.
#include <iostream>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "quant/v1/jobs.pb.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "watch_history SERVER JOB\n";
    return 2;
  }
  auto client = quant::Client::Create({.server = argv[1]});
  if (!client.ok()) {
    std::cerr << client.status() << "\n";
    return 1;
  }
  const auto print = [](const quant::v1::Job& job) {
    std::string state = quant::v1::JobState_Name(job.state());
    state = state.substr(sizeof("JOB_STATE_") - 1);
    // Whole lines: the process may be killed at any moment.
    std::cout << absl::StrCat("{\"sequence\": ", job.sequence(), ", \"state\": \"", state,
                              "\", \"attempt\": ", job.attempt(), ", \"result\": \"", job.result_model_id(), "\"}\n")
              << std::flush;
  };
  const absl::StatusOr<quant::v1::Job> job = client->WatchJob(argv[2], {.job = print});
  if (!job.ok()) {
    std::cerr << job.status() << "\n";
    return 1;
  }
  return 0;
}

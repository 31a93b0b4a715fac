// SPDX-License-Identifier: Apache-2.0
// The load of bench/overload.py against a quantd at SERVER, without workers, one phase a line:
//
//   overload SERVER FOLDER uploads WIDTH BYTES     WIDTH uploads at once, of BYTES each, from files in FOLDER
//   overload SERVER FOLDER submit THREADS JOBS     JOBS submits of one model, from THREADS threads
//   overload SERVER FOLDER watch WIDTH             WIDTH watches at once, each of a queued job, which is then cancelled
//
// Prints one JSON object: count, refused, seconds, and milliseconds at p50, p99 and largest. Exit status 1: a call
// failed with anything but RESOURCE_EXHAUSTED, or a watch was not told.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/mutex.h"
#include "common/random_id.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

// What the calls of a phase took, and what they ended with.
class Tally {
 public:
  void Add(absl::Duration time, const absl::Status& status) {
    MutexLock lock(&mu_);
    if (status.ok()) {
      milliseconds_.push_back(absl::ToDoubleMilliseconds(time));
    } else if (absl::IsResourceExhausted(status)) {
      ++refused_;
      without_hint_ += RetryAfterOf(status) == absl::ZeroDuration() ? 1 : 0;
    } else if (failed_++ == 0) {
      std::cerr << status << "\n";
    }
  }
  int Print(absl::Duration all) {
    MutexLock lock(&mu_);
    std::sort(milliseconds_.begin(), milliseconds_.end());
    const auto at = [this](double share) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      if (milliseconds_.empty()) return 0.0;
      return milliseconds_[static_cast<size_t>(share * static_cast<double>(milliseconds_.size() - 1))];
    };
    std::cout << absl::StreamFormat(
        R"({"count": %d, "refused": %d, "refused_without_retry_after": %d, "failed": %d, "seconds": %.3f, "p50_ms": %.2f, )"
        R"("p99_ms": %.2f, "largest_ms": %.2f})"
        "\n",
        milliseconds_.size(), refused_, without_hint_, failed_, absl::ToDoubleSeconds(all), at(0.5), at(0.99), at(1));
    return failed_ == 0 ? 0 : 1;
  }

 private:
  Mutex mu_;
  std::vector<double> milliseconds_ ABSL_GUARDED_BY(mu_);
  int refused_ ABSL_GUARDED_BY(mu_) = 0;
  int without_hint_ ABSL_GUARDED_BY(mu_) = 0;
  int failed_ ABSL_GUARDED_BY(mu_) = 0;
};

Client NewClient(const std::string& server) {
  auto client = Client::Create({.server = server});
  if (!client.ok()) {
    std::cerr << client.status() << "\n";
    std::exit(1);
  }
  return *std::move(client);
}

// Runs `body(i)` on `width` threads that begin together.
void Together(int width, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(width));
  for (int i = 0; i < width; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

std::filesystem::path MakeFile(const std::filesystem::path& folder, int number, int64_t bytes) {
  std::filesystem::path path = folder / absl::StrCat("upload-", number);
  std::mt19937_64 random(std::random_device{}());
  std::string content(static_cast<size_t>(bytes), '\0');
  for (size_t at = 0; at + 8 <= content.size(); at += 8) {
    const uint64_t word = random();
    std::copy_n(reinterpret_cast<const char*>(&word), 8, content.data() + at);
  }
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

int Uploads(const std::string& server, const std::filesystem::path& folder, int width, int64_t bytes) {
  std::vector<LocalFile> files;
  for (int i = 0; i < width; ++i) {
    const std::filesystem::path path = MakeFile(folder, i, bytes);
    files.push_back({.path = path, .digest = *DigestFile(path)});
  }
  Tally tally;
  const absl::Time begun = absl::Now();
  Together(width, [&](int i) {
    Client client = NewClient(server);  // each over a connection of its own
    const absl::Time start = absl::Now();
    const absl::Status status = client.Uploader().UploadMissing({files[static_cast<size_t>(i)]});
    tally.Add(absl::Now() - start, status);
  });
  return tally.Print(absl::Now() - begun);
}

v1::SubmitJobRequest Request(const std::string& model) {
  v1::SubmitJobRequest request;
  request.set_request_id(RandomId(""));
  v1::QuantizeSpec* quantize = request.mutable_spec()->mutable_quantize();
  quantize->set_model_id(model);
  quantize->mutable_recipe()->mutable_dynamic();
  quantize->mutable_recipe()->set_seed(std::random_device{}());  // a job of its own
  return request;
}

std::string AnyModel(Client& client) {
  bool more = false;
  const auto models = client.ListModels(1, &more);
  if (!models.ok() || models->empty()) {
    std::cerr << "there is no model: upload one first\n";
    std::exit(1);
  }
  return models->front().id();
}

int Submit(const std::string& server, int threads, int jobs) {
  Client client = NewClient(server);
  const std::string model = AnyModel(client);
  std::atomic<int> next{0};
  Tally tally;
  const absl::Time begun = absl::Now();
  Together(threads, [&](int) {
    Client mine = NewClient(server);
    while (next++ < jobs) {
      const v1::SubmitJobRequest request = Request(model);
      const absl::Time start = absl::Now();
      const auto job = mine.SubmitJob(request);
      tally.Add(absl::Now() - start, job.status());
    }
  });
  return tally.Print(absl::Now() - begun);
}

// From the cancellation of a job to the word of it at its watcher.
int Watch(const std::string& server, int width) {
  Client client = NewClient(server);
  bool more = false;
  v1::ListJobsRequest queued;
  queued.add_states(v1::JOB_STATE_QUEUED);
  const auto jobs = client.ListJobs(queued, width, &more);
  if (!jobs.ok() || static_cast<int>(jobs->size()) < width) {
    std::cerr << "there are too few queued jobs\n";
    return 1;
  }
  std::vector<absl::Time> cancelled(static_cast<size_t>(width), absl::InfiniteFuture());
  std::atomic<int> watching{0};
  Tally tally;
  const absl::Time begun = absl::Now();
  std::thread canceller([&] {
    while (watching < width) absl::SleepFor(absl::Milliseconds(5));
    absl::SleepFor(absl::Seconds(2));  // the streams are open by then
    for (int i = 0; i < width; ++i) {
      cancelled[static_cast<size_t>(i)] = absl::Now();
      const auto job = client.CancelJob((*jobs)[static_cast<size_t>(i)].id());
      if (!job.ok()) std::cerr << job.status() << "\n";
    }
  });
  Together(width, [&](int i) {
    Client mine = NewClient(server);
    bool first = true;
    const auto job = mine.WatchJob((*jobs)[static_cast<size_t>(i)].id(), {.job = [&](const v1::Job&) {
                                     if (std::exchange(first, false)) ++watching;
                                   }});
    tally.Add(absl::Now() - cancelled[static_cast<size_t>(i)], job.status());
  });
  canceller.join();
  return tally.Print(absl::Now() - begun);
}

int Number(const char* text) {
  int value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < 1) {
    std::cerr << text << " is no positive number\n";
    std::exit(2);
  }
  return value;
}

int Main(int argc, char** argv) {
  const std::string phase = argc > 3 ? argv[3] : "";
  if (phase == "uploads" && argc == 6) return Uploads(argv[1], argv[2], Number(argv[4]), Number(argv[5]));
  if (phase == "submit" && argc == 6) return Submit(argv[1], Number(argv[4]), Number(argv[5]));
  if (phase == "watch" && argc == 5) return Watch(argv[1], Number(argv[4]));
  std::cerr << "overload SERVER FOLDER uploads WIDTH BYTES | submit THREADS JOBS | watch WIDTH\n";
  return 2;
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) { return quant::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
// Times our runtime on ONNX files: a model, and beside it its int8 form, in alternating runs in one process, so that a
// change of the machine's speed reaches both.
//
//   latency_bench MODEL.onnx [--int8 MODEL2.onnx] [--threads 2] [--batch 1] [--runs 500 | --seconds 1]
//
// Inputs are normally distributed floats with a fixed seed, or zeros for integers; a free first dimension is the batch,
// other free dimensions are 1. The graph is prepared (constants and batch normalization folded) as a job does it.
// Prints one JSON object: {"fp32": {"mean_ms", "std_ms", "p50_ms", "p95_ms", "p99_ms", "min_ms", "runs"}, "int8":
// {...}, "threads", "batch"}.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/graph/passes/passes.h"
#include "worker/runtime/executable.h"
#include "worker/runtime/infer.h"

namespace quant {
namespace {

struct Options {
  std::string int8;
  int threads = 2;
  int batch = 1;
  int runs = 500;
  double seconds = 0;
  bool describe = false;
  bool check = false;
  bool prepare = true;
};

struct Candidate {
  std::string name;
  std::shared_ptr<const Graph> graph;
  std::unique_ptr<Executable> executable;
  std::vector<Tensor> inputs;
  std::vector<double> times_ms;
};

absl::StatusOr<std::vector<Tensor>> MakeInputs(const Graph& graph, int batch) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<Tensor> inputs;
  for (const ValueInfo& info : graph.inputs) {
    Shape shape;
    for (const Dim& d : info.shape) shape.push_back(d.known() ? d.value : shape.empty() ? batch : 1);
    ASSIGN_OR_RETURN(Tensor t, Tensor::Allocate(DType::kFloat32, shape));
    if (IsFloat(info.dtype)) {
      for (float& v : t.mutable_data<float>()) v = normal(random);
    }
    ASSIGN_OR_RETURN(t, Cast(t, info.dtype));
    inputs.push_back(std::move(t));
  }
  return inputs;
}

absl::StatusOr<Candidate> Load(std::string name, const std::string& file, const Options& options) {
  Candidate c;
  c.name = std::move(name);
  ASSIGN_OR_RETURN(Graph graph, ImportOnnx(file));
  if (options.prepare) {
    RETURN_IF_ERROR(Prepare(graph, [](const Node& node, std::span<const Tensor* const> inputs, int64_t max_bytes) {
                      return EvaluateNode(node, inputs, max_bytes);
                    }).status());
  }
  c.graph = std::make_shared<const Graph>(std::move(graph));
  ASSIGN_OR_RETURN(c.executable, Compile(c.graph, {.threads = options.threads}));
  ASSIGN_OR_RETURN(c.inputs, MakeInputs(*c.graph, options.batch));
  return c;
}

// Greatest difference from the reference backend, relative to the greatest magnitude of the output.
absl::Status Check(Candidate& c) {
  ASSIGN_OR_RETURN(auto reference, Compile(c.graph, {.backend = Backend::kReference}));
  ASSIGN_OR_RETURN(const std::span<const Tensor> want, reference->Run(c.inputs));
  ASSIGN_OR_RETURN(const std::span<const Tensor> have, c.executable->Run(c.inputs));
  for (size_t i = 0; i < want.size(); ++i) {
    ASSIGN_OR_RETURN(const std::vector<float> w, ToFloat(want[i]));
    ASSIGN_OR_RETURN(const std::vector<float> h, ToFloat(have[i]));
    float scale = 0, error = 0;
    for (size_t k = 0; k < w.size(); ++k) {
      scale = std::max(scale, std::abs(w[k]));
      error = std::max(error, std::isnan(h[k] - w[k]) ? 1e30f : std::abs(h[k] - w[k]));
    }
    absl::FPrintF(stderr, "%s output %d: greatest difference %g of %g\n", c.name, i, error, scale);
  }
  return absl::OkStatus();
}

std::string Json(const Candidate& c) {
  std::vector<double> sorted = c.times_ms;
  std::sort(sorted.begin(), sorted.end());
  double mean = 0, square = 0;
  for (const double t : sorted) mean += t / static_cast<double>(sorted.size());
  for (const double t : sorted) square += (t - mean) * (t - mean) / static_cast<double>(sorted.size());
  const auto at = [&](double p) { return sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1))]; };
  return absl::StrFormat(
      "\"%s\": {\"mean_ms\": %.5f, \"std_ms\": %.5f, \"p50_ms\": %.5f, \"p95_ms\": %.5f, \"p99_ms\": %.5f, "
      "\"min_ms\": %.5f, \"runs\": %d}",
      c.name, mean, std::sqrt(square), at(0.5), at(0.95), at(0.99), sorted[0], sorted.size());
}

absl::Status RunOnce(Candidate& c, bool record) {
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(c.executable->Run(c.inputs).status());
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
  if (record) c.times_ms.push_back(time.count());
  return absl::OkStatus();
}

absl::Status Main(const std::vector<std::string>& args) {
  Options options;
  FlagSet flags("latency_bench", "latency_bench MODEL.onnx [--int8 MODEL2.onnx] [flags]");
  flags.Add("int8", &options.int8, "FILE", "A second model, timed in turn with the first.");
  flags.Add("threads", &options.threads, "N", "Threads of the runtime.", 1, 1024);
  flags.Add("batch", &options.batch, "N", "Size of a free first dimension.", 1, 65536);
  flags.Add("runs", &options.runs, "N", "Timed runs of each model.", 1, 100000000);
  flags.Add("seconds", &options.seconds, "S", "Time for all runs, instead of --runs.");
  flags.Add("describe", &options.describe, "", "Print the steps of the plans on standard error.");
  flags.Add("check", &options.check, "", "Compare with the reference backend first (slow), on standard error.");
  flags.Add("prepare", &options.prepare, "", "Fold constants and batch normalization first.");
  std::vector<std::string> files;
  RETURN_IF_ERROR(flags.Parse(args, &files));
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return absl::OkStatus();
  }
  if (files.size() != 1) return absl::InvalidArgumentError("one model file is wanted; see --help");
  std::vector<Candidate> candidates;
  ASSIGN_OR_RETURN(Candidate fp32, Load("fp32", files[0], options));
  candidates.push_back(std::move(fp32));
  if (!options.int8.empty()) {
    ASSIGN_OR_RETURN(Candidate int8, Load("int8", options.int8, options));
    candidates.push_back(std::move(int8));
  }
  for (Candidate& c : candidates) {
    if (options.check) RETURN_IF_ERROR(Check(c));
  }
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  while (elapsed() < 0.3) {  // warm-up
    for (Candidate& c : candidates) RETURN_IF_ERROR(RunOnce(c, false));
  }
  const double warm = elapsed();
  for (int run = 0; options.seconds > 0 ? elapsed() - warm < options.seconds || run < 10 : run < options.runs; ++run) {
    for (Candidate& c : candidates) RETURN_IF_ERROR(RunOnce(c, true));
  }
  std::vector<std::string> parts;
  for (Candidate& c : candidates) {
    if (options.describe) std::cerr << c.name << "\n" << c.executable->DescribePlan();
    parts.push_back(Json(c));
  }
  absl::PrintF("{%s, \"threads\": %d, \"batch\": %d}\n", absl::StrJoin(parts, ", "), options.threads, options.batch);
  return absl::OkStatus();
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) {
  // As a job's process is started (worker/agent/child_process.cc); libgomp reads it before main.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr && std::getenv("GOMP_SPINCOUNT") == nullptr) {
    ::setenv("GOMP_SPINCOUNT", "1500", 1);
    ::execv("/proc/self/exe", argv);
  }
  const absl::Status status = quant::Main(std::vector<std::string>(argv + 1, argv + argc));
  if (status.ok()) return 0;
  std::cerr << "latency_bench: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

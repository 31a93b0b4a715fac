// SPDX-License-Identifier: Apache-2.0
// Times our runtime on ONNX files: a model, and beside it its int8 form and ONNX Runtime on any files, in one process
// and in alternating bursts, so that a change of the machine's speed reaches all.
//
//   latency_bench MODEL.onnx [--int8 MODEL2.onnx] [--ort FILE,FILE] [--threads 2] [--batch 1] [--seconds 1]
//
// A burst is 0.1 s of runs of one model by one runtime, whose first tenth is not counted: by then the other runtime's
// threads, which spin for a while after their last run, are asleep.
//
// Inputs are normally distributed floats with a fixed seed, or zeros for integers; a free first dimension is the batch,
// other free dimensions are 1. The graph is prepared (constants and batch normalization folded) as a job does it.
// Prints one JSON object: {"fp32": {"mean_ms", "std_ms", "p50_ms", "p95_ms", "p99_ms", "min_ms", "runs"}, "int8":
// {...}, "ort:FILE": {...}, "threads", "batch"}.
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
#include "absl/strings/str_split.h"
#include "bench/onnxruntime_peer.h"
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
  std::string ort;
  int threads = 2;
  int batch = 1;
  double seconds = 1;
  bool describe = false;
  bool check = false;
  bool prepare = true;
};

struct Candidate {
  std::string name;
  std::shared_ptr<const Graph> graph;
  std::unique_ptr<Executable> executable;  // ours, or
  std::unique_ptr<OnnxRuntimePeer> peer;   // theirs
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

// `graph`: the model of which `file` is a form; it has the same inputs and outputs.
absl::StatusOr<Candidate> LoadPeer(const Graph& graph, const std::string& file, const Options& options) {
  Candidate c;
  c.name = absl::StrCat("ort:", file);
  ASSIGN_OR_RETURN(c.inputs, MakeInputs(graph, options.batch));
  std::vector<std::string> inputs, outputs;
  for (const ValueInfo& v : graph.inputs) inputs.push_back(v.name);
  for (const ValueInfo& v : graph.outputs) outputs.push_back(v.name);
  ASSIGN_OR_RETURN(c.peer, OnnxRuntimePeer::Load(file, inputs, outputs, c.inputs, options.threads));
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

// Runs for `seconds`, at least ten times after the first tenth of it, which is not counted.
absl::Status Burst(Candidate& c, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  for (int counted = 0; since(begin) < seconds || counted < 10;) {
    const auto start = Clock::now();
    RETURN_IF_ERROR(c.peer != nullptr ? c.peer->Run() : c.executable->Run(c.inputs).status());
    const double time = since(start);
    if (since(begin) < 0.1 * seconds) continue;
    c.times_ms.push_back(1e3 * time);
    ++counted;
  }
  return absl::OkStatus();
}

absl::Status Main(const std::vector<std::string>& args) {
  Options options;
  FlagSet flags("latency_bench", "latency_bench MODEL.onnx [--int8 MODEL2.onnx] [flags]");
  flags.Add("int8", &options.int8, "FILE", "A second model, timed in turn with the first.");
  flags.Add("threads", &options.threads, "N", "Threads of the runtime.", 1, 1024);
  flags.Add("batch", &options.batch, "N", "Size of a free first dimension.", 1, 65536);
  flags.Add("ort", &options.ort, "FILE,...", "Files that ONNX Runtime runs in turn with ours.");
  flags.Add("seconds", &options.seconds, "S", "Time for each model.");
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
  const std::shared_ptr<const Graph> graph = candidates[0].graph;
  for (const auto file : absl::StrSplit(options.ort, ',', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(Candidate peer, LoadPeer(*graph, std::string(file), options));
    candidates.push_back(std::move(peer));
  }
  constexpr double kBurst = 0.1;
  for (int round = -1; round < std::max(1.0, options.seconds / kBurst); ++round) {
    for (Candidate& c : candidates) {
      RETURN_IF_ERROR(Burst(c, kBurst));
      if (round < 0) c.times_ms.clear();  // warm-up
    }
  }
  std::vector<std::string> parts;
  for (Candidate& c : candidates) {
    if (options.describe && c.executable != nullptr) std::cerr << c.name << "\n" << c.executable->DescribePlan();
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

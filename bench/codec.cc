// SPDX-License-Identifier: Apache-2.0
// What quantizing weights costs in memory: the linear layers of one block of a 7B Llama, random bfloat16, through what
// a job does with a layer between reading and writing it (conversion to float32, the method, packing as its format
// does), without files, verification and report. memory.py compares a whole job with it.
//
//   codec_bench METHOD [--threads 2] [--seconds 3]      METHOD: rtn, rtn-search, nf4
//
// Prints one JSON object: {"bytes": of bfloat16 weights in a pass, "seconds": of the median pass, "parts": {"convert":
// seconds, "quantize": ..., "pack": ...}}.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/graph/linear.h"
#include "worker/quantize/weight_only/nf4.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/tensor/packing.h"

namespace quant {
namespace {

namespace wo = weight_only;

constexpr int64_t kHidden = 4096, kWide = 11008;
constexpr std::array<std::pair<int64_t, int64_t>, 7> kLayers = {{{kHidden, kHidden},
                                                                 {kHidden, kHidden},
                                                                 {kHidden, kHidden},
                                                                 {kHidden, kHidden},
                                                                 {kWide, kHidden},
                                                                 {kWide, kHidden},
                                                                 {kHidden, kWide}}};

// A layer of random weights; they repeat every 2^20.
absl::StatusOr<Graph> LayerOf(int64_t rows, int64_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<uint16_t> pool(1 << 20);
  for (uint16_t& v : pool) v = FloatToBFloat16(normal(random));
  ASSIGN_OR_RETURN(Tensor weight, Tensor::Allocate(DType::kBFloat16, {rows, cols}));
  const std::span<uint16_t> bits(reinterpret_cast<uint16_t*>(weight.mutable_bytes().data()),
                                 static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = pool[i % pool.size()];
  Graph graph;
  graph.initializers["weight"] = std::move(weight);
  AppendLinear(&graph, "layer", "x", "weight");
  return graph;
}

// Seconds of the parts of a pass, and what keeps the compiler from leaving them out.
struct Pass {
  double convert = 0, quantize = 0, pack = 0;
  size_t packed_bytes = 0;
  double sum() const { return convert + quantize + pack; }
};

class Timer {
 public:
  // Since the last call.
  double Seconds() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

absl::Status RunLayer(const Graph& graph, const std::string& method, int threads, std::span<float> buffer, Pass* pass) {
  Timer timer;
  const std::vector<Linear> linears = FindLinears(graph);
  const Linear& linear = linears.at(0);
  const wo::MatrixView view{buffer.first(static_cast<size_t>(linear.rows * linear.cols)), linear.rows, linear.cols};
  RETURN_IF_ERROR(ReadLinearWeights(graph, linear, 0, linear.rows, buffer.first(view.values.size())));
  pass->convert += timer.Seconds();
  if (method == "nf4") {
    ASSIGN_OR_RETURN(const CodebookMatrix w, wo::QuantizeCodebook(view, {}, {}, threads));
    pass->quantize += timer.Seconds();
    std::vector<uint8_t> bytes(PackedBytes(w.codes.size(), 4));
    PackHighFirst(w.codes, bytes);
    pass->packed_bytes += bytes.size();
  } else {
    wo::GridOptions grid{.bits = 4, .group_size = 128};
    grid.symmetry = wo::Symmetry::kSymmetric;
    grid.search = method == "rtn" ? wo::ScaleSearch::kMinMax : wo::ScaleSearch::kWeightedMse;
    ASSIGN_OR_RETURN(const GroupedMatrix w, wo::QuantizeRtn(view, grid, {}, threads));
    pass->quantize += timer.Seconds();
    ASSIGN_OR_RETURN(const Tensor words, PackRows(w.codes, w.rows, w.cols, w.bits));
    pass->packed_bytes += words.bytes().size();
  }
  pass->pack += timer.Seconds();
  return absl::OkStatus();
}

absl::Status Main(const std::vector<std::string>& args) {
  int threads = 2;
  double seconds = 3;
  FlagSet flags("codec_bench", "codec_bench rtn|rtn-search|nf4 [flags]");
  flags.Add("threads", &threads, "N", "Threads.", 1, 1024);
  flags.Add("seconds", &seconds, "S", "Passes are repeated this long.");
  std::vector<std::string> methods;
  RETURN_IF_ERROR(flags.Parse(args, &methods));
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return absl::OkStatus();
  }
  if (methods.size() != 1 || (methods[0] != "rtn" && methods[0] != "rtn-search" && methods[0] != "nf4")) {
    return absl::InvalidArgumentError("one method is wanted: rtn, rtn-search or nf4");
  }
  const wo::ThreadScope scope(threads);
  std::vector<Graph> graphs;
  int64_t bytes = 0;
  for (const auto& [rows, cols] : kLayers) {
    ASSIGN_OR_RETURN(Graph graph, LayerOf(rows, cols));
    graphs.push_back(std::move(graph));
    bytes += rows * cols * 2;
  }
  std::vector<float> buffer(static_cast<size_t>(kWide * kHidden));
  std::vector<Pass> passes;
  for (double spent = 0; passes.size() < 3 || spent < seconds; spent += passes.back().sum()) {
    Pass pass;
    for (const Graph& graph : graphs) RETURN_IF_ERROR(RunLayer(graph, methods[0], threads, buffer, &pass));
    passes.push_back(pass);
  }
  std::sort(passes.begin(), passes.end(), [](const Pass& a, const Pass& b) { return a.sum() < b.sum(); });
  const Pass& median = passes[passes.size() / 2];
  absl::PrintF("{\"bytes\": %d, \"packed_bytes\": %d, \"seconds\": %.4f, ", bytes, median.packed_bytes, median.sum());
  absl::PrintF("\"parts\": {\"convert\": %.4f, \"quantize\": %.4f, \"pack\": %.4f}}\n", median.convert, median.quantize,
               median.pack);
  return absl::OkStatus();
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) {
  // As a job's process is started (worker/agent/child_process.cc); libgomp and malloc read it before main.
  if (std::getenv("GLIBC_TUNABLES") == nullptr) {
    ::setenv("GOMP_SPINCOUNT", "1500", 0);
    ::setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 1);
    ::execv("/proc/self/exe", argv);
  }
  const absl::Status status = quant::Main(std::vector<std::string>(argv + 1, argv + argc));
  if (status.ok()) return 0;
  std::cerr << "codec_bench: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

// SPDX-License-Identifier: Apache-2.0
// Times linear layers of a language model in each form that a checkpoint has them in: few rows of x (decoding) in GB/s
// of stored weights, many (prefill) in GFLOP/s, beside oneDNN's own matrix product with weights packed in float32; and
// what a plan for another sequence length costs.
//
//   linear_bench [--threads 2] [--rows 128] [--seconds 0.5] [--avx2]
//
// Each graph holds as many layers as make 128 MB of weights, so that they come from memory as a model's do. Prints the
// machine and a table.
#include "worker/graph/linear.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "hwy/targets.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

enum class Form { kDnnl, kF32, kBF16, kNBits4, kNF4 };

struct Case {
  const char* name;
  Form form;
  double bytes;  // per weight
};

constexpr Case kCases[] = {{"dnnl f32", Form::kDnnl, 4},
                           {"f32", Form::kF32, 4},
                           {"bf16", Form::kBF16, 2},
                           {"4-bit g128", Form::kNBits4, 0.5 + 4.0 / 128},
                           {"NF4 b64", Form::kNF4, 0.5 + 4.0 / 64}};

std::vector<float> Uniform(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = static_cast<float>(random() % 2001) / 1000 - 1;
  return values;
}

std::vector<uint8_t> Codes(int64_t n) {
  std::mt19937 random(1);
  std::vector<uint8_t> codes(static_cast<size_t>(n));
  for (uint8_t& c : codes) c = static_cast<uint8_t>(random() % 16);
  return codes;
}

absl::StatusOr<WeightMatrix> Packed(Form form, int64_t n, int64_t k) {
  if (form == Form::kNBits4) {
    GroupedMatrix w{.rows = n, .cols = k, .bits = 4, .group_size = 128, .codes = Codes(n * k)};
    w.scales.assign(static_cast<size_t>(n * w.groups()), 0.01f);
    return w;
  }
  CodebookMatrix w{.rows = n, .cols = k, .block_size = 64, .codes = Codes(n * k), .codebook = Uniform(16, 2)};
  w.absmax.assign(static_cast<size_t>(w.blocks()), 0.1f);
  return w;
}

absl::StatusOr<std::shared_ptr<const Graph>> MakeGraph(const Case& c, int64_t n, int64_t k, int layers) {
  auto g = std::make_shared<Graph>();
  g->opset = 23;
  g->inputs = {{.name = "x", .has_shape = true, .shape = {{.symbol = "rows"}, {.value = k}}}};
  const bool floats = c.form == Form::kDnnl || c.form == Form::kF32 || c.form == Form::kBF16;
  Tensor weights;
  if (floats) {
    const Shape shape = c.form == Form::kDnnl ? Shape{k, n} : Shape{n, k};
    weights = Tensor::Of<float>(shape, Uniform(n * k, 1));
    if (c.form == Form::kBF16) {
      ASSIGN_OR_RETURN(weights, Cast(weights, DType::kBFloat16));
    }
  }
  for (int i = 0; i < layers; ++i) {
    const std::string name = absl::StrCat("layer", i);
    std::string y = absl::StrCat(name, ".out");
    if (!floats) {
      ASSIGN_OR_RETURN(const WeightMatrix w, Packed(c.form, n, k));
      ASSIGN_OR_RETURN(y, AppendQuantizedLinear(g.get(), name, "x", w));
    } else {
      const std::string weight = absl::StrCat(name, ".weight");
      ASSIGN_OR_RETURN(g->initializers[weight], weights.Clone());
      if (c.form == Form::kDnnl) {
        g->nodes.push_back({.name = name, .op_type = "MatMul", .inputs = {"x", weight}, .outputs = {y}});
      } else {
        y = AppendLinear(g.get(), name, "x", weight);
      }
    }
    g->outputs.push_back({.name = y});
  }
  return std::shared_ptr<const Graph>(std::move(g));
}

// Seconds: with one thread of its processor time, which others on the machine do not lengthen.
double Now(int threads) {
  timespec t{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Least time of a layer in seconds, over runs of at least `seconds`.
absl::StatusOr<double> Time(Executable& executable, int64_t rows, int64_t k, int layers, int threads, double seconds) {
  const Tensor x = Tensor::Of<float>({rows, k}, Uniform(rows * k, 3));
  RETURN_IF_ERROR(executable.Run(std::span(&x, 1)).status());
  double best = 1e9, total = 0;
  while (total < seconds) {
    const double start = Now(threads);
    RETURN_IF_ERROR(executable.Run(std::span(&x, 1)).status());
    const double t = Now(threads) - start;
    best = std::min(best, t);
    total += t;
  }
  return best / layers;
}

// A decoder of 22 layers in the form that worker/formats/huggingface builds, but narrow: making a plan costs the same.
std::shared_ptr<const Graph> MakeDecoder() {
  constexpr int64_t kLayers = 22, kHidden = 64, kWide = 128, kHeads = 4, kPositions = 4096;
  auto g = std::make_shared<Graph>();
  g->opset = 23;
  g->inputs = {
      {.name = "ids", .dtype = DType::kInt64, .has_shape = true, .shape = {{.symbol = "batch"}, {.symbol = "length"}}},
      {.name = "at", .dtype = DType::kInt64, .has_shape = true, .shape = {{.symbol = "batch"}, {.symbol = "length"}}}};
  const auto constant = [&](const std::string& name, const Shape& shape) {
    int64_t count = 1;
    for (const int64_t d : shape) count *= d;
    g->initializers[name] = Tensor::Of<float>(shape, Uniform(count, 1));
    return name;
  };
  const auto op = [&](const std::string& name, const char* type, std::vector<std::string> inputs,
                      std::map<std::string, Attribute> attributes = {}) {
    g->nodes.push_back({.name = name,
                        .op_type = type,
                        .inputs = std::move(inputs),
                        .outputs = {name},
                        .attributes = std::move(attributes)});
    return name;
  };
  const auto linear = [&](const std::string& name, const std::string& x, int64_t n, int64_t k) {
    return AppendLinear(g.get(), name, x, constant(name + ".weight", {n, k}));
  };
  const std::string cos = constant("cos", {kPositions, kHidden / kHeads / 2}),
                    sin = constant("sin", {kPositions, kHidden / kHeads / 2});
  std::string x = op("embed", "Gather", {constant("table", {1000, kHidden}), "ids"});
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string l = absl::StrCat("layer", i);
    const std::string a = op(l + ".norm1", "RMSNormalization", {x, constant(l + ".norm1.weight", {kHidden})});
    std::vector<std::string> qkv;
    for (const char* which : {".q", ".k", ".v"}) {
      qkv.push_back(linear(l + which, a, kHidden, kHidden));
      if (which[1] == 'v') break;
      qkv.back() = op(l + which + ".rotated", "RotaryEmbedding", {qkv.back(), cos, sin, "at"}, {{"num_heads", kHeads}});
    }
    const std::string y = op(l + ".attention", "Attention", qkv,
                             {{"is_causal", int64_t{1}}, {"q_num_heads", kHeads}, {"kv_num_heads", kHeads}});
    x = op(l + ".sum1", "Add", {x, linear(l + ".o", y, kHidden, kHidden)});
    const std::string b = op(l + ".norm2", "RMSNormalization", {x, constant(l + ".norm2.weight", {kHidden})});
    const std::string gate = linear(l + ".gate", b, kWide, kHidden), up = linear(l + ".up", b, kWide, kHidden);
    const std::string act = op(l + ".silu", "Mul", {gate, op(l + ".sigmoid", "Sigmoid", {gate})});
    x = op(l + ".sum2", "Add", {x, linear(l + ".down", op(l + ".gated", "Mul", {act, up}), kHidden, kWide)});
  }
  g->outputs = {{.name = x}};
  return g;
}

// Seconds that a sequence length not seen before takes longer than one that has its plan: the least of ten.
absl::StatusOr<double> TimePlan(int threads) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Executable> executable, Compile(MakeDecoder(), {.threads = threads}));
  double best = 1e9;
  for (int64_t length = 1; length <= 10; ++length) {
    const Tensor ids = Tensor::Of<int64_t>({1, length}, std::vector<int64_t>(static_cast<size_t>(length), 7));
    const std::vector<Tensor> inputs = {ids, ids};
    double times[2];
    for (double& t : times) {
      const double start = Now(threads);
      RETURN_IF_ERROR(executable->Run(inputs).status());
      t = Now(threads) - start;
    }
    best = std::min(best, times[0] - times[1]);
  }
  return best;
}

std::string Machine() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

absl::Status Main(int argc, char** argv) {
  int threads = 2, rows = 128;
  double seconds = 0.5;
  bool avx2 = false;
  FlagSet flags("linear_bench", "linear_bench [flags]");
  flags.Add("threads", &threads, "N", "Threads.", 1, 256);
  flags.Add("rows", &rows, "N", "Rows of x in the second measurement.", 1, 4096);
  flags.Add("seconds", &seconds, "S", "Time per figure.");
  flags.Add("avx2", &avx2, "BOOL", "Use no instructions beyond AVX2.");
  RETURN_IF_ERROR(flags.Parse(std::vector<std::string>(argv + 1, argv + argc), nullptr));
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return absl::OkStatus();
  }
  if (avx2) {
    hwy::DisableTargets(HWY_AVX2 - 1);  // better targets are lower bits
    setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);
  }
  std::cout << Machine() << (avx2 ? " with AVX2" : "") << ", " << threads
            << (threads == 1 ? " thread, processor time" : " threads") << "; least time of a layer\n\n"
            << absl::StrFormat(
                   "| N x K | weights | 1 row ms | GB/s | %d rows ms | GFLOP/s |\n|---|---|---|---|---|---|\n", rows);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{2048, 2048}, {5632, 2048}, {2048, 5632}}) {
    for (const Case& c : kCases) {
      const double weights = static_cast<double>(n * k);
      const int layers = std::max(1, static_cast<int>(128e6 / (weights * c.bytes)));
      ASSIGN_OR_RETURN(std::shared_ptr<const Graph> graph, MakeGraph(c, n, k, layers));
      ASSIGN_OR_RETURN(const std::unique_ptr<Executable> executable, Compile(std::move(graph), {.threads = threads}));
      ASSIGN_OR_RETURN(const double one, Time(*executable, 1, k, layers, threads, seconds));
      ASSIGN_OR_RETURN(const double many, Time(*executable, rows, k, layers, threads, seconds));
      std::cout << absl::StrFormat("| %d x %d | %s | %.3f | %.1f | %.2f | %.0f |\n", n, k, c.name, one * 1e3,
                                   weights * c.bytes / one / 1e9, many * 1e3, 2 * rows * weights / many / 1e9)
                << std::flush;
    }
  }
  ASSIGN_OR_RETURN(const double plan, TimePlan(threads));
  std::cout << absl::StrFormat("\nA plan for a new sequence length of a decoder of 22 layers: %.2f ms\n", plan * 1e3);
  return absl::OkStatus();
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) {
  const absl::Status status = quant::Main(argc, argv);
  if (!status.ok()) std::cerr << "linear_bench: " << status << "\n";
  return status.ok() ? 0 : 1;
}

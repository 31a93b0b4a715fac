// SPDX-License-Identifier: Apache-2.0
// GPTQ on the linear layers of one block, timed: the Hessians of their inputs and the sweeps. gptq_block.py makes the
// data, runs an independent implementation beside this and compares.
//
//   gptq_block FOLDER [--threads 2] [--bits 4] [--group-size 128] [--plain]
//
// FOLDER/layers.txt: lines "LAYER ROWS COLS INPUT TOKENS"; FOLDER/LAYER.f32 and FOLDER/INPUT.f32 hold raw float32,
// [rows, cols] and [tokens, cols]. Layers with the same INPUT share a Hessian. Writes FOLDER/LAYER.out.f32, the
// dequantized weights, and prints one JSON object: {"hessian_s": ..., "sweep_s": ..., "layers": {LAYER: {"sweep_s",
// "loss"}}}. Reading and writing are not timed.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/gptq.h"
#include "worker/quantize/weight_only/threads.h"

namespace quant {
namespace {

struct Layer {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  std::string input;
  int64_t tokens = 0;
};

absl::StatusOr<std::vector<float>> Read(const std::string& file, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::ifstream in(file, std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(values.size() * sizeof(float));
  if (!in.read(reinterpret_cast<char*>(values.data()), bytes)) {
    return absl::NotFoundError(absl::StrCat(file, ": cannot read ", bytes, " bytes"));
  }
  return values;
}

class Timer {
 public:
  double Seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

absl::Status Main(const std::vector<std::string>& args) {
  int threads = 2;
  int bits = 4;
  int group_size = 128;
  bool plain = false;
  FlagSet flags("gptq_block", "gptq_block FOLDER [flags]");
  flags.Add("threads", &threads, "N", "Threads.", 1, 1024);
  flags.Add("bits", &bits, "N", "Bits per weight.", 2, 8);
  flags.Add("group-size", &group_size, "N", "Columns per group, -1 for one group.", -1, 65536);
  flags.Add("plain", &plain, "", "The reference implementation's settings instead of our defaults.");
  std::vector<std::string> folders;
  RETURN_IF_ERROR(flags.Parse(args, &folders));
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return absl::OkStatus();
  }
  if (folders.size() != 1) return absl::InvalidArgumentError("one folder is wanted; see --help");
  const std::string folder = folders[0] + "/";
  std::ifstream list(folder + "layers.txt");
  std::vector<Layer> layers;
  for (Layer l; list >> l.name >> l.rows >> l.cols >> l.input >> l.tokens;) layers.push_back(l);
  if (layers.empty()) return absl::NotFoundError(folder + "layers.txt names no layer");

  weight_only::GptqOptions options =
      plain ? weight_only::GptqOptions::Plain(bits, group_size) : weight_only::GptqOptions();
  options.grid.bits = bits;
  options.grid.group_size = group_size;
  options.threads = threads;
  const weight_only::ThreadScope scope(threads);
  std::map<std::string, HessianMatrix> hessians;
  std::map<std::string, weight_only::SharedFactor> factors;
  double hessian_s = 0;
  double sweep_s = 0;
  std::vector<std::string> parts;
  for (const Layer& layer : layers) {
    if (!hessians.contains(layer.input)) {
      ASSIGN_OR_RETURN(const std::vector<float> x, Read(folder + layer.input + ".f32", layer.tokens * layer.cols));
      const Timer timer;
      ASSIGN_OR_RETURN(Hessian hessian, Hessian::Create(layer.cols));
      RETURN_IF_ERROR(hessian.Add(x, layer.tokens));
      hessians[layer.input] = std::move(hessian).Finish();
      hessian_s += timer.Seconds();
      factors.try_emplace(layer.input, hessians[layer.input]);
    }
    ASSIGN_OR_RETURN(const std::vector<float> w, Read(folder + layer.name + ".f32", layer.rows * layer.cols));
    const Timer timer;
    ASSIGN_OR_RETURN(const weight_only::GptqResult result,
                     weight_only::QuantizeGptq({w, layer.rows, layer.cols}, factors.at(layer.input), options));
    const double seconds = timer.Seconds();
    sweep_s += seconds;
    parts.push_back(absl::StrFormat("\"%s\": {\"sweep_s\": %.4f, \"loss\": %.9g}", layer.name, seconds, result.loss));
    std::vector<float> back(w.size());
    DequantizeRows(result.weights, 0, layer.rows, back);
    std::ofstream out(folder + layer.name + ".out.f32", std::ios::binary);
    out.write(reinterpret_cast<const char*>(back.data()), static_cast<std::streamsize>(back.size() * sizeof(float)));
    if (!out.flush()) return absl::InternalError(absl::StrCat("cannot write ", folder, layer.name, ".out.f32"));
  }
  absl::PrintF("{\"hessian_s\": %.4f, \"sweep_s\": %.4f, \"layers\": {%s}}\n", hessian_s, sweep_s,
               absl::StrJoin(parts, ", "));
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
  std::cerr << "gptq_block: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

// SPDX-License-Identifier: Apache-2.0
// run_model: our importer and runtime on one model, for tests that compare with another runtime.
//
//   run_model MODEL.onnx INPUT_FOLDER OUTPUT_FOLDER [--backend onednn|reference] [--prepare] [--threads N]
//
// INPUT_FOLDER is a dataset of arrays named after the model's inputs; all its samples are one batch. Output i of the
// model goes to OUTPUT_FOLDER/i.npy as float32, and its name, with a NUL behind it, to OUTPUT_FOLDER/names. Exit
// status: 0 done, 1 the model or data is unfit (the reason is printed), 2 wrong usage, 4 operators this build does not
// have.
#include <bit>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/graph/passes/passes.h"
#include "worker/runtime/executable.h"
#include "worker/runtime/infer.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// NumPy's format 1.0: magic, u16 header length, a Python dict, blanks up to a multiple of 64, a newline, the values.
absl::Status WriteNpy(const fs::path& file, const Tensor& tensor) {
  static_assert(std::endian::native == std::endian::little);
  ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(tensor));
  std::string header = absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (",
                                    absl::StrJoin(tensor.shape(), ","), tensor.rank() == 1 ? "," : "", "), }");
  header.append(63 - (10 + header.size()) % 64, ' ');
  header.push_back('\n');
  std::ofstream out(file, std::ios::binary);
  out << std::string_view("\x93NUMPY\x01\x00", 8) << static_cast<char>(header.size() & 0xFF)
      << static_cast<char>(header.size() >> 8) << header;
  out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  out.close();
  return out ? absl::OkStatus() : absl::InternalError(absl::StrCat("cannot write ", file.string()));
}

absl::Status Run(const std::vector<std::string>& paths, const CompileOptions& options, bool prepare) {
  ASSIGN_OR_RETURN(Graph graph, ImportOnnx(paths[0]));
  RETURN_IF_ERROR(CheckSupported(graph));
  if (prepare) {
    RETURN_IF_ERROR(Prepare(graph, [](const Node& node, std::span<const Tensor* const> inputs, int64_t max_bytes) {
                      return EvaluateNode(node, inputs, max_bytes);
                    }).status());
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Dataset> data, OpenDataset(paths[1], graph.inputs));
  ASSIGN_OR_RETURN(const std::vector<Tensor> inputs, data->Read(0, data->size()));
  const auto shared = std::make_shared<const Graph>(std::move(graph));
  ASSIGN_OR_RETURN(const std::unique_ptr<Executable> executable, Compile(shared, options));
  ASSIGN_OR_RETURN(const std::span<const Tensor> outputs, executable->Run(inputs));
  std::ofstream names(fs::path(paths[2]) / "names", std::ios::binary);  // not to stdout, where libonnx writes warnings
  for (size_t i = 0; i < outputs.size(); ++i) {
    RETURN_IF_ERROR(WriteNpy(fs::path(paths[2]) / absl::StrCat(i, ".npy"), outputs[i]));
    names << shared->outputs[i].name << '\0';
  }
  return absl::OkStatus();
}

int Main(const std::vector<std::string>& args) {
  std::string backend = "onednn";
  bool prepare = false;
  CompileOptions options;
  options.threads = 1;
  FlagSet flags("run_model", "run_model MODEL.onnx INPUT_FOLDER OUTPUT_FOLDER [flags]");
  flags.Add("backend", &backend, "onednn|reference", "What runs the model.");
  flags.Add("prepare", &prepare, "", "Run the graph after the passes that a job uses.");
  flags.Add("threads", &options.threads, "N", "Threads of the run.", 1, 256);
  std::vector<std::string> paths;
  absl::Status status = flags.Parse(args, &paths);
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return 0;
  }
  if (status.ok() && (paths.size() != 3 || (backend != "onednn" && backend != "reference"))) {
    status = absl::InvalidArgumentError("wrong arguments: see --help");
  }
  if (!status.ok()) {
    std::cerr << "run_model: " << status.message() << "\n";
    return 2;
  }
  options.backend = backend == "reference" ? Backend::kReference : Backend::kOneDnn;
  status = Run(paths, options, prepare);
  if (status.ok()) return 0;
  std::cerr << "run_model: " << status.message() << "\n";
  return absl::IsUnimplemented(status) ? 4 : 1;
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) { return quant::Main(std::vector<std::string>(argv + 1, argv + argc)); }

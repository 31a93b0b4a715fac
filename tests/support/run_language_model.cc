// SPDX-License-Identifier: Apache-2.0
// run_language_model: a Hugging Face checkpoint through our builder and runtime, for tests that compare with another
// implementation.
//
//   run_language_model FOLDER TOKENS BATCH LOGITS [--backend onednn|reference] [--prefill N] [--threads N]
//     TOKENS holds BATCH rows of int64; LOGITS gets float32 [batch, sequence, vocab]. With --prefill the graph with a
//     KV cache is run, first on N tokens, then on one at a time.
//   run_language_model FOLDER TOKENS OFFSETS --score N
//     TOKENS holds uint16 ids, OFFSETS uint32 begins of sequences in it and its end. Prints "tokens T nll L": the sum
//     of -log p(token | all before it) over each sequence by itself, cut to its first N tokens, and the tokens counted.
//   run_language_model FOLDER DATASET --windows N
//     Prints the ids of each window of at most N tokens that a job evaluates on, a line each.
//
// Exit status: 0 done, 1 the checkpoint or data is unfit (the reason is printed), 2 wrong usage, 4 not supported.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/flags.h"
#include "common/status_macros.h"
#include "worker/formats/dataset/text.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

struct Options {
  CompileOptions compile;
  int64_t prefill = 0, score = 0, windows = 0;
};

template <typename T>
absl::StatusOr<std::vector<T>> ReadAll(const std::string& path) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  std::vector<T> values(file->bytes().size() / sizeof(T));
  std::memcpy(values.data(), file->bytes().data(), values.size() * sizeof(T));
  return values;
}

absl::StatusOr<LanguageModel> Build(const std::string& folder, bool kv_cache) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(folder));
  return BuildLanguageModel(*checkpoint, {.kv_cache = kv_cache});
}

// Columns [begin, end) of [batch, sequence] tokens.
Tensor Columns(const std::vector<int64_t>& tokens, int64_t batch, int64_t begin, int64_t end) {
  const int64_t length = static_cast<int64_t>(tokens.size()) / batch;
  std::vector<int64_t> picked;
  for (int64_t b = 0; b < batch; ++b) {
    picked.insert(picked.end(), tokens.begin() + b * length + begin, tokens.begin() + b * length + end);
  }
  return Tensor::Of<int64_t>({batch, end - begin}, picked);
}

absl::Status Logits(const std::vector<std::string>& paths, const Options& options) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> tokens, ReadAll<int64_t>(paths[1]));
  int64_t batch = 0;
  if (!absl::SimpleAtoi(paths[2], &batch) || batch < 1 || static_cast<int64_t>(tokens.size()) % batch != 0) {
    return absl::InvalidArgumentError("BATCH does not divide the tokens");
  }
  const int64_t length = static_cast<int64_t>(tokens.size()) / batch;
  ASSIGN_OR_RETURN(LanguageModel model, Build(paths[0], options.prefill > 0));
  const auto graph = std::make_shared<const Graph>(std::move(model.graph));
  ASSIGN_OR_RETURN(const std::unique_ptr<Executable> executable, Compile(graph, options.compile));
  std::vector<float> logits(static_cast<size_t>(batch * length * model.vocab_size));
  std::vector<Tensor> past;
  for (size_t i = 1; i < graph->inputs.size(); ++i) {
    const std::vector<Dim>& shape = graph->inputs[i].shape;
    ASSIGN_OR_RETURN(Tensor empty, Tensor::Allocate(DType::kFloat32, {batch, shape[1].value, 0, shape[3].value}));
    past.push_back(std::move(empty));
  }
  for (int64_t begin = 0, end = 0; begin < length; begin = end) {
    end = options.prefill == 0 ? length : begin == 0 ? std::min(options.prefill, length) : begin + 1;
    std::vector<Tensor> inputs = {Columns(tokens, batch, begin, end)};
    inputs.insert(inputs.end(), past.begin(), past.end());
    ASSIGN_OR_RETURN(const std::span<const Tensor> outputs, executable->Run(inputs));
    ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(outputs[0]));
    const int64_t row = (end - begin) * model.vocab_size;
    for (int64_t b = 0; b < batch; ++b) {
      std::copy_n(values.begin() + b * row, row, logits.begin() + (b * length + begin) * model.vocab_size);
    }
    for (size_t i = 0; i < past.size(); ++i) {
      ASSIGN_OR_RETURN(past[i], outputs[i + 1].Clone());
    }
  }
  std::ofstream out(paths[3], std::ios::binary);
  out.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(logits.size() * sizeof(float)));
  out.close();
  return out ? absl::OkStatus() : absl::InternalError(absl::StrCat("cannot write ", paths[3]));
}

absl::Status Score(const std::vector<std::string>& paths, const Options& options) {
  constexpr int64_t kStep = 64;  // sequences are padded behind, where a causal model does not look, to few lengths
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ids, ReadAll<uint16_t>(paths[1]));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> offsets, ReadAll<uint32_t>(paths[2]));
  ASSIGN_OR_RETURN(LanguageModel model, Build(paths[0], false));
  CompileOptions compile = options.compile;
  compile.max_plans = 8;
  ASSIGN_OR_RETURN(const std::unique_ptr<Executable> executable,
                   Compile(std::make_shared<const Graph>(std::move(model.graph)), compile));
  double nll = 0;
  int64_t counted = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s] > offsets[s + 1] || offsets[s + 1] > ids.size()) {
      return absl::InvalidArgumentError(absl::StrCat("OFFSETS: sequence ", s, " is outside TOKENS"));
    }
    const int64_t length = std::min<int64_t>(offsets[s + 1] - offsets[s], options.score);
    std::vector<int64_t> row(static_cast<size_t>((length + kStep - 1) / kStep * kStep), 0);
    std::copy_n(ids.begin() + offsets[s], length, row.begin());
    ASSIGN_OR_RETURN(const std::span<const Tensor> outputs,
                     executable->Run({{Tensor::Of<int64_t>({1, static_cast<int64_t>(row.size())}, row)}}));
    ASSIGN_OR_RETURN(const std::vector<float> logits, ToFloat(outputs[0]));
    for (int64_t t = 0; t + 1 < length; ++t) {
      const std::span<const float> at =
          std::span(logits).subspan(static_cast<size_t>(t * model.vocab_size), static_cast<size_t>(model.vocab_size));
      const double greatest = *std::max_element(at.begin(), at.end());
      double sum = 0;
      for (const float x : at) sum += std::exp(x - greatest);
      nll += greatest + std::log(sum) - at[static_cast<size_t>(row[static_cast<size_t>(t) + 1])];
      ++counted;
    }
  }
  std::cout << absl::StrFormat("tokens %d nll %.6f\n", counted, nll);
  return absl::OkStatus();
}

absl::Status PrintWindows(const std::vector<std::string>& paths, const Options& options) {
  ASSIGN_OR_RETURN(const LanguageModel model, Build(paths[0], false));
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(paths[0]));
  ASSIGN_OR_RETURN(const TokenDataset dataset, OpenTokenDataset(paths[1], tokenizer.get(), model.vocab_size));
  ASSIGN_OR_RETURN(const auto windows, MakeWindows(dataset, {.length = options.windows}));
  for (const std::vector<int32_t>& window : windows) std::cout << absl::StrJoin(window, " ") << "\n";
  return absl::OkStatus();
}

int Main(const std::vector<std::string>& args) {
  std::string backend = "onednn";
  Options options;
  options.compile.threads = 1;
  FlagSet flags("run_language_model",
                "run_language_model FOLDER TOKENS BATCH LOGITS [flags]\n"
                "run_language_model FOLDER TOKENS OFFSETS --score N [flags]\n"
                "run_language_model FOLDER DATASET --windows N");
  flags.Add("backend", &backend, "onednn|reference", "What runs the model.");
  flags.Add("prefill", &options.prefill, "N", "Use a KV cache: N tokens first, then one at a time.", 0, 1 << 20);
  flags.Add("score", &options.score, "N", "Print the likelihood of sequences cut to N tokens.", 0, 1 << 20);
  flags.Add("windows", &options.windows, "N", "Print the windows of N tokens of a dataset.", 0, 1 << 20);
  flags.Add("threads", &options.compile.threads, "N", "Threads of the run.", 1, 256);
  std::vector<std::string> paths;
  absl::Status status = flags.Parse(args, &paths);
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return 0;
  }
  const size_t wanted = options.windows > 0 ? 2 : options.score > 0 ? 3 : 4;
  if (status.ok() && (paths.size() != wanted || (backend != "onednn" && backend != "reference"))) {
    status = absl::InvalidArgumentError("wrong arguments: see --help");
  }
  if (!status.ok()) {
    std::cerr << "run_language_model: " << status.message() << "\n";
    return 2;
  }
  options.compile.backend = backend == "reference" ? Backend::kReference : Backend::kOneDnn;
  status = options.windows > 0 ? PrintWindows(paths, options)
           : options.score > 0 ? Score(paths, options)
                               : Logits(paths, options);
  if (status.ok()) return 0;
  std::cerr << "run_language_model: " << status.message() << "\n";
  return absl::IsUnimplemented(status) ? 4 : 1;
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) { return quant::Main(std::vector<std::string>(argv + 1, argv + argc)); }

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/model_io.h"

#include <algorithm>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/graph/passes/passes.h"
#include "worker/job/compare.h"
#include "worker/job/job_error.h"
#include "worker/job/random_dataset.h"
#include "worker/runtime/executable.h"
#include "worker/runtime/infer.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// A rewrite may reorder sums, no more: folding a BatchNormalization changes outputs by a few float roundings per layer.
constexpr double kPassTolerance = 1e-3;

absl::StatusOr<fs::path> FindOnnxFile(const fs::path& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::end(it); it.increment(error)) {
    if (it->path().extension() == ".onnx") found.push_back(fs::relative(it->path(), folder, error).string());
  }
  if (error) return absl::InternalError(absl::StrCat("reading the model's folder: ", error.message()));
  std::sort(found.begin(), found.end());
  if (found.size() == 1) return fs::path(found[0]);
  return WithJobReason(
      absl::InvalidArgumentError(absl::StrCat("a model has exactly one .onnx file; this one has ", found.size(),
                                              found.empty() ? "" : ": ", absl::StrJoin(found, ", "))),
      "MODEL_INVALID");
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const fs::path& folder, int threads) {
  absl::StatusOr<fs::path> file = FindOnnxFile(folder);
  if (!file.ok()) return file.status();
  absl::StatusOr<Graph> graph = ImportOnnx(folder / *file);
  if (!graph.ok()) {
    return WithJobReason(graph.status(),
                         absl::IsUnimplemented(graph.status()) ? "OPERATOR_UNSUPPORTED" : "MODEL_INVALID");
  }
  if (absl::Status s = CheckSupported(*graph); !s.ok()) return WithJobReason(s, "OPERATOR_UNSUPPORTED");
  LoadedModel model{.imported = std::make_shared<const Graph>(*graph), .prepared = nullptr, .file = *file};
  absl::Status prepared =
      Prepare(*graph, [](const Node& node, std::span<const Tensor* const> inputs, int64_t max_bytes) {
        return EvaluateNode(node, inputs, max_bytes);
      }).status();
  if (prepared.ok()) {
    model.prepared = std::make_shared<const Graph>(*std::move(graph));
    // Models whose inputs declare no shape cannot be run without data: their check is the job's own accuracy.
    absl::StatusOr<std::unique_ptr<Dataset>> noise = MakeRandomDataset(*model.imported, 4, /*seed=*/7);
    if (noise.ok()) {
      absl::StatusOr<double> difference = LargestRelativeDifference(model.imported, model.prepared, **noise, threads);
      if (!difference.ok()) {
        // A model that does not run on noise of its declared shape may still run on the user's data.
        model.notes.push_back(absl::StrCat("graph rewrites were not checked on random data: ",
                                           std::string(difference.status().message())));
      } else if (*difference > kPassTolerance) {
        prepared = absl::InternalError(absl::StrCat("outputs changed by ", *difference, " of their largest value"));
      }
    }
  }
  if (!prepared.ok()) {
    model.prepared = model.imported;
    model.notes.push_back(
        absl::StrCat("the model is quantized without graph rewrites: ", std::string(prepared.message())));
  }
  return model;
}

absl::StatusOr<std::unique_ptr<Dataset>> LoadDataset(const fs::path& folder, const Graph& graph) {
  absl::StatusOr<std::unique_ptr<Dataset>> data = OpenDataset(folder, graph.inputs);
  if (!data.ok()) return WithJobReason(data.status(), "DATA_MISMATCH");
  return data;
}

int64_t FolderBytes(const fs::path& folder) {
  int64_t sum = 0;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::end(it); it.increment(error)) {
    if (it->is_regular_file(error)) sum += static_cast<int64_t>(it->file_size(error));
  }
  return sum;
}

}  // namespace quant

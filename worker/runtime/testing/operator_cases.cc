// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/testing/operator_cases.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/npy/npz.h"
#include "worker/formats/onnx/onnx.h"

namespace quant::testing {

namespace {

absl::Status RunScript(const std::string& arguments) {
  // NOLINTBEGIN(bugprone-command-processor): a test runs the project's own script
  if (std::system("python3 -c 'import onnx, onnxruntime, numpy' 2>/dev/null") != 0) {
    return absl::UnavailableError("python3 with onnx, onnxruntime and numpy is not here");
  }
  const std::string command = absl::StrCat("python3 '", QUANT_RUNTIME_SOURCE_DIR, "/testing/ort_operator_cases.py' ",
                                           arguments, " 2>/dev/null");
  if (std::system(command.c_str()) != 0) return absl::InternalError(absl::StrCat("failed: ", command));
  // NOLINTEND(bugprone-command-processor)
  return absl::OkStatus();
}

}  // namespace

absl::Status MakeOperatorCases(const std::filesystem::path& folder, int seed, int rounds) {
  return RunScript(absl::StrCat("'", folder.string(), "' ", seed, " ", rounds));
}

absl::Status MakeModelCase(const std::filesystem::path& model, const std::filesystem::path& npz, int seed) {
  return RunScript(absl::StrCat("--model '", model.string(), "' '", npz.string(), "' ", seed));
}

std::vector<std::filesystem::path> ListOperatorCases(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> models;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".onnx") models.push_back(entry.path());
  }
  std::sort(models.begin(), models.end());
  return models;
}

absl::StatusOr<double> WorstDifference(const Tensor& got, const Tensor& want) {
  if (got.dtype() != want.dtype() || got.shape() != want.shape()) {
    return absl::InvalidArgumentError(absl::StrCat("got ", DTypeName(got.dtype()), ShapeString(got.shape()), ", want ",
                                                   DTypeName(want.dtype()), ShapeString(want.shape())));
  }
  ASSIGN_OR_RETURN(const Tensor a, Cast(got, DType::kFloat64));
  ASSIGN_OR_RETURN(const Tensor b, Cast(want, DType::kFloat64));
  double scale = 1, worst = 0;
  for (const double v : b.data<double>()) scale = std::isfinite(v) ? std::max(scale, 1 + std::fabs(v)) : scale;
  for (size_t i = 0; i < a.data<double>().size(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    const double d = std::fabs(x - y) / scale;
    worst = std::isfinite(d) ? std::max(worst, d) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

namespace {

// An error that shows where two tensors differ most.
absl::Status Describe(const std::string& name, const Tensor& got, const Tensor& want, double worst) {
  const auto a = Cast(got, DType::kFloat64), b = Cast(want, DType::kFloat64);
  int64_t at = 0;
  double most = -1;
  for (int64_t i = 0; i < got.elements(); ++i) {
    const double x = a->data<double>()[static_cast<size_t>(i)], y = b->data<double>()[static_cast<size_t>(i)];
    const double d = std::isnan(x) != std::isnan(y) ? std::numeric_limits<double>::infinity() : std::fabs(x - y);
    if (d > most) most = d, at = i;
  }
  return absl::InternalError(absl::StrCat(name, " ", DTypeName(got.dtype()), ShapeString(got.shape()), " differs by ",
                                          worst, " relative; element ", at, " is ",
                                          a->data<double>()[static_cast<size_t>(at)], ", ONNX Runtime has ",
                                          b->data<double>()[static_cast<size_t>(at)]));
}

}  // namespace

absl::Status RunCase(const std::filesystem::path& model, const std::filesystem::path& npz, const MakeExecutable& make,
                     double tolerance, int integer_slack) {
  ASSIGN_OR_RETURN(Graph imported, ImportOnnx(model));
  for (Node& node : imported.nodes) {
    // ONNX of this opset does not have it yet; the script made it of ONNX Runtime's SimplifiedLayerNormalization.
    if (node.op_type == "RMSNormalization") node.domain.clear();
  }
  const auto graph = std::make_shared<const Graph>(std::move(imported));
  ASSIGN_OR_RETURN(const auto arrays, ReadNpz(npz));
  ASSIGN_OR_RETURN(const std::unique_ptr<Executable> executable, make(graph));
  std::vector<Tensor> inputs;
  for (const ValueInfo& input : graph->inputs) {
    const auto it = arrays.find(input.name);
    if (it == arrays.end()) return absl::NotFoundError(absl::StrCat("no array for input ", input.name));
    inputs.push_back(it->second);
  }
  ASSIGN_OR_RETURN(const std::span<const Tensor> outputs, executable->Run(inputs));
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::string& name = graph->outputs[i].name;
    const auto want = arrays.find(name);
    if (want == arrays.end()) return absl::NotFoundError(absl::StrCat("no array for output ", name));
    ASSIGN_OR_RETURN(const double worst, WorstDifference(outputs[i], want->second));
    double allowed = tolerance;
    if (!IsFloat(want->second.dtype())) {
      // Back from relative to units: WorstDifference divides by 1 + max |want|.
      ASSIGN_OR_RETURN(const std::vector<int64_t> values, ToInt64(want->second));
      double scale = 1;
      for (const int64_t v : values) scale = std::max(scale, 1 + std::fabs(static_cast<double>(v)));
      allowed = integer_slack / scale * (1 + 1e-9);
    }
    if (worst > allowed) return Describe(name, outputs[i], want->second, worst);
  }
  return absl::OkStatus();
}

}  // namespace quant::testing

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/quantize_job.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/calibrate/calibrate.h"
#include "worker/evaluate/evaluate.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/job/calibration_point.h"
#include "worker/job/compare.h"
#include "worker/job/evaluation_point.h"
#include "worker/job/job_error.h"
#include "worker/job/job_paths.h"
#include "worker/job/language_job.h"
#include "worker/job/load_checkpoint.h"
#include "worker/job/measure.h"
#include "worker/job/model_io.h"
#include "worker/job/random_dataset.h"
#include "worker/job/recipe.h"
#include "worker/job/report_builder.h"
#include "worker/job/resume.h"
#include "worker/quantize/int8.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// The exported file is the exported graph, so its outputs are the same up to nothing at all; a reader that orders sums
// otherwise would still stay below this.
constexpr double kReadBackTolerance = 1e-5;

struct Data {
  std::unique_ptr<Dataset> calibration;  // null: none given
  std::unique_ptr<Dataset> evaluation;   // never null: falls back to calibration data, then to noise
  std::vector<std::string> notes;
};

absl::StatusOr<Data> OpenData(const quant::v1::Lease& lease, const fs::path& inputs, const Graph& graph,
                              quant::v1::Recipe* recipe) {
  Data data;
  if (lease.has_calibration_dataset()) {
    ASSIGN_OR_RETURN(data.calibration, LoadDataset(inputs / "calibration", graph));
  }
  quant::v1::Evaluation* e = recipe->mutable_evaluation();
  const bool same =
      lease.has_calibration_dataset() &&
      (!lease.has_evaluation_dataset() || lease.evaluation_dataset().digest() == lease.calibration_dataset().digest());
  if (lease.has_evaluation_dataset()) {
    ASSIGN_OR_RETURN(data.evaluation, LoadDataset(inputs / "evaluation", graph));
  } else if (data.calibration != nullptr) {
    ASSIGN_OR_RETURN(data.evaluation, LoadDataset(inputs / "calibration", graph));
  } else {
    absl::StatusOr<std::unique_ptr<Dataset>> noise = MakeRandomDataset(graph, 64, recipe->seed());
    if (!noise.ok()) return WithJobReason(noise.status(), "DATA_MISMATCH");
    data.evaluation = *std::move(noise);
    data.notes.push_back(
        "no data was given: the models are compared on seeded random inputs, which says little about "
        "accuracy; give --evaluation");
  }
  if (same && e->skip() == 0) {
    // Samples that set the ranges do not judge them, where others are left.
    const int64_t used = recipe->calibration().samples();
    if (used > 0 && used < data.evaluation->size()) {
      e->set_skip(used);
      data.notes.push_back(absl::StrCat("evaluated on the samples after the ", used, " used for calibration"));
    } else {
      data.notes.push_back("calibration and evaluation used the same samples: the accuracy is a little flattering");
    }
  }
  return data;
}

absl::StatusOr<QuantizedModel> RunMethod(const quant::v1::Recipe& recipe, const std::shared_ptr<const Graph>& graph,
                                         Data& data, int threads, CalibrationPoint& point, Reporter& reporter) {
  if (recipe.method_case() == quant::v1::Recipe::kDynamic) {
    reporter.BeginPhase("quantize");
    return QuantizeDynamic(*graph, DynamicOptions(recipe), reporter.Progress());
  }
  if (data.calibration == nullptr) {
    return WithJobReason(absl::InvalidArgumentError(
                             "static quantization needs calibration data: submit with --calibration DATASET, or use "
                             "--method dynamic"),
                         "DATA_MISMATCH");
  }
  reporter.BeginPhase("calibrate");
  const StaticInt8Options options = StaticOptions(recipe, threads);
  ASSIGN_OR_RETURN(Graph prepared, PrepareStatic(*graph, options));
  ASSIGN_OR_RETURN(const std::vector<std::string> values, ValuesToCalibrate(prepared, options));
  const auto shared = std::make_shared<const Graph>(std::move(prepared));
  CalibrateOptions calibrate = CalibrationOptions(recipe, threads);
  const std::optional<Statistics> before = point.Load();
  if (before.has_value()) {
    calibrate.resume = &*before;
    data.notes.push_back(
        absl::StrCat("calibration went on after sample ", before->samples, ", from an earlier attempt"));
  }
  calibrate.checkpoint = [&point](const Statistics& so_far) { point.Tell(so_far); };
  absl::StatusOr<Statistics> statistics = Calibrate(shared, values, *data.calibration, calibrate, reporter.Progress());
  if (!statistics.ok()) {
    return WithJobReason(statistics.status(),
                         absl::IsInvalidArgument(statistics.status()) ? "DATA_NOT_FINITE" : "INTERNAL");
  }
  reporter.BeginPhase("quantize");
  return QuantizeStatic(*shared, *statistics, *data.calibration, options, reporter.Progress());
}

// Writes the graph at `file`, reads it back and compares. Returns what was read.
absl::StatusOr<std::shared_ptr<const Graph>> ExportAndVerify(const Graph& graph, const fs::path& file, Dataset& data,
                                                             int threads, Reporter& reporter) {
  reporter.BeginPhase("export");
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  RETURN_IF_ERROR(ExportOnnx(graph, file));
  reporter.BeginPhase("verify");
  absl::StatusOr<Graph> back = ImportOnnx(file);
  if (!back.ok()) {
    return WithJobReason(absl::InternalError(absl::StrCat("our own importer refuses the exported file: ",
                                                          std::string(back.status().message()))),
                         "VERIFY_FAILED");
  }
  auto read = std::make_shared<const Graph>(*std::move(back));
  ASSIGN_OR_RETURN(const double difference,
                   LargestRelativeDifference(std::make_shared<const Graph>(graph), read, data, threads));
  if (!(difference <= kReadBackTolerance)) {
    return WithJobReason(absl::InternalError(absl::StrCat("the exported file, read back, gives outputs that differ by ",
                                                          difference, " of their largest value (limit ",
                                                          kReadBackTolerance, "); nothing was published")),
                         "VERIFY_FAILED");
  }
  return read;
}

}  // namespace

absl::StatusOr<quant::v1::Report> RunQuantizeJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                 const JobLimits& limits, Reporter& reporter) {
  if (IsLanguageModel(paths.inputs / "model")) return RunLanguageQuantizeJob(lease, paths, limits, reporter);
  reporter.BeginPhase("load");
  const quant::v1::QuantizeSpec& spec = lease.job().spec().quantize();
  ASSIGN_OR_RETURN(quant::v1::Recipe recipe, ResolveRecipe(spec.recipe()));
  ASSIGN_OR_RETURN(LoadedModel model, LoadModel(paths.inputs / "model", limits.threads));
  ASSIGN_OR_RETURN(Data data, OpenData(lease, paths.inputs, *model.prepared, &recipe));

  const std::string fingerprint = ResumeFingerprint(lease, recipe);
  CalibrationPoint point(ResumeFolder(paths.own), fingerprint, limits.resume_interval);
  ASSIGN_OR_RETURN(QuantizedModel quantized, RunMethod(recipe, model.prepared, data, limits.threads, point, reporter));
  if (std::none_of(quantized.layers.begin(), quantized.layers.end(),
                   [](const LayerOutcome& l) { return l.method != "fp32"; })) {
    quantized.notes.push_back(
        "no layer was quantized: the model has none with constant weights, or rules leave all out");
  }
  ASSIGN_OR_RETURN(
      const std::shared_ptr<const Graph> exported,
      ExportAndVerify(quantized.graph, paths.own / "output" / model.file, *data.evaluation, limits.threads, reporter));

  quant::v1::Report report;
  EvaluationPoint evaluation(ResumeFolder(paths.own), fingerprint, limits.threads, limits.resume_interval);
  RETURN_IF_ERROR(Measure({.original = model.prepared,
                           .quantized = exported,
                           .layers = quantized.layers,
                           .data = data.evaluation.get(),
                           .evaluation = recipe.evaluation(),
                           .threads = limits.threads,
                           .resume = evaluation.Resume()},
                          reporter, &report));
  int64_t parameters = 0;
  for (const LayerOutcome& layer : quantized.layers) parameters += layer.parameters;
  report.mutable_size()->set_original_bytes(FolderBytes(paths.inputs / "model"));
  report.mutable_size()->set_quantized_bytes(FolderBytes(paths.own / "output"));
  report.mutable_size()->set_bits_per_weight(BitsPerWeight(*exported, parameters));
  for (const auto* notes : {&model.notes, &data.notes, &quantized.notes}) {
    for (const std::string& note : *notes) report.add_notes(note);
  }
  *report.mutable_provenance()->mutable_recipe() = std::move(recipe);
  FinishReport(lease, reporter, &report);
  point.Clear();
  evaluation.Clear();
  return report;
}

absl::StatusOr<quant::v1::Report> RunBenchmarkJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                  const JobLimits& limits, Reporter& reporter) {
  if (IsLanguageModel(paths.inputs / "model")) return RunLanguageBenchmarkJob(lease, paths, limits, reporter);
  reporter.BeginPhase("load");
  const quant::v1::BenchmarkSpec& spec = lease.job().spec().benchmark();
  ASSIGN_OR_RETURN(LoadedModel model, LoadModel(paths.inputs / "model", limits.threads));
  LoadedModel baseline = model;
  quant::v1::Report report;
  if (lease.has_baseline_model()) {
    ASSIGN_OR_RETURN(baseline, LoadModel(paths.inputs / "baseline", limits.threads));
  } else {
    report.add_notes("no baseline model was named: both columns are the same model");
  }
  std::unique_ptr<Dataset> data;
  if (lease.has_evaluation_dataset()) {
    ASSIGN_OR_RETURN(data, LoadDataset(paths.inputs / "evaluation", *model.prepared));
  } else {
    absl::StatusOr<std::unique_ptr<Dataset>> noise = MakeRandomDataset(*model.prepared, 64, 0);
    if (!noise.ok()) return WithJobReason(noise.status(), "DATA_MISMATCH");
    data = *std::move(noise);
  }
  quant::v1::Recipe recipe;
  *recipe.mutable_evaluation() = ResolveEvaluation(spec.evaluation());
  EvaluationPoint point(ResumeFolder(paths.own), ResumeFingerprint(lease, recipe), limits.threads,
                        limits.resume_interval);
  RETURN_IF_ERROR(Measure({.original = baseline.prepared,
                           .quantized = model.prepared,
                           .layers = {},
                           .data = data.get(),
                           .evaluation = recipe.evaluation(),
                           .threads = limits.threads,
                           .resume = point.Resume()},
                          reporter, &report));
  point.Clear();
  report.mutable_size()->set_original_bytes(
      FolderBytes(paths.inputs / (lease.has_baseline_model() ? "baseline" : "model")));
  report.mutable_size()->set_quantized_bytes(FolderBytes(paths.inputs / "model"));
  for (const std::string& note : model.notes) report.add_notes(note);
  FinishReport(lease, reporter, &report);
  return report;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/language_job.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/evaluate/evaluate.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/job/evaluation_point.h"
#include "worker/job/job_error.h"
#include "worker/job/language_data.h"
#include "worker/job/language_export.h"
#include "worker/job/language_measure.h"
#include "worker/job/language_recipe.h"
#include "worker/job/load_checkpoint.h"
#include "worker/job/model_io.h"
#include "worker/job/recipe.h"
#include "worker/job/report_builder.h"
#include "worker/job/resume.h"
#include "worker/quantize/language/block.h"
#include "worker/quantize/language/driver.h"
#include "worker/quantize/weight_only/threads.h"

namespace quant {
namespace {

// One quantize job, step by step.
class LanguageQuantizeJob {
 public:
  LanguageQuantizeJob(const quant::v1::Lease& lease, const JobPaths& paths, const JobLimits& limits, Reporter& reporter)
      : lease_(lease), paths_(paths), limits_(limits), reporter_(reporter) {}

  absl::StatusOr<quant::v1::Report> Run() {
    const weight_only::ThreadScope scope(limits_.threads);
    reporter_.BeginPhase("load");
    const quant::v1::QuantizeSpec& spec = lease_.job().spec().quantize();
    ASSIGN_OR_RETURN(recipe_, ResolveLanguageRecipe(spec.recipe(), lease_.has_calibration_dataset()));
    if (NeedsCalibration(recipe_) && !lease_.has_calibration_dataset()) {
      return WithJobReason(
          absl::InvalidArgumentError(
              absl::StrCat("method ", MethodName(recipe_),
                           " learns from text: submit with --calibration DATASET, or use --method rtn, nf4 or hqq")),
          "DATA_MISMATCH");
    }
    ASSIGN_OR_RETURN(loaded_, LoadCheckpoint(paths_.inputs / "model"));
    if (const std::string quantized = loaded_.checkpoint->QuantMethod(); !quantized.empty()) {
      return WithJobReason(absl::InvalidArgumentError(
                               absl::StrCat("the model is quantized already (", quantized,
                                            "); quantize the original, or measure this one with --kind benchmark")),
                           "MODEL_INVALID");
    }
    RETURN_IF_ERROR(PlanBlocks());
    ASSIGN_OR_RETURN(data_, LoadLanguageData(lease_, paths_.inputs, recipe_, loaded_.model.vocab_size));
    ASSIGN_OR_RETURN(export_, LanguageExport::Create(FormatOf(recipe_), *loaded_.checkpoint, loaded_.model,
                                                     paths_.own / "output", ExportOptionsOf(recipe_, BuildVersion())));
    ResumePoints resume(ResumeFolder(paths_.own), ResumeFingerprint(lease_, recipe_));
    RETURN_IF_ERROR(LearnsFromData() ? QuantizeByBlocks(resume) : QuantizeEachLayer());
    reporter_.BeginPhase("export");
    RETURN_IF_ERROR(export_->Finish());
    reporter_.BeginPhase("verify");
    if (absl::Status s = export_->Verify(reporter_.Progress()); !s.ok()) return WithJobReason(s, "VERIFY_FAILED");
    ASSIGN_OR_RETURN(quant::v1::Report report, Measure());
    resume.Clear();
    return report;
  }

 private:
  // The linear layers of each block, and what becomes of them. Layers outside of blocks (the head) stay as they are.
  absl::Status PlanBlocks() {
    const std::vector<std::string>& cuts = loaded_.model.cuts;
    std::vector<Linear> linears;
    for (size_t b = 0; b + 1 < cuts.size(); ++b) {
      ASSIGN_OR_RETURN(const DecoderBlock block, DecoderBlock::Cut(loaded_.model.graph, cuts[b], cuts[b + 1]));
      for (const InputGroup& group : block.Groups())
        linears.insert(linears.end(), group.linears.begin(), group.linears.end());
    }
    std::vector<std::string> in_blocks;
    in_blocks.reserve(linears.size());
    for (const Linear& l : linears) in_blocks.push_back(l.name);
    for (Linear& l : FindLinears(loaded_.model.graph)) {
      if (std::find(in_blocks.begin(), in_blocks.end(), l.name) != in_blocks.end()) linears_.push_back(std::move(l));
    }
    absl::StatusOr<std::map<std::string, LinearMethod>> plan =
        PlanLayers(recipe_, linears_, lease_.has_calibration_dataset(), limits_.threads, &notes_);
    if (!plan.ok()) return WithJobReason(plan.status(), "MODEL_INVALID");
    plan_ = *std::move(plan);
    return absl::OkStatus();
  }

  bool LearnsFromData() const {
    if (data_.calibration.empty()) return false;
    return std::any_of(plan_.begin(), plan_.end(), [](const auto& p) { return NeedsData(p.second); });
  }

  int64_t MemoryBytes() const {
    const int64_t asked = recipe_.memory_bytes(), granted = limits_.memory_bytes;
    return asked > 0 && granted > 0 ? std::min(asked, granted) : std::max(asked, granted);
  }

  absl::Status Take(const BlockResult& block) {
    RETURN_IF_ERROR(export_->Add(block));
    for (const QuantizedLayer& layer : block.layers) {
      layers_.push_back(layer.outcome);
      errors_.push_back({.value = layer.outcome.output, .relative_error = layer.relative_error});
      if (layer.weights.has_value()) {
        stored_bits_ += BitsPerWeight(*layer.weights) * static_cast<double>(layer.outcome.parameters);
      } else {
        stored_bits_ += 16.0 * static_cast<double>(layer.outcome.parameters);
      }
      parameters_ += layer.outcome.parameters;
    }
    notes_.insert(notes_.end(), block.notes.begin(), block.notes.end());
    return absl::OkStatus();
  }

  absl::Status QuantizeByBlocks(ResumePoints& resume) {
    reporter_.BeginPhase("calibrate");
    const DriverOptions options{.method_of = [this](const Linear& l) { return plan_.at(l.name); },
                                .true_sequential = !recipe_.has_gptq() || recipe_.gptq().true_sequential(),
                                .compensate = recipe_.has_gptq() && recipe_.gptq().compensate(),
                                .threads = limits_.threads,
                                .memory_bytes = MemoryBytes(),
                                .spill_folder = paths_.own / "work"};
    absl::StatusOr<BlockDriver> driver =
        BlockDriver::Create(loaded_.model.graph, loaded_.model.cuts, data_.calibration, options, reporter_.Progress());
    if (!driver.ok()) return DataReason(driver.status());
    reporter_.BeginPhase("quantize");
    if (std::optional<ResumePoints::Point> point = resume.Load(); point.has_value()) {
      if (driver->Restore(point->next, point->state.bytes()).ok()) {
        for (const BlockResult& block : point->blocks) RETURN_IF_ERROR(Take(block));
        notes_.push_back(absl::StrCat("resumed after block ", point->next - 1, " of ", driver->blocks(),
                                      " from an earlier attempt"));
      }
    }
    while (!driver->done()) {
      const double from = static_cast<double>(driver->next()) / static_cast<double>(driver->blocks());
      const double to = static_cast<double>(driver->next() + 1) / static_cast<double>(driver->blocks());
      const ProgressFn of_phase = reporter_.Progress(from, to);
      const std::string where = absl::StrCat("block ", driver->next() + 1, " of ", driver->blocks(), ": ");
      absl::StatusOr<BlockResult> block =
          driver->Next([&](double fraction, std::string_view message, const Counted& counted) {
            return of_phase(
                fraction, absl::StrCat(where, AbslView(message)),
                {static_cast<int64_t>(layers_.size()) + counted.done, static_cast<int64_t>(linears_.size()), "layers"});
          });
      if (!block.ok()) return DataReason(block.status());
      RETURN_IF_ERROR(Take(*block));
      for (const Linear& linear : linears_) Release(linear);
      if (absl::Status s = resume.Save(*block, driver->state()); !s.ok()) {
        LOG(WARNING) << "no resume point after block " << block->block << ": " << s.message();
      }
    }
    return absl::OkStatus();
  }

  absl::Status DataReason(const absl::Status& status) {
    return absl::IsInvalidArgument(status) ? WithJobReason(status, "DATA_NOT_FINITE") : status;
  }

  // Methods that need no data: a layer at a time, its pages given back.
  absl::Status QuantizeEachLayer() {
    reporter_.BeginPhase("quantize");
    const ProgressFn progress = reporter_.Progress();
    int64_t largest = 0;
    for (const Linear& linear : linears_) largest = std::max(largest, linear.rows * linear.cols);
    std::vector<float> buffer(static_cast<size_t>(largest));  // one for all layers: fresh pages are dear
    for (size_t i = 0; i < linears_.size(); ++i) {
      const Linear& linear = linears_[i];
      const Counted counted{static_cast<int64_t>(i), static_cast<int64_t>(linears_.size()), "layers"};
      RETURN_IF_ERROR(Tell(progress, linear.name, counted));
      if (i + 1 < linears_.size()) Prefetch(linears_[i + 1]);
      BlockResult one;
      QuantizedLayer layer;
      const LinearMethod& method = plan_.at(linear.name);
      layer.outcome = {.name = linear.name,
                       .op = "MatMul",
                       .method = "fp32",
                       .fallback = method.reason,
                       .parameters = linear.rows * linear.cols,
                       .output = linear.output};
      if (method.kind != LinearMethod::Kind::kKeep) {
        const std::span<float> weights(buffer.data(), static_cast<size_t>(linear.rows * linear.cols));
        if (absl::Status s = ReadLinearWeights(loaded_.model.graph, linear, 0, linear.rows, weights); !s.ok()) {
          return WithJobReason(s, "MODEL_INVALID");
        }
        ASSIGN_OR_RETURN(LinearResult result,
                         QuantizeLinear(method, {weights, linear.rows, linear.cols}, nullptr, limits_.threads));
        Describe(result, &layer);
      }
      one.layers.push_back(std::move(layer));
      RETURN_IF_ERROR(Take(one));
      Release(linear);
    }
    return absl::OkStatus();
  }

  void Prefetch(const Linear& linear) const {
    const Tensor& weight = *loaded_.model.graph.Initializer(linear.weight);
    if (!weight.writable()) PrefetchPages(weight.bytes());
  }

  // Gives back the memory of a layer's mapped weights.
  void Release(const Linear& linear) const {
    const Tensor& weight = *loaded_.model.graph.Initializer(linear.weight);
    if (!weight.writable()) ReleasePages(weight.bytes());
  }

  absl::StatusOr<quant::v1::Report> Measure() {
    quant::v1::Report report;
    EvaluationPoint point(ResumeFolder(paths_.own), ResumeFingerprint(lease_, recipe_), limits_.threads,
                          limits_.resume_interval);
    RETURN_IF_ERROR(MeasureLanguage({.original = SourceOf(loaded_.checkpoint),
                                     .quantized = [this](bool kv_cache) { return export_->ReadBack(kv_cache); },
                                     .windows = data_.evaluation,
                                     .layers = layers_,
                                     .errors = errors_,
                                     .evaluation = recipe_.evaluation(),
                                     .threads = limits_.threads,
                                     .resume = point.Resume()},
                                    reporter_, &report));
    report.mutable_size()->set_original_bytes(FolderBytes(paths_.inputs / "model"));
    report.mutable_size()->set_quantized_bytes(FolderBytes(paths_.own / "output"));
    if (parameters_ > 0) report.mutable_size()->set_bits_per_weight(stored_bits_ / static_cast<double>(parameters_));
    for (const auto& notes : {data_.notes, notes_, export_->notes()}) {
      for (const std::string& note : notes) report.add_notes(note);
    }
    *report.mutable_provenance()->mutable_recipe() = recipe_;
    FinishReport(lease_, reporter_, &report);
    return report;
  }

  const quant::v1::Lease& lease_;
  const JobPaths& paths_;
  const JobLimits& limits_;
  Reporter& reporter_;

  quant::v1::Recipe recipe_;
  LoadedCheckpoint loaded_;
  std::vector<Linear> linears_;  // of blocks, in graph order
  std::map<std::string, LinearMethod> plan_;
  LanguageData data_;
  std::unique_ptr<LanguageExport> export_;
  std::vector<LayerOutcome> layers_;
  std::vector<LayerError> errors_;
  std::vector<std::string> notes_;
  double stored_bits_ = 0;
  int64_t parameters_ = 0;
};

}  // namespace

absl::StatusOr<quant::v1::Report> RunLanguageQuantizeJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                         const JobLimits& limits, Reporter& reporter) {
  return LanguageQuantizeJob(lease, paths, limits, reporter).Run();
}

absl::StatusOr<quant::v1::Report> RunLanguageBenchmarkJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                          const JobLimits& limits, Reporter& reporter) {
  reporter.BeginPhase("load");
  const quant::v1::BenchmarkSpec& spec = lease.job().spec().benchmark();
  ASSIGN_OR_RETURN(LoadedCheckpoint model, LoadCheckpoint(paths.inputs / "model"));
  LoadedCheckpoint baseline = model;
  quant::v1::Report report;
  if (lease.has_baseline_model()) {
    ASSIGN_OR_RETURN(baseline, LoadCheckpoint(paths.inputs / "baseline"));
  } else {
    report.add_notes("no baseline model was named: both columns are the same model");
  }
  quant::v1::Recipe recipe;  // for the windows' length alone
  recipe.mutable_calibration()->set_sequence_length(512);
  *recipe.mutable_evaluation() = ResolveEvaluation(spec.evaluation());
  ASSIGN_OR_RETURN(const LanguageData data, LoadLanguageData(lease, paths.inputs, recipe, model.model.vocab_size));
  EvaluationPoint point(ResumeFolder(paths.own), ResumeFingerprint(lease, recipe), limits.threads,
                        limits.resume_interval);
  RETURN_IF_ERROR(MeasureLanguage({.original = SourceOf(baseline.checkpoint),
                                   .quantized = SourceOf(model.checkpoint),
                                   .windows = data.evaluation,
                                   .layers = {},
                                   .errors = {},
                                   .evaluation = recipe.evaluation(),
                                   .threads = limits.threads,
                                   .resume = point.Resume()},
                                  reporter, &report));
  point.Clear();
  report.mutable_size()->set_original_bytes(
      FolderBytes(paths.inputs / (lease.has_baseline_model() ? "baseline" : "model")));
  report.mutable_size()->set_quantized_bytes(FolderBytes(paths.inputs / "model"));
  for (const std::string& note : data.notes) report.add_notes(note);
  FinishReport(lease, reporter, &report);
  return report;
}

}  // namespace quant

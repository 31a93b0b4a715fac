// SPDX-License-Identifier: Apache-2.0
#include "worker/job/tune_job.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "worker/evaluate/evaluate.h"
#include "worker/job/guarded.h"
#include "worker/job/job_error.h"
#include "worker/job/phase_point.h"
#include "worker/job/quantize_job.h"
#include "worker/job/resume.h"
#include "worker/job/trials.h"
#include "worker/job/tune_candidates.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using quant::v1::Recipe;
using quant::v1::Report;
using quant::v1::Trial;

constexpr int kDeathsOfACandidate = 2;

// A candidate's folder within the job's: see RunTuneJob.
struct TrialFolder {
  fs::path path;
  std::string fingerprint;
};

absl::Status DiskError(std::string_view doing, const fs::path& path, const std::error_code& error) {
  return absl::ErrnoToStatus(error.value(), absl::StrCat(std::string(doing), " ", path.string()));
}

// Of all files below `folder`: their paths, sizes and bytes.
absl::StatusOr<std::string> DigestOfFiles(const fs::path& folder) {
  std::error_code error;
  std::set<fs::path> files;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::end(it); it.increment(error)) {
    if (it->is_regular_file()) files.insert(it->path());
  }
  if (error) return DiskError("reading", folder, error);
  Sha256 digest;
  std::vector<char> buffer(1 << 20);
  for (const fs::path& file : files) {
    digest.Update(absl::StrCat(fs::relative(file, folder).string(), "\n", fs::file_size(file, error), "\n"));
    std::ifstream in(file, std::ios::binary);
    while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
      digest.Update({buffer.data(), static_cast<size_t>(in.gcount())});
    }
    if (!in.eof()) return absl::DataLossError(absl::StrCat("cannot read ", file.string()));
  }
  return digest.Finish();
}

// Whether the error is the candidate's own, so that others may still do: what another run would repeat, and memory.
bool IsOfTheCandidate(const absl::Status& status) {
  return ReasonOf(status) == "OUT_OF_MEMORY" || ToJobError(status, "").error_class() == quant::v1::ERROR_CLASS_FINAL;
}

class TuneJob {
 public:
  TuneJob(const quant::v1::Lease& lease, const fs::path& folder, const JobLimits& limits, Reporter& reporter)
      : lease_(lease), spec_(lease.job().spec().tune()), folder_(folder), limits_(limits), reporter_(reporter) {
    const fs::path resume = ResumeFolder(folder);
    base_ = (resume.empty() ? folder / "work" : resume) / "tune";
    tuning_.set_objective(spec_.objective() == quant::v1::TUNE_OBJECTIVE_UNSPECIFIED ? quant::v1::TUNE_OBJECTIVE_SIZE
                                                                                     : spec_.objective());
  }

  absl::StatusOr<Report> Run() {
    reporter_.BeginPhase("load");
    std::vector<Recipe> candidates(spec_.candidates().begin(), spec_.candidates().end());
    if (candidates.empty()) {
      ASSIGN_OR_RETURN(candidates, StandardCandidates(folder_ / "model"));
    }
    const std::vector<std::string> names = TrialNames(candidates);
    absl::Status first_error;
    for (size_t i = 0; i < candidates.size(); ++i) {
      absl::StatusOr<Report> report =
          RunCandidate(candidates[i], absl::StrCat(i + 1, " of ", candidates.size(), ", ", names[i]));
      absl::StatusOr<Loss> loss = report.ok() ? LossOf(*report) : report.status();
      Trial trial;
      if (loss.ok()) {
        trial = TrialOf(*report, *loss);
        tuning_.set_max_drop(MaxDrop(spec_, loss->metric.name()));
        Add(*report);
        KeepTheBetter(candidates[i], trial, *std::move(report));
      } else {
        if (!IsOfTheCandidate(loss.status())) return loss.status();
        std::error_code error;  // a model that is of no use takes no place
        fs::remove_all(FolderOf(LeaseOf(candidates[i])).path / "output", error);
        first_error.Update(loss.status());
        *trial.mutable_recipe() = candidates[i];
        trial.set_error(std::string(loss.status().message()));
      }
      trial.set_name(names[i]);
      *tuning_.add_trials() = std::move(trial);
    }
    if (!best_.has_value()) return NoneMadeAModel(first_error);
    RETURN_IF_ERROR(Deliver());
    return Finish();
  }

 private:
  struct Best {
    Recipe candidate;
    Trial trial;
    Report report;
  };

  // The lease of a quantize job with this recipe.
  quant::v1::Lease LeaseOf(const Recipe& candidate) const {
    quant::v1::Lease lease = lease_;
    quant::v1::QuantizeSpec& quantize = *lease.mutable_job()->mutable_spec()->mutable_quantize();
    quantize.set_model_id(spec_.model_id());
    quantize.set_calibration_dataset_id(spec_.calibration_dataset_id());
    quantize.set_evaluation_dataset_id(spec_.evaluation_dataset_id());
    Recipe& recipe = *quantize.mutable_recipe();
    recipe = candidate;
    if (spec_.has_calibration()) {
      *recipe.mutable_calibration() = spec_.calibration();
      recipe.mutable_calibration()->MergeFrom(candidate.calibration());
    }
    if (spec_.has_evaluation()) *recipe.mutable_evaluation() = spec_.evaluation();
    return lease;
  }

  TrialFolder FolderOf(const quant::v1::Lease& lease) const {
    const std::string fingerprint = ResumeFingerprint(lease, lease.job().spec().quantize().recipe());
    return {.path = base_ / fingerprint.substr(0, 16), .fingerprint = fingerprint};
  }

  // The report of the candidate's quantize job, from an earlier attempt or from running it; its files are in output/ of
  // its folder, unless they were those of a worse one before.
  absl::StatusOr<Report> RunCandidate(const Recipe& candidate, const std::string& part) {
    const quant::v1::Lease lease = LeaseOf(candidate);
    const TrialFolder trial = FolderOf(lease);
    PhasePoint done(trial.path, "done", trial.fingerprint, absl::ZeroDuration());
    if (const std::optional<PhasePoint::Content> content = done.Load(); content.has_value()) {
      Report report;
      const std::span<const std::byte> bytes = content->tensors.at("report").bytes();
      if (report.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
        digests_[trial.path] = content->text.at("output");
        return report;
      }
    }
    RETURN_IF_ERROR(Begin(trial.path));
    Reporter reporter = reporter_.Part(part);
    absl::StatusOr<Report> report =
        Guarded([&] { return RunQuantizeJob(lease, {.inputs = folder_, .own = trial.path}, limits_, reporter); });
    reporter_.EndedIn(reporter);
    std::vector<const char*> done_with = {"work", "attempts"};
    if (!report.ok()) done_with.push_back("output");
    if (report.ok() || IsOfTheCandidate(report.status()))
      done_with.push_back("resume");  // else there is another attempt
    std::error_code error;
    for (const char* name : done_with) fs::remove_all(trial.path / name, error);
    RETURN_IF_ERROR(report.status());
    ASSIGN_OR_RETURN(const std::string digest, DigestOfFiles(trial.path / "output"));
    done.Tell([&] { return ContentOf(*report, digest); });
    return report;
  }

  static PhasePoint::Content ContentOf(const Report& report, const std::string& digest) {
    const std::string bytes = report.SerializeAsString();
    Tensor tensor = *Tensor::Allocate(DType::kUInt8, {static_cast<int64_t>(bytes.size())});
    std::memcpy(tensor.mutable_bytes().data(), bytes.data(), bytes.size());
    PhasePoint::Content content;
    content.tensors.emplace("report", std::move(tensor));
    content.text.emplace("output", digest);
    return content;
  }

  // Makes the folder of a candidate ready for an attempt, or says that there were enough.
  absl::Status Begin(const fs::path& path) const {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) return DiskError("making", path, error);
    std::set<int> died;  // attempts before this one that ended here; one that was handed back has this one's number
    std::ifstream in(path / "attempts");
    for (int attempt = 0; in >> attempt;) {
      if (attempt < lease_.job().attempt()) died.insert(attempt);
    }
    if (died.size() >= kDeathsOfACandidate) {
      return WithJobReason(
          absl::InternalError(absl::StrCat("given up: the job's process died in it in ", died.size(),
                                           " attempts, as it does when a machine's memory is used up")),
          "CHILD_CRASHED");
    }
    std::ofstream(path / "attempts", std::ios::app) << lease_.job().attempt() << "\n";
    for (const char* name : {"output", "work"}) fs::remove_all(path / name, error);
    for (const char* name : {"output", "work", "resume"}) {
      fs::create_directories(path / name, error);
      if (error) return DiskError("making", path / name, error);
    }
    return absl::OkStatus();
  }

  // Of this candidate and the best before it, the files of one stay.
  void KeepTheBetter(const Recipe& candidate, const Trial& trial, Report report) {
    const bool better = !best_.has_value() || IsBetter(trial, best_->trial, tuning_);
    const fs::path kept = FolderOf(LeaseOf(candidate)).path;
    const fs::path before = best_.has_value() ? FolderOf(LeaseOf(best_->candidate)).path : fs::path();
    std::error_code error;
    if (!better && before != kept) fs::remove_all(kept / "output", error);
    if (!better) return;
    if (!before.empty()) fs::remove_all(before / "output", error);
    best_ = Best{.candidate = candidate, .trial = trial, .report = std::move(report)};
  }

  // The phases of all candidates summed.
  void Add(const Report& report) {
    for (const quant::v1::Phase& phase : report.phases()) {
      auto* phases = total_.mutable_phases();
      const auto it = std::find_if(phases->begin(), phases->end(),
                                   [&](const quant::v1::Phase& p) { return p.name() == phase.name(); });
      if (it == phases->end()) {
        *phases->Add() = phase;
      } else {
        it->set_seconds(it->seconds() + phase.seconds());
      }
    }
    total_.set_peak_memory_bytes(std::max({total_.peak_memory_bytes(), report.peak_memory_bytes(), PeakMemoryBytes()}));
  }

  absl::Status NoneMadeAModel(const absl::Status& first_error) const {
    absl::Status status(first_error.code(),
                        absl::StrCat("none of the ", tuning_.trials_size(), " candidates made a model; \"",
                                     tuning_.trials(0).name(), "\": ", first_error.message()));
    first_error.ForEachPayload(
        [&](absl::string_view url, const absl::Cord& payload) { status.SetPayload(url, payload); });
    return status;
  }

  // Moves the files of the best candidate to output/. Those of an earlier attempt count only if they are what was
  // written: power may have failed since. Otherwise the candidate is run once more.
  absl::Status Deliver() {
    const fs::path path = FolderOf(LeaseOf(best_->candidate)).path;
    if (const auto earlier = digests_.find(path); earlier != digests_.end()) {
      const absl::StatusOr<std::string> digest = DigestOfFiles(path / "output");
      if (!digest.ok() || *digest != earlier->second) {
        LOG(WARNING) << "the files of the best candidate, of an earlier attempt, are not whole: it is run again";
        std::error_code error;
        fs::remove_all(path, error);
        ASSIGN_OR_RETURN(best_->report, RunCandidate(best_->candidate, "the best once more"));
      }
    }
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(path / "output", error)) {
      const fs::path to = folder_ / "output" / entry.path().filename();
      fs::rename(entry.path(), to, error);
      if (error == std::errc::cross_device_link) {
        error.clear();
        fs::copy(entry.path(), to, fs::copy_options::recursive, error);
      }
      if (error) return DiskError("moving to", to, error);
    }
    if (error) return DiskError("reading", path / "output", error);
    fs::remove_all(base_, error);
    return absl::OkStatus();
  }

  Report Finish() {
    Report report = std::move(best_->report);
    report.clear_phases();
    Judge(&tuning_);
    std::vector<std::string> notes;
    for (const Trial& trial : tuning_.trials()) {
      if (trial.chosen() && !tuning_.met()) {
        notes.push_back(absl::StrCat("no candidate keeps a loss of ", tuning_.max_drop(), " of ", trial.metric().name(),
                                     "; \"", trial.name(), "\" loses least, ", trial.drop(), ", and was made"));
      }
      if (!trial.error().empty()) {
        notes.push_back(absl::StrCat("candidate \"", trial.name(), "\" made no model: ", trial.error()));
      }
    }
    notes.insert(notes.end(), report.notes().begin(), report.notes().end());
    report.mutable_notes()->Assign(notes.begin(), notes.end());
    // In a job's order: a candidate that has all of them need not be the first.
    constexpr std::array kOrder = {"load", "calibrate", "quantize", "export", "verify", "evaluate", "benchmark"};
    for (const char* name : kOrder) {
      for (const quant::v1::Phase& phase : total_.phases()) {
        if (phase.name() == name) *report.add_phases() = phase;
      }
    }
    report.set_peak_memory_bytes(total_.peak_memory_bytes());
    *report.mutable_tuning() = std::move(tuning_);
    return report;
  }

  const quant::v1::Lease& lease_;
  const quant::v1::TuneSpec& spec_;
  const fs::path& folder_;
  const JobLimits& limits_;
  Reporter& reporter_;

  fs::path base_;
  quant::v1::Tuning tuning_;
  Report total_;                             // phases and peak memory
  std::optional<Best> best_;                 // so far
  std::map<fs::path, std::string> digests_;  // of outputs of earlier attempts, by the candidate's folder
};

}  // namespace

absl::StatusOr<Report> RunTuneJob(const quant::v1::Lease& lease, const fs::path& folder, const JobLimits& limits,
                                  Reporter& reporter) {
  return TuneJob(lease, folder, limits, reporter).Run();
}

}  // namespace quant

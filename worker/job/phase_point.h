// SPDX-License-Identifier: Apache-2.0
// PhasePoint: how far one phase of a job has come, on disk, so that the next attempt goes on from there.
// FOLDER/PHASE/model.safetensors holds the phase's tensors and text and, in its metadata, the fingerprint of the run
// (resume.h) and a digest of everything: what is of another run or damaged is not used.
//
// Thread-compatible. One process at a time uses a folder (the job's lease sees to it).
#ifndef QUANT_WORKER_JOB_PHASE_POINT_H_
#define QUANT_WORKER_JOB_PHASE_POINT_H_

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/tensor/tensor.h"

namespace quant {

class PhasePoint {
 public:
  struct Content {
    std::map<std::string, Tensor> tensors;
    std::map<std::string, std::string> text;  // but "fingerprint" and "digest"
  };

  // An empty `folder` keeps nothing. `interval`: what takes less to compute is not worth a write.
  PhasePoint(const std::filesystem::path& folder, std::string_view phase, std::string fingerprint,
             absl::Duration interval);

  // What an earlier attempt kept, or nullopt: there is nothing, it is of another run, or it is damaged (then it is
  // removed).
  std::optional<Content> Load();

  // Keeps `content()`, durably, if `interval` has passed since the last time, or since this object was made. A disk
  // that cannot is logged: the job goes on without.
  void Tell(absl::FunctionRef<Content()> content);

  // Removes it: the job is done, or `why` it cannot be used, which is logged.
  void Clear(const absl::Status& why = absl::OkStatus());

 private:
  absl::Status Save(const Content& content) const;

  const std::filesystem::path folder_;  // .../PHASE, or empty
  const std::string fingerprint_;
  const absl::Duration interval_;
  absl::Time saved_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_PHASE_POINT_H_

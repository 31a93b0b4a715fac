// SPDX-License-Identifier: Apache-2.0
// Whether a job's spec can be run: first its shape and ranges, then whether its inputs exist.
//
// Messages name the field by its path ("quantize.recipe.calibration.bins"), its value and the limit.
#ifndef QUANT_SERVER_QUEUE_SPEC_CHECK_H_
#define QUANT_SERVER_QUEUE_SPEC_CHECK_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"
#include "server/queue/artifact_catalog.h"

namespace quant {

inline constexpr absl::Duration kDefaultAttemptTimeout = absl::Hours(6);
inline constexpr absl::Duration kMaxAttemptTimeout = absl::Hours(7 * 24);
inline constexpr int kDefaultMaxAttempts = 3;
inline constexpr int kMaxMaxAttempts = 10;
inline constexpr int kDefaultPriority = 3;
inline constexpr size_t kMaxSpecBytes = 64 << 10;  // serialized; a queue of 10,000 then stays below 1 GB

// Checks everything that can be told without the store, then fills attempt_timeout, max_attempts and priority where
// they are unset.
//   INVALID_ARGUMENT: a field out of range or missing, an enum value that the contract does not have.
//   UNIMPLEMENTED, reason NOT_BUILT: a kind, method, format or rule of the contract that this build lacks.
absl::Status CheckSpec(v1::JobSpec* spec);

// Checks that `caller` sees the models and datasets and that they are of a kind that jobs can read, and keeps them from
// expiring before the job is stored. `spec` has passed CheckSpec.
//   NotVisible, UNIMPLEMENTED (reason NOT_BUILT), and the catalog's errors.
absl::Status CheckInputs(const Principal& caller, const v1::JobSpec& spec, ArtifactCatalog* catalog);

// The method of a job for metric labels: MethodName, or "none" for kinds without a recipe.
std::string_view MethodLabel(const v1::JobSpec& spec);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_SPEC_CHECK_H_

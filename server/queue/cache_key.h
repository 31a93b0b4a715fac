// SPDX-License-Identifier: Apache-2.0
// The content of a job as one name: jobs of the same name would have the same result on the same engine.
#ifndef QUANT_SERVER_QUEUE_CACHE_KEY_H_
#define QUANT_SERVER_QUEUE_CACHE_KEY_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"
#include "quant/v1/jobs.pb.h"
#include "server/queue/artifact_catalog.h"

namespace quant {

// The same bytes for equal messages: map entries in order. Message::SerializeAsString does not promise that.
std::string CanonicalBytes(const google::protobuf::MessageLite& message);

// SHA-256 in hex over tenant, salt, and the spec with digests in place of model and dataset ids, without what does not
// change the result (labels, priority, attempts, time limit, name of the output). Empty for kinds that are not answered
// from earlier results: a benchmark is about the machine as it is now.
//   NOT_FOUND: an input is gone.  Errors of the catalog.
absl::StatusOr<std::string> CacheKey(std::string_view tenant, std::string_view salt, const v1::JobSpec& spec,
                                     ArtifactCatalog* catalog);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_CACHE_KEY_H_

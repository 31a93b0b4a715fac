// SPDX-License-Identifier: Apache-2.0
// The flags of `quantctl job submit` and the request they make.
#ifndef QUANT_CLIENT_SUBMIT_H_
#define QUANT_CLIENT_SUBMIT_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/recipe_flags.h"
#include "common/flags.h"

namespace quant {

namespace v1 {
class SubmitJobRequest;
}  // namespace v1

class SubmitFlags {
 public:
  // `flags` must not outlive this object.
  void AddTo(FlagSet& flags);

  // The request that the parsed flags ask for. Reads --recipe files; flags given besides override them. A request_id is
  // made up when none was given, so that sending it again is safe.
  //   INVALID_ARGUMENT: a flag that does not belong to the kind or the method, one that the kind needs and is missing,
  //   or
  //     a value that cannot be read. NOT_FOUND: no such --recipe file. Ranges are the server's to check.
  absl::StatusOr<v1::SubmitJobRequest> Build(const FlagSet& flags) const;

 private:
  absl::Status CheckKind(const FlagSet& flags) const;

  std::string kind_ = "quantize";
  std::string model_;
  std::string baseline_;
  std::string calibration_;
  std::string evaluation_;
  std::string name_;
  std::string objective_ = "size";
  std::string request_id_;
  bool no_cache_ = false;
  std::vector<std::string> recipes_;
  std::vector<std::string> labels_;
  // The service's defaults, for the help: not sent unless given.
  int priority_ = 3;
  int max_attempts_ = 3;
  absl::Duration timeout_ = absl::Hours(6);
  RecipeFlags recipe_;
};

// Reads "key=value" into a map of labels.
//   INVALID_ARGUMENT: no "=", an empty key, a key given twice, not UTF-8.
absl::Status AddLabel(std::string_view text, std::vector<std::pair<std::string, std::string>>& labels);

}  // namespace quant

#endif  // QUANT_CLIENT_SUBMIT_H_

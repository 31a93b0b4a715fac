// SPDX-License-Identifier: Apache-2.0
#include "worker/job/evaluation_point.h"

#include <cstdint>
#include <span>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quant {
namespace {

absl::StatusOr<EvaluationState> Read(const PhasePoint::Content& content) {
  const auto done = content.text.find("done");
  const auto sums = content.tensors.find("sums");
  EvaluationState state;
  if (done == content.text.end() || !absl::SimpleAtoi(done->second, &state.done) || state.done < 0) {
    return absl::DataLossError("it does not say how much is done");
  }
  if (sums == content.tensors.end() || sums->second.dtype() != DType::kFloat64) {
    return absl::DataLossError("it has no sums");
  }
  const std::span<const double> values = sums->second.data<double>();
  state.sums.assign(values.begin(), values.end());
  return state;
}

}  // namespace

EvaluationPoint::EvaluationPoint(const std::filesystem::path& folder, const std::string& fingerprint, int threads,
                                 absl::Duration interval)
    : point_(folder, "evaluation", absl::StrCat(fingerprint, " on ", threads, " threads"), interval) {}

EvaluationResume EvaluationPoint::Resume() {
  before_.reset();
  if (const std::optional<PhasePoint::Content> content = point_.Load(); content.has_value()) {
    absl::StatusOr<EvaluationState> read = Read(*content);
    if (read.ok()) {
      before_ = *std::move(read);
    } else {
      point_.Clear(read.status());
    }
  }
  return {.from = before_.has_value() ? &*before_ : nullptr, .checkpoint = [this](const EvaluationState& state) {
            point_.Tell([&] {
              return PhasePoint::Content{
                  .tensors = {{"sums", Tensor::Of<double>({static_cast<int64_t>(state.sums.size())}, state.sums)}},
                  .text = {{"done", absl::StrCat(state.done)}}};
            });
          }};
}

}  // namespace quant

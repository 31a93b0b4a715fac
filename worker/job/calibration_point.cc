// SPDX-License-Identifier: Apache-2.0
#include "worker/job/calibration_point.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace quant {
namespace {

// Names in the file are numbers and parts; "I.name" of the text is the value's own.
std::string Part(size_t i, const char* part) { return absl::StrCat(i, ".", part); }

template <typename T>
absl::StatusOr<std::vector<T>> ReadVector(const PhasePoint::Content& content, const std::string& name, size_t size) {
  const auto it = content.tensors.find(name);
  if (it == content.tensors.end()) return absl::DataLossError(absl::StrCat(name, " is missing"));
  if (it->second.dtype() != DTypeOf<T>::value) return absl::DataLossError(absl::StrCat(name, " has another type"));
  const std::span<const T> values = it->second.data<T>();
  if (size != 0 && values.size() != size) return absl::DataLossError(absl::StrCat(name, " has another size"));
  return std::vector<T>(values.begin(), values.end());
}

absl::StatusOr<TensorStatistics> ReadOne(const PhasePoint::Content& content, size_t i) {
  Histogram::Numbers numbers;
  ASSIGN_OR_RETURN(numbers.bins, ReadVector<int64_t>(content, Part(i, "bins"), 0));
  ASSIGN_OR_RETURN(const std::vector<int64_t> counts, ReadVector<int64_t>(content, Part(i, "counts"), 3));
  ASSIGN_OR_RETURN(const std::vector<double> range, ReadVector<double>(content, Part(i, "range"), 5));
  numbers.count = counts[0];
  numbers.zeros = counts[1];
  numbers.limit = range[0];
  numbers.min = static_cast<float>(range[1]);
  numbers.max = static_cast<float>(range[2]);
  TensorStatistics one;
  ASSIGN_OR_RETURN(one.histogram, Histogram::FromNumbers(std::move(numbers)));
  one.average_min = range[3];
  one.average_max = range[4];
  one.batches = counts[2];
  return one;
}

absl::StatusOr<Statistics> Read(const PhasePoint::Content& content) {
  Statistics out;
  const auto samples = content.text.find("samples");
  if (samples == content.text.end() || !absl::SimpleAtoi(samples->second, &out.samples)) {
    return absl::DataLossError("it has no number of samples");
  }
  size_t i = 0;
  for (auto name = content.text.find(Part(0, "name")); name != content.text.end();
       name = content.text.find(Part(++i, "name"))) {
    ASSIGN_OR_RETURN(TensorStatistics one, ReadOne(content, i));
    out.tensors.emplace(name->second, std::move(one));
  }
  return out;
}

PhasePoint::Content ContentOf(const Statistics& statistics) {
  PhasePoint::Content content{.tensors = {}, .text = {{"samples", absl::StrCat(statistics.samples)}}};
  size_t i = 0;
  for (const auto& [name, s] : statistics.tensors) {
    const Histogram& h = s.histogram;
    content.text[Part(i, "name")] = name;
    content.tensors[Part(i, "bins")] = Tensor::Of<int64_t>({static_cast<int64_t>(h.bins().size())}, h.bins());
    content.tensors[Part(i, "counts")] = Tensor::Of<int64_t>({3}, {h.count(), h.zeros(), s.batches});
    content.tensors[Part(i, "range")] =
        Tensor::Of<double>({5}, {h.limit(), h.min(), h.max(), s.average_min, s.average_max});
    ++i;
  }
  return content;
}

}  // namespace

CalibrationPoint::CalibrationPoint(const std::filesystem::path& folder, std::string fingerprint,
                                   absl::Duration interval)
    : point_(folder, "calibration", std::move(fingerprint), interval) {}

std::optional<Statistics> CalibrationPoint::Load() {
  const std::optional<PhasePoint::Content> content = point_.Load();
  if (!content.has_value()) return std::nullopt;
  absl::StatusOr<Statistics> read = Read(*content);
  if (read.ok()) return *std::move(read);
  point_.Clear(read.status());
  return std::nullopt;
}

void CalibrationPoint::Tell(const Statistics& so_far) {
  point_.Tell([&] { return ContentOf(so_far); });
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/calibration_point.h"

#include <map>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "worker/formats/safetensors/safetensors.h"
#include "worker/formats/safetensors/writer.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

constexpr char kFile[] = "model.safetensors";

// Names in the file are numbers and parts; "I.name" of the metadata is the value's own.
std::string Part(size_t i, const char* part) { return absl::StrCat(i, ".", part); }

std::vector<int64_t> Counts(const TensorStatistics& s) { return {s.histogram.count(), s.histogram.zeros(), s.batches}; }
std::vector<double> Extent(const TensorStatistics& s) {
  return {s.histogram.limit(), s.histogram.min(), s.histogram.max(), s.average_min, s.average_max};
}

// Of all numbers: a disk that lost some must not change a result.
std::string DigestOf(const Statistics& statistics) {
  Sha256 digest;
  const auto add = [&](const auto& values) {
    const auto bytes = std::as_bytes(std::span(values));
    digest.Update(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  };
  for (const auto& [name, s] : statistics.tensors) {
    digest.Update(absl::StrCat(name, "\n"));
    add(s.histogram.bins());
    add(Counts(s));
    add(Extent(s));
  }
  digest.Update(absl::StrCat(statistics.samples));
  return digest.Finish();
}

template <typename T>
absl::StatusOr<std::vector<T>> ReadVector(const SafetensorsFile& file, const std::string& name, size_t size) {
  const auto it = file.tensors.find(name);
  if (it == file.tensors.end()) return absl::DataLossError(absl::StrCat(name, " is missing"));
  ASSIGN_OR_RETURN(const Tensor tensor, it->second.Clone());
  if (tensor.dtype() != DTypeOf<T>::value) return absl::DataLossError(absl::StrCat(name, " has another type"));
  const std::span<const T> values = tensor.data<T>();
  if (size != 0 && values.size() != size) return absl::DataLossError(absl::StrCat(name, " has another size"));
  return std::vector<T>(values.begin(), values.end());
}

absl::StatusOr<TensorStatistics> ReadOne(const SafetensorsFile& file, size_t i) {
  Histogram::Numbers numbers;
  ASSIGN_OR_RETURN(numbers.bins, ReadVector<int64_t>(file, Part(i, "bins"), 0));
  ASSIGN_OR_RETURN(const std::vector<int64_t> counts, ReadVector<int64_t>(file, Part(i, "counts"), 3));
  ASSIGN_OR_RETURN(const std::vector<double> range, ReadVector<double>(file, Part(i, "range"), 5));
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

absl::StatusOr<Statistics> Read(const fs::path& path, const std::string& fingerprint) {
  ASSIGN_OR_RETURN(const SafetensorsFile file, ReadSafetensors(path));
  const auto text = [&](const std::string& key) {
    const auto it = file.metadata.find(key);
    return it == file.metadata.end() ? std::string() : it->second;
  };
  if (text("fingerprint") != fingerprint) return absl::FailedPreconditionError("it is of another run");
  Statistics out;
  if (!absl::SimpleAtoi(text("samples"), &out.samples)) return absl::DataLossError("it has no number of samples");
  for (size_t i = 0; file.metadata.contains(Part(i, "name")); ++i) {
    ASSIGN_OR_RETURN(TensorStatistics one, ReadOne(file, i));
    out.tensors.emplace(text(Part(i, "name")), std::move(one));
  }
  if (text("digest") != DigestOf(out)) return absl::DataLossError("its numbers are not those that were written");
  return out;
}

}  // namespace

CalibrationPoint::CalibrationPoint(fs::path folder, std::string fingerprint, absl::Duration interval)
    : folder_(folder.empty() ? fs::path() : std::move(folder) / "calibration"),
      fingerprint_(std::move(fingerprint)),
      interval_(interval),
      saved_(absl::Now()) {}

std::optional<Statistics> CalibrationPoint::Load() {
  std::error_code error;
  if (folder_.empty() || !fs::exists(folder_ / kFile, error)) return std::nullopt;
  absl::StatusOr<Statistics> read = Read(folder_ / kFile, fingerprint_);
  if (read.ok()) return *std::move(read);
  LOG(WARNING) << "the resume point in " << folder_.string() << " is not used: " << read.status().message();
  Clear();
  return std::nullopt;
}

void CalibrationPoint::Tell(const Statistics& so_far) {
  if (folder_.empty() || absl::Now() - saved_ < interval_) return;
  if (const absl::Status status = Save(so_far); !status.ok()) {
    LOG(WARNING) << "no resume point after " << so_far.samples << " samples of calibration: " << status.message();
  }
  saved_ = absl::Now();
}

absl::Status CalibrationPoint::Save(const Statistics& so_far) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("making ", folder_.string()));
  std::map<std::string, std::string> metadata = {
      {"fingerprint", fingerprint_}, {"samples", absl::StrCat(so_far.samples)}, {"digest", DigestOf(so_far)}};
  size_t i = 0;
  for (const auto& [name, statistics] : so_far.tensors) metadata[Part(i++, "name")] = name;
  ASSIGN_OR_RETURN(const auto writer,
                   SafetensorsWriter::Create(folder_, {.max_file_bytes = INT64_MAX,
                                                       .expected_tensors = static_cast<int64_t>(3 * i),
                                                       .metadata = std::move(metadata)}));
  i = 0;
  for (const auto& [name, s] : so_far.tensors) {
    const std::span<const int64_t> bins = s.histogram.bins();
    RETURN_IF_ERROR(writer->Add(Part(i, "bins"), Tensor::Of<int64_t>({static_cast<int64_t>(bins.size())}, bins)));
    RETURN_IF_ERROR(writer->Add(Part(i, "counts"), Tensor::Of<int64_t>({3}, Counts(s))));
    RETURN_IF_ERROR(writer->Add(Part(i, "range"), Tensor::Of<double>({5}, Extent(s))));
    ++i;
  }
  return writer->Finish();
}

void CalibrationPoint::Clear() {
  std::error_code error;
  if (!folder_.empty()) fs::remove_all(folder_, error);
}

}  // namespace quant

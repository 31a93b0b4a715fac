// SPDX-License-Identifier: Apache-2.0
// Writes tensors as they come into one or more .safetensors files, in one pass, without holding the model.
//
//   ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(folder));
//   RETURN_IF_ERROR(writer->Add("model.norm.weight", norm));
//   RETURN_IF_ERROR(writer->AddTogether(parts));  // in the same file
//   return writer->Finish();
//
// The header stands before the data and is known only after it. What fits a small buffer is therefore written at the
// end exactly as the reference writer does (types in falling order of its enumeration, then names; no padding but to 8
// bytes). Beyond that space for the header is reserved, tensors follow in the order of arrival, and the header is
// filled in when the file is complete, padded with spaces, which the format allows. In a file so made tensors whose
// size is no multiple of 8 bytes come last, the larger element first, so that every tensor is aligned for its type.
//
// Files appear at Finish, whole or not at all: model.safetensors, or model-00001-of-0000M.safetensors ... and at last
// model.safetensors.index.json, which names the file of each tensor (Hugging Face transformers). The same calls give
// the same bytes.
//
// Thread-compatible.
#ifndef QUANT_WORKER_FORMATS_SAFETENSORS_WRITER_H_
#define QUANT_WORKER_FORMATS_SAFETENSORS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/file/atomic_file.h"
#include "worker/tensor/tensor.h"

namespace quant {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

struct SafetensorsWriterOptions {
  // Tensor bytes of one file; a larger group of tensors gets a file of its own.
  int64_t max_file_bytes = 5'000'000'000;
  // Up to so many bytes of tensors wait in memory before a file is begun.
  int64_t buffer_bytes = int64_t{16} << 20;
  // How many tensors are expected in all: the space reserved for a header. A file whose header is full is closed and
  // the next one begun, so that a wrong guess costs nothing but a file more.
  int64_t expected_tensors = 2000;
  // transformers refuses files without "format".
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
};

class SafetensorsWriter {
 public:
  // `folder` must exist; files of the names above in it are replaced.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(std::filesystem::path folder,
                                                                   SafetensorsWriterOptions options = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Adds a tensor, or several that must be in one file. A tensor's bytes may be read later, until Finish: they must not
  // change. INVALID_ARGUMENT: a name that is empty, longer than 4096 bytes, not UTF-8, with control characters, given
  // before or reserved; int4 and uint4 tensors. RESOURCE_EXHAUSTED: the disk is full. After an error nothing but
  // destruction is of use.
  absl::Status Add(std::string_view name, const Tensor& tensor);
  absl::Status AddTogether(std::span<const NamedTensor> tensors);

  // Makes the files visible and durable. FAILED_PRECONDITION when called twice.
  absl::Status Finish();

  // Names of the files, after Finish, the index last if there is one.
  const std::vector<std::string>& files() const { return files_; }

 private:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    int64_t begin;
    int64_t end;
  };
  struct File;

  SafetensorsWriter(std::filesystem::path folder, SafetensorsWriterOptions options);
  std::string Header(const std::vector<Entry>& entries) const;
  absl::StatusOr<AtomicFile> NewFile();
  absl::Status BeginFile();                        // the buffered tensors go into it
  absl::Status Append(const NamedTensor& tensor);  // to the open file
  absl::Status Put(const NamedTensor& tensor);
  absl::Status EndFile();  // whether begun or still buffered

  std::filesystem::path folder_;
  SafetensorsWriterOptions options_;
  std::set<std::string> names_;
  std::vector<NamedTensor> buffered_;
  int64_t buffered_bytes_ = 0;
  std::unique_ptr<File> open_;
  std::vector<AtomicFile> complete_;
  std::vector<std::vector<std::string>> names_in_;  // of each complete file
  int64_t total_bytes_ = 0;
  bool finished_ = false;
  std::vector<std::string> files_;
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_SAFETENSORS_WRITER_H_

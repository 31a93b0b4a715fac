// SPDX-License-Identifier: Apache-2.0
// Source: the samples of one model input. Internal to formats/dataset.
#ifndef QUANT_WORKER_FORMATS_DATASET_SOURCE_H_
#define QUANT_WORKER_FORMATS_DATASET_SOURCE_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/dataset/preprocess.h"
#include "worker/graph/graph.h"

namespace quant {

// Thread-compatible.
class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t size() const = 0;
  // Samples [begin, begin + count), which the caller keeps within size(): [count, ...] in the input's dtype.
  // INVALID_ARGUMENT naming input and sample.
  virtual absl::StatusOr<Tensor> Read(int64_t begin, int64_t count) = 0;
};

// An array with the samples along its first axis. INVALID_ARGUMENT when dtype or shape do not fit the input.
absl::StatusOr<std::unique_ptr<Source>> MakeArraySource(const std::string& array_name, Tensor array,
                                                        const ValueInfo& input);

// A uint8 array of images. INVALID_ARGUMENT when it is none, or the images after preprocessing do not fit the input.
absl::StatusOr<std::unique_ptr<Source>> MakeImageArraySource(const std::string& array_name, Tensor array,
                                                             const PreprocessSpec& spec, const ValueInfo& input);

// Image files, decoded when read. `files` are relative to `folder`.
absl::StatusOr<std::unique_ptr<Source>> MakeImageFileSource(const std::filesystem::path& folder,
                                                            std::vector<std::string> files, const PreprocessSpec& spec,
                                                            const ValueInfo& input);

// The images of `folder` (files ending in .jpg, .jpeg or .png), and their labels if there are any.
struct ImageFolder {
  std::vector<std::string> files;  // relative paths
  std::vector<int64_t> labels;     // empty: none
};

// Finds them: directly in `folder`, or one sub-folder per class, the classes in the order of their names being labels
// 0, 1, ..., and the samples taken from the classes in turn so that any first part of them holds all classes.
// labels.json or labels.txt, when there, gives the label of each file (or of its sub-folder) by name instead.
// INVALID_ARGUMENT for a malformed label file or an image without a label in it.
absl::StatusOr<ImageFolder> FindImages(const std::filesystem::path& folder);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_DATASET_SOURCE_H_

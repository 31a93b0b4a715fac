// SPDX-License-Identifier: Apache-2.0
// Datasets as design.md section 6 describes them: arrays named after the model's inputs, uint8 images with a
// preprocess.json, image folders. Samples are decoded and preprocessed while streaming; memory is one batch.
#ifndef QUANT_WORKER_FORMATS_DATASET_DATASET_H_
#define QUANT_WORKER_FORMATS_DATASET_DATASET_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

// Thread-compatible.
class Dataset {
 public:
  virtual ~Dataset() = default;

  // Samples there are.
  virtual int64_t size() const = 0;

  // Samples [begin, begin + count) as one tensor per model input, in the order of graph.inputs, the first axis being
  // the samples; dtype and the other dimensions are the input's. A model whose own first dimension is fixed limits
  // nothing here: the caller reads that many samples at a time. OUT_OF_RANGE past the end; INVALID_ARGUMENT naming
  // sample and input for a value that is NaN or infinite, does not fit the input's dtype, or an image that is damaged.
  virtual absl::StatusOr<std::vector<Tensor>> Read(int64_t begin, int64_t count) = 0;

  // One label per sample, or empty when the dataset has none.
  virtual std::span<const int64_t> labels() const = 0;
};

// Opens the dataset in `folder` (docs/formats/datasets.md) for a model with these inputs. INVALID_ARGUMENT, naming
// file, value and what is wanted, when arrays are missing, malformed, of differing lengths, or do not fit the inputs'
// dtypes and shapes, and for mistakes in preprocess.json.
absl::StatusOr<std::unique_ptr<Dataset>> OpenDataset(const std::filesystem::path& folder,
                                                     std::span<const ValueInfo> inputs);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_DATASET_DATASET_H_

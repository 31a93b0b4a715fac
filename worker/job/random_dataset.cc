// SPDX-License-Identifier: Apache-2.0
#include "worker/job/random_dataset.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/evaluate/evaluate.h"

namespace quant {
namespace {

class RandomDataset : public Dataset {
 public:
  RandomDataset(Graph signature, int64_t size, uint64_t seed)
      : signature_(std::move(signature)), size_(size), seed_(seed) {}

  int64_t size() const override { return size_; }
  std::span<const int64_t> labels() const override { return {}; }
  absl::StatusOr<std::vector<Tensor>> Read(int64_t begin, int64_t count) override {
    if (begin < 0 || count < 0 || begin + count > size_) {
      return absl::OutOfRangeError(absl::StrCat("samples ", begin, " to ", begin + count, " of ", size_));
    }
    return SampleInputs(signature_, nullptr, count, seed_ + static_cast<uint64_t>(begin));
  }

 private:
  const Graph signature_;  // inputs only
  const int64_t size_;
  const uint64_t seed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Dataset>> MakeRandomDataset(const Graph& graph, int64_t size, uint64_t seed) {
  Graph signature;
  signature.inputs = graph.inputs;
  const int64_t batch = RunnableBatch(signature, 1);
  auto data = std::make_unique<RandomDataset>(std::move(signature), std::max(size, batch), seed);
  if (absl::StatusOr<std::vector<Tensor>> first = data->Read(0, batch); !first.ok()) return first.status();
  return data;
}

}  // namespace quant

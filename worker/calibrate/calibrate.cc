// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/calibrate.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {

int64_t RunnableBatch(const Graph& graph, int64_t wanted) {
  for (const ValueInfo& input : graph.inputs) {
    if (!input.shape.empty() && input.shape[0].known() && input.shape[0].value > 0) return input.shape[0].value;
  }
  return std::max<int64_t>(wanted, 1);
}

namespace {

// Whether `part` is of the same values and bins as `empty` and ends where a batch ends.
bool Fits(const Statistics& part, const Statistics& empty, int64_t samples, int64_t batch) {
  if (part.samples < 0 || part.samples > samples) return false;
  if (part.samples % batch != 0 && part.samples != samples) return false;
  return std::equal(part.tensors.begin(), part.tensors.end(), empty.tensors.begin(), empty.tensors.end(),
                    [](const auto& a, const auto& b) {
                      return a.first == b.first && a.second.histogram.bins().size() == b.second.histogram.bins().size();
                    });
}

}  // namespace

absl::StatusOr<Statistics> Calibrate(std::shared_ptr<const Graph> graph, std::span<const std::string> values,
                                     Dataset& data, const CalibrateOptions& options, const ProgressFn& progress) {
  const int64_t batch = RunnableBatch(*graph, options.batch_size);
  const bool fixed = RunnableBatch(*graph, 1) != 1 || batch != std::max<int64_t>(options.batch_size, 1);
  int64_t samples = options.samples > 0 ? std::min(options.samples, data.size()) : data.size();
  if (fixed) samples = samples / batch * batch;
  if (samples == 0) {
    return absl::InvalidArgumentError(absl::StrCat("calibration needs at least ", fixed ? batch : 1,
                                                   " samples (the model's batch), the dataset has ", data.size()));
  }
  Statistics out;
  for (const std::string& v : values) out.tensors.emplace(v, TensorStatistics(4 * options.bins));
  if (options.resume != nullptr && Fits(*options.resume, out, samples, batch)) out = *options.resume;

  std::string where;
  CompileOptions compile{.backend = options.backend, .threads = options.threads};
  compile.taps.assign(values.begin(), values.end());
  compile.tap = [&](std::string_view name, const Tensor& tensor) -> absl::Status {
    const auto it = out.tensors.find(std::string(name));
    if (it == out.tensors.end()) return absl::OkStatus();
    absl::Status added;
    if (tensor.dtype() == DType::kFloat32) {
      added = it->second.Add(tensor.data<float>(), options.averaging_constant);
    } else {
      absl::StatusOr<std::vector<float>> copy = ToFloat(tensor);
      added = copy.ok() ? it->second.Add(*copy, options.averaging_constant) : copy.status();
    }
    if (added.ok()) return added;
    return absl::InvalidArgumentError(absl::StrCat("calibration: value '", AbslView(name), "' of shape ",
                                                   ShapeString(tensor.shape()), " in ", where, ": ", added.message(),
                                                   "; remove the sample or look for overflow in the model"));
  };
  absl::StatusOr<std::unique_ptr<Executable>> exe = Compile(graph, compile);
  if (!exe.ok()) return exe.status();
  for (int64_t begin = out.samples; begin < samples; begin += batch) {
    const int64_t count = std::min(batch, samples - begin);
    where = absl::StrCat("samples ", begin, " to ", begin + count - 1);
    if (absl::Status s = Tell(progress, "ranges of activations", {begin, samples, "samples"}); !s.ok()) return s;
    absl::StatusOr<std::vector<Tensor>> inputs = data.Read(begin, count);
    if (!inputs.ok()) return inputs.status();
    absl::StatusOr<std::span<const Tensor>> ran = (*exe)->Run(*inputs);
    if (!ran.ok()) return ran.status();
    out.samples = begin + count;
    if (options.checkpoint) options.checkpoint(out);
  }
  if (absl::Status s = Tell(progress, "ranges of activations", {samples, samples, "samples"}); !s.ok()) return s;
  return out;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/job/language_export.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/gguf/gguf_model.h"
#include "worker/formats/huggingface/quantized.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/graph/linear.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

constexpr char kOnnxFile[] = "model.onnx";
constexpr char kGgufFile[] = "model.gguf";
// Root mean square change of a layer that GGUF's grids hold only after rounding again; beyond it the file is broken.
constexpr double kGgufTolerance = 0.15;
// Rows compared at a time.
constexpr int64_t kRowsAtOnce = 256;
// Layers read back at a time, each on its own thread: unpacked, a 7B model's largest takes 45 MB and its words half.
constexpr int kLayersAtOnce = 8;
// An exported graph in other operators orders sums otherwise: float32 roundings of a few dozen layers.
constexpr double kOnnxTolerance = 1e-3;

// A checksum of numbers in lanes, each a chain h = rotl((h ^ v) * p, 13) as in MurmurHash3's body: every change of one
// number changes its lane, several cancel once in 2^32. It tells what a broken writer, reader or disk does to a file,
// not what an adversary could, who has no part in it: both sides are made by one job.
constexpr size_t kLanes = 16;
using Checksum = std::array<uint32_t, kLanes>;

Checksum ChecksumOf(std::span<const float> values) {
  Checksum h{};
  const auto add = [&](size_t lane, float v) {
    // Plus 0: -0 and 0 are one weight.
    h[lane] = std::rotl((h[lane] ^ std::bit_cast<uint32_t>(v + 0.0f)) * 0xcc9e2d51u, 13);
  };
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) add(lane, values[i + lane]);
  }
  for (size_t lane = 0; i + lane < values.size(); ++lane) add(lane, values[i + lane]);
  return h;
}

// Of the real weights as float32: SHA-256 of the checksum of each row.
std::string DigestOf(const WeightMatrix& weights) {
  std::vector<Checksum> sums(static_cast<size_t>(Rows(weights)));
#pragma omp parallel
  {
    std::vector<float> row(static_cast<size_t>(Cols(weights)));
#pragma omp for schedule(static)
    for (size_t r = 0; r < sums.size(); ++r) {
      DequantizeRows(weights, static_cast<int64_t>(r), static_cast<int64_t>(r) + 1, row);
      sums[r] = ChecksumOf(row);
    }
  }
  return Sha256Hex({reinterpret_cast<const char*>(sums.data()), sums.size() * sizeof(Checksum)});
}

absl::Status VerifyLayer(const Checkpoint& written, const std::string& module, const std::string& digest) {
  ASSIGN_OR_RETURN(const std::optional<WeightMatrix> weights, ReadQuantizedLinear(written, module));
  if (!weights.has_value() || DigestOf(*weights) != digest) {
    return absl::DataLossError(absl::StrCat("layer '", module, "', read back from the exported files, ",
                                            weights.has_value() ? "has other weights" : "is not quantized"));
  }
  const std::string prefix = absl::StrCat(module, ".");
  for (auto it = written.tensors().lower_bound(prefix); it != written.tensors().end() && it->first.starts_with(prefix);
       ++it) {
    ReleasePages(it->second.bytes());
  }
  return absl::OkStatus();
}

// The greatest difference of logits over their greatest magnitude, on a few tokens.
absl::StatusOr<double> LogitDifference(std::shared_ptr<const Graph> a, std::shared_ptr<const Graph> b) {
  constexpr int64_t kTokens = 16;
  ASSIGN_OR_RETURN(Tensor ids, Tensor::Allocate(DType::kInt64, {1, kTokens}));
  for (int64_t i = 0; i < kTokens; ++i) ids.mutable_data<int64_t>()[static_cast<size_t>(i)] = i + 1;
  const std::span<const Tensor> inputs(&ids, 1);
  ASSIGN_OR_RETURN(const auto first, Compile(std::move(a), {}));
  ASSIGN_OR_RETURN(const auto second, Compile(std::move(b), {}));
  ASSIGN_OR_RETURN(const std::span<const Tensor> x, first->Run(inputs));
  ASSIGN_OR_RETURN(const std::span<const Tensor> y, second->Run(inputs));
  if (x[0].shape() != y[0].shape()) return absl::DataLossError("the exported model's logits have another shape");
  double difference = 0, magnitude = 0;
  for (int64_t i = 0; i < x[0].elements(); ++i) {
    const double u = x[0].data<float>()[static_cast<size_t>(i)], v = y[0].data<float>()[static_cast<size_t>(i)];
    magnitude = std::max(magnitude, std::fabs(u));
    difference = std::isfinite(v) ? std::max(difference, std::fabs(u - v)) : HUGE_VAL;
  }
  return magnitude > 0 ? difference / magnitude : difference;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LanguageExport>> LanguageExport::Create(CheckpointFormat format,
                                                                       const Checkpoint& checkpoint,
                                                                       const LanguageModel& model,
                                                                       const std::filesystem::path& folder,
                                                                       const ExportOptions& options) {
  std::unique_ptr<LanguageExport> out(new LanguageExport(format, checkpoint, model, folder));
  if (format != CheckpointFormat::kOnnx) {
    ASSIGN_OR_RETURN(out->writer_, CreateCheckpointWriter(format, checkpoint, folder, options));
  }
  if (format == CheckpointFormat::kOnnx || format == CheckpointFormat::kGguf) {
    out->graph_ = std::make_shared<Graph>(model.graph);
  }
  return out;
}

absl::Status LanguageExport::Add(const BlockResult& block) {
  for (const QuantizedLayer& layer : block.layers) {
    if (!layer.weights.has_value()) continue;
    const std::string& module = layer.outcome.name;
    digests_[module] = DigestOf(*layer.weights);
    if (writer_ != nullptr) {
      const std::string bias = absl::StrCat(module, ".bias");
      const auto it = block.changed.find(bias);
      RETURN_IF_ERROR(writer_->AddLinear(module, *layer.weights,
                                         it != block.changed.end() ? &it->second : checkpoint_->Find(bias)));
    }
    if (graph_ != nullptr) RETURN_IF_ERROR(ReplaceLinear(graph_.get(), module, *layer.weights));
  }
  for (const auto& [name, tensor] : block.changed) {
    changed_[name] = tensor;
    if (graph_ != nullptr && graph_->Initializer(name) != nullptr) graph_->initializers[name] = tensor;
  }
  return absl::OkStatus();
}

absl::Status LanguageExport::Finish() {
  if (writer_ != nullptr) {
    for (const std::string& name : FloatTensorNames(*checkpoint_)) {
      const size_t dot = name.rfind('.');
      if (dot != std::string::npos && digests_.contains(name.substr(0, dot))) continue;  // AddLinear wrote it
      const auto it = changed_.find(name);
      const Tensor* tensor = it != changed_.end() ? &it->second : checkpoint_->Find(name);
      if (tensor == nullptr) return absl::InternalError(absl::StrCat("tensor ", name, " of the checkpoint is gone"));
      RETURN_IF_ERROR(writer_->AddTensor(name, *tensor));
      if (!tensor->writable()) ReleasePages(tensor->bytes());
    }
    return writer_->Finish();
  }
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  RETURN_IF_ERROR(graph_->Validate());
  RETURN_IF_ERROR(ExportOnnx(*graph_, folder_ / kOnnxFile));
  return CopyOtherFiles(*checkpoint_, folder_, {});
}

absl::Status LanguageExport::Verify(const ProgressFn& progress) {
  if (format_ == CheckpointFormat::kGguf) return VerifyGguf(progress);
  if (format_ == CheckpointFormat::kOnnx) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const Graph> read, ReadBack(/*kv_cache=*/false));
    ASSIGN_OR_RETURN(const double difference, LogitDifference(graph_, read));
    if (difference <= kOnnxTolerance) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("the exported file, read back, gives logits that differ by ", difference,
                                            " of their largest value (limit ", kOnnxTolerance, ")"));
  }
  ASSIGN_OR_RETURN(const auto written, Checkpoint::Open(folder_));
  const std::vector<std::pair<std::string, std::string>> layers(digests_.begin(), digests_.end());
  std::vector<absl::Status> statuses(layers.size());
  int64_t done = 0;
  std::atomic<bool> failed = false;
#pragma omp parallel for schedule(dynamic) num_threads(std::min(omp_get_max_threads(), kLayersAtOnce))
  for (size_t i = 0; i < layers.size(); ++i) {
    if (failed) continue;
    try {
      statuses[i] = VerifyLayer(*written, layers[i].first, layers[i].second);
    } catch (const std::bad_alloc&) {
      statuses[i] = absl::ResourceExhaustedError("no memory to read a layer back; start the worker with more --memory");
    }
#pragma omp critical
    {
      statuses[i].Update(Tell(progress, layers[i].first, {++done, static_cast<int64_t>(layers.size()), "layers"}));
    }
    if (!statuses[i].ok()) failed = true;
  }
  for (const absl::Status& s : statuses) RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

namespace {

// Which column of the layer's [N, K] weights each column of its quantized form is; empty: the same. A dynamic act-order
// gathers the layer's inputs, so that groups are runs of columns; GGUF files have the columns as they were.
std::vector<int64_t> ColumnOrder(const Graph& graph, const GraphIndex& index, const Node& node, int64_t cols) {
  const int producer = index.Producer(node.input(0));
  if (producer < 0) return {};
  const Node& gather = graph.nodes[static_cast<size_t>(producer)];
  const Tensor* const order = gather.op_type == "Gather" ? graph.Initializer(gather.input(1)) : nullptr;
  if (order == nullptr || order->dtype() != DType::kInt64 || order->elements() != cols) return {};
  const std::span<const int64_t> columns = order->data<int64_t>();
  return {columns.begin(), columns.end()};
}

}  // namespace

absl::Status LanguageExport::VerifyGguf(const ProgressFn& progress) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const GgufModel> file, GgufModel::Open(folder_ / kGgufFile));
  const GraphIndex index(*graph_);
  int64_t done = 0;
  for (const Node& node : graph_->nodes) {
    if (!digests_.contains(node.name)) continue;
    RETURN_IF_ERROR(Tell(progress, node.name, {done++, static_cast<int64_t>(digests_.size()), "layers"}));
    ASSIGN_OR_RETURN(const WeightMatrix weights, QuantizedWeightsOf(*graph_, node));
    const size_t cols = static_cast<size_t>(Cols(weights));
    const std::vector<int64_t> order = ColumnOrder(*graph_, index, node, Cols(weights));
    double change = 0, size = 0;
    for (int64_t begin = 0; begin < quant::Rows(weights); begin += kRowsAtOnce) {
      const int64_t end = std::min(quant::Rows(weights), begin + kRowsAtOnce);
      ASSIGN_OR_RETURN(const std::vector<float> read, file->Rows(absl::StrCat(node.name, ".weight"), begin, end));
      std::vector<float> made(static_cast<size_t>((end - begin) * Cols(weights)));
      if (read.size() != made.size()) {
        return absl::DataLossError(absl::StrCat("layer '", node.name, "' has another shape in the exported file"));
      }
      DequantizeRows(weights, begin, end, made);
      for (size_t i = 0; i < made.size(); ++i) {
        const size_t at = order.empty() ? i : i / cols * cols + static_cast<size_t>(order[i % cols]);
        change += (static_cast<double>(made[i]) - read[at]) * (static_cast<double>(made[i]) - read[at]);
        size += static_cast<double>(made[i]) * made[i];
      }
    }
    rounded_again_ = rounded_again_ || change > 0;
    if (!(change <= kGgufTolerance * kGgufTolerance * size)) {
      return absl::DataLossError(absl::StrCat("layer '", node.name, "', read back from the exported file, differs by ",
                                              std::sqrt(change / size), " of its size (limit ", kGgufTolerance, ")"));
    }
  }
  return absl::OkStatus();
}

// The original graph with the file's weights, as float32, in place of the quantized layers'.
absl::StatusOr<std::shared_ptr<const Graph>> LanguageExport::GgufGraph() const {
  ASSIGN_OR_RETURN(const std::shared_ptr<const GgufModel> file, GgufModel::Open(folder_ / kGgufFile));
  auto graph = std::make_shared<Graph>(model_->graph);
  for (const auto& [name, tensor] : changed_) {
    if (graph->Initializer(name) != nullptr) graph->initializers[name] = tensor;
  }
  for (const Linear& linear : FindLinears(model_->graph)) {
    if (!digests_.contains(linear.name)) continue;
    ASSIGN_OR_RETURN(std::vector<float> rows, file->Rows(absl::StrCat(linear.name, ".weight"), 0, linear.rows));
    if (!linear.transposed) return absl::UnimplementedError("a GGUF export of weights stored [inputs, outputs]");
    graph->initializers[linear.weight] = Tensor::Of<float>({linear.rows, linear.cols}, rows);
  }
  return graph;
}

absl::StatusOr<std::shared_ptr<const Graph>> LanguageExport::ReadBack(bool kv_cache) const {
  if (kv_cache && graph_ != nullptr) return nullptr;
  if (format_ == CheckpointFormat::kGguf) {
    if (rounded_again_) return GgufGraph();
    return graph_;
  }
  if (format_ == CheckpointFormat::kOnnx) {
    ASSIGN_OR_RETURN(Graph read, ImportOnnx(folder_ / kOnnxFile));
    return std::make_shared<const Graph>(std::move(read));
  }
  ASSIGN_OR_RETURN(const auto written, Checkpoint::Open(folder_));
  ASSIGN_OR_RETURN(LanguageModel model, BuildLanguageModel(*written, {.kv_cache = kv_cache}));
  return std::make_shared<const Graph>(std::move(model.graph));
}

std::vector<std::string> LanguageExport::notes() const {
  std::vector<std::string> notes = writer_ == nullptr ? std::vector<std::string>() : writer_->notes();
  if (format_ == CheckpointFormat::kGguf) {
    if (rounded_again_)
      notes.push_back("layers were rounded again to the grids GGUF has; the figures are of the file's weights");
  }
  return notes;
}

}  // namespace quant

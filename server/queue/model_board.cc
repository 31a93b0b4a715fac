// SPDX-License-Identifier: Apache-2.0
#include "server/queue/model_board.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <set>
#include <string_view>
#include <tuple>

#include "absl/log/log.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/view/job_inputs.h"
#include "common/view/method_name.h"
#include "quant/v1/workers.pb.h"
#include "server/queue/queue_internal.h"

namespace quant {
namespace {

using ModelSample = ServerMetrics::ModelSample;

constexpr absl::Duration kRefresh = absl::Seconds(30);  // deleted models, and what other servers did
constexpr int kJobsRead = 2 * kBoardModels;             // the same work may be there several times
constexpr size_t kAliasCharacters = 48;

const v1::WeightGrid* GridOf(const v1::Recipe& recipe) {
  if (recipe.has_rtn()) return &recipe.rtn().grid();
  if (recipe.has_gptq()) return &recipe.gptq().grid();
  if (recipe.has_awq()) return &recipe.awq().grid();
  if (recipe.has_hqq()) return &recipe.hqq().grid();
  return nullptr;
}

std::string VariantOf(const v1::Recipe& recipe) {
  if (const v1::WeightGrid* grid = GridOf(recipe); grid != nullptr) {
    return absl::StrCat("w", grid->bits() == 0 ? 4 : grid->bits());
  }
  if (recipe.has_nf4()) return recipe.nf4().fp4() ? "fp4" : "nf4";
  if (recipe.has_half()) return recipe.half().type() == v1::HALF_TYPE_BF16 ? "bf16" : "fp16";
  return recipe.has_mixed() ? "mixed" : "int8";
}

std::string FormatOf(v1::ExportFormat format) {
  switch (format) {
    case v1::EXPORT_FORMAT_GPTQ:
      return "gptq";
    case v1::EXPORT_FORMAT_AWQ:
      return "awq";
    case v1::EXPORT_FORMAT_BITSANDBYTES:
      return "bitsandbytes";
    case v1::EXPORT_FORMAT_COMPRESSED_TENSORS:
      return "compressed-tensors";
    case v1::EXPORT_FORMAT_GGUF:
      return "gguf";
    default:
      return "onnx";
  }
}

std::map<double, absl::Duration> QuantilesOf(const v1::Latency& latency) {
  return {{0.5, absl::Milliseconds(latency.p50_ms())},
          {0.95, absl::Milliseconds(latency.p95_ms())},
          {0.99, absl::Milliseconds(latency.p99_ms())}};
}

void AddMetric(const v1::Metric& metric, ModelSample* original, ModelSample* variant) {
  const std::string name = metric.name().substr(0, metric.name().find('/'));  // of several outputs the first
  const bool percent = name == "top1" || name == "top5" || name == "same_top";
  const double scale = percent ? 0.01 : 1;
  if (!variant->accuracy.emplace(name, metric.quantized() * scale).second) return;
  const bool perplexity = name == "perplexity";
  if (name != "top1" && name != "top5" && !perplexity)
    return;  // a comparison of the two: the original has no such value
  original->accuracy.emplace(name, metric.original() * scale);
  if (metric.original() <= 0) return;
  const double change = metric.quantized() / metric.original() - 1;
  variant->drop.emplace(name, perplexity ? change : -change);
}

}  // namespace

std::pair<ModelSample, ModelSample> SamplesOf(const v1::JobSpec& spec, const v1::Report& report) {
  ModelSample original{.variant = "fp32", .method = "none", .size_bytes = report.size().original_bytes()};
  // The report's recipe has the defaults filled in.
  const bool told = !MethodName(report.provenance().recipe()).empty();
  const v1::Recipe& recipe = told ? report.provenance().recipe() : spec.quantize().recipe();
  ModelSample variant{.variant = VariantOf(recipe),
                      .method = std::string(MethodName(recipe)),
                      .format = FormatOf(recipe.format()),
                      .isa = report.provenance().isa(),
                      .size_bytes = report.size().quantized_bytes()};
  for (const v1::Metric& metric : report.metrics()) AddMetric(metric, &original, &variant);
  const v1::LatencyPair& latency = report.latency();
  if (latency.original().p50_ms() > 0 && latency.quantized().p50_ms() > 0) {
    original.latency = QuantilesOf(latency.original());
    variant.latency = QuantilesOf(latency.quantized());
    variant.speedup = latency.original().p50_ms() / latency.quantized().p50_ms();
  } else if (report.throughput().original() > 0) {
    variant.speedup = report.throughput().quantized() / report.throughput().original();
  }
  return {original, variant};
}

std::string AliasOf(const std::string& tenant, const std::string& name) {
  std::string alias = name.substr(0, kAliasCharacters);
  for (char& c : alias) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '_';
  }
  if (alias.empty()) alias = "unnamed";
  return tenant == kDefaultTenant ? alias : absl::StrCat(tenant, "/", alias);
}

const ModelBoard::Measured* ModelBoard::Find(const JobRow& row, const v1::Model& result) {
  const std::string& id = row.job.id();
  if (const auto it = known_.find(id); it != known_.end()) return &it->second;
  const absl::StatusOr<JobStore::Result> stored = store_->GetResult(id);
  v1::JobResult parsed;
  if (!stored.ok() || !parsed.ParseFromString(stored->bytes)) return nullptr;
  const JobInputs inputs = InputsOf(row.job.spec());
  Measured measured;
  std::tie(measured.original, measured.variant) = SamplesOf(row.job.spec(), parsed.report());
  const absl::StatusOr<v1::Model> input = catalog_->GetModel(OpenPrincipal(), inputs.model);
  std::string name = input.ok() ? input->name() : result.name();
  if (!input.ok()) {  // deleted since: the result is named after it
    const std::string suffix = absl::StrCat("-", row.job.spec().has_tune() ? "tuned" : measured.variant.method);
    if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
    if (name == inputs.model) name.clear();
  }
  const std::string& data_id = inputs.evaluation.empty() ? inputs.calibration : inputs.evaluation;
  std::string data = "none";
  if (!data_id.empty()) {
    const absl::StatusOr<v1::Dataset> dataset = catalog_->GetDataset(OpenPrincipal(), data_id);
    data = dataset.ok() ? AliasOf(kDefaultTenant, dataset->name()) : "deleted";
  }
  measured.original.model = measured.variant.model = AliasOf(row.tenant, name);
  measured.original.dataset = measured.variant.dataset = data;
  return &known_.emplace(id, std::move(measured)).first->second;
}

absl::Status ModelBoard::Read() {
  std::vector<JobRow> rows;
  for (const char* kind : {"quantize", "tune"}) {
    JobFilter filter;
    filter.states = {v1::JOB_STATE_SUCCEEDED};
    filter.kind = kind;
    ASSIGN_OR_RETURN(std::vector<JobRow> some, store_->List(filter, std::numeric_limits<int64_t>::max(), kJobsRead));
    rows.insert(rows.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
  }
  std::sort(rows.begin(), rows.end(), [](const JobRow& a, const JobRow& b) { return a.ordinal > b.ordinal; });
  std::vector<ModelSample> samples;
  std::set<std::tuple<std::string, std::string, std::string, std::string>> shown;
  std::set<std::string> there;
  for (const JobRow& row : rows) {
    there.insert(row.job.id());
    if (row.job.result_model_id().empty()) continue;
    const absl::StatusOr<v1::Model> result = catalog_->GetModel(OpenPrincipal(), row.job.result_model_id());
    if (absl::IsNotFound(result.status())) continue;  // deleted
    RETURN_IF_ERROR(result.status());
    const Measured* const measured = Find(row, *result);
    if (measured == nullptr) continue;
    const ModelSample& variant = measured->variant;
    if (!shown.emplace(variant.model, variant.variant, variant.dataset, variant.method).second) continue;
    samples.push_back(variant);
    samples.push_back(measured->original);
    if (shown.size() == kBoardModels) break;
  }
  std::erase_if(known_, [&](const auto& entry) { return !there.contains(entry.first); });
  metrics_->SetModels(samples);
  return absl::OkStatus();
}

void ModelBoard::Refresh(absl::Time now) {
  if (metrics_ == nullptr) return;
  MutexLock lock(&mu_);
  const bool set_back = next_ - now > kRefresh;  // the clock was
  if (!changed_.exchange(false) && now < next_ && !set_back) return;
  next_ = now + kRefresh;
  const absl::Status read = Read();
  LOG_IF(WARNING, !read.ok()) << "queue: the metrics of models stay as they were: " << read;
}

}  // namespace quant

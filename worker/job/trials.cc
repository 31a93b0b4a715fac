// SPDX-License-Identifier: Apache-2.0
#include "worker/job/trials.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/strings.h"
#include "common/view/method_name.h"
#include "common/view/proto_fields.h"
#include "worker/job/job_error.h"

namespace quant {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr double kDefaultPoints = 1;
constexpr double kDefaultFraction = 0.05;

std::string_view BaseName(std::string_view metric) { return metric.substr(0, metric.find('/')); }

double DropOf(const quant::v1::Metric& metric) {
  const std::string_view name = BaseName(metric.name());
  if (name == "top1") return metric.original() - metric.quantized();
  if (name == "perplexity") return metric.quantized() / metric.original() - 1;
  return std::pow(10, -metric.quantized() / 20);  // sqnr_db
}

// Of the original, in percent; infinite where it was not measured.
double SizePercent(const quant::v1::Trial& trial) {
  const auto original = static_cast<double>(trial.size().original_bytes());
  return original > 0 ? 100 * static_cast<double>(trial.size().quantized_bytes()) / original
                      : std::numeric_limits<double>::infinity();
}
double LatencyPercent(const quant::v1::Trial& trial) {
  const double original = trial.latency().original().p50_ms(), quantized = trial.latency().quantized().p50_ms();
  return original > 0 && quantized > 0 ? 100 * quantized / original : std::numeric_limits<double>::infinity();
}
double Cost(const quant::v1::Trial& trial, const quant::v1::Tuning& tuning) {
  return tuning.objective() == quant::v1::TUNE_OBJECTIVE_LATENCY ? LatencyPercent(trial) : SizePercent(trial);
}

bool Dominates(const quant::v1::Trial& a, const quant::v1::Trial& b, const quant::v1::Tuning& tuning) {
  const double cost_a = Cost(a, tuning), cost_b = Cost(b, tuning);
  return cost_a <= cost_b && a.drop() <= b.drop() && (cost_a < cost_b || a.drop() < b.drop());
}

// "bits" and "group_size" as everybody writes them, other fields by their name.
std::string FieldText(const Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::string name = absl::StrReplaceAll(AbslView(field.name()), {{"_", "-"}});
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return absl::StrCat(reflection.GetBool(message, &field) ? "" : "no-", name);
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat(name, " ", EnumFlagName(*reflection.GetEnum(message, &field)));
    case FieldDescriptor::CPPTYPE_INT32:
      if (field.name() == "bits") return absl::StrCat(reflection.GetInt32(message, &field), " bits");
      if (field.name() == "group_size") return absl::StrCat("g", reflection.GetInt32(message, &field));
      return absl::StrCat(name, " ", reflection.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(name, " ", reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(name, " ", reflection.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return absl::StrCat(name, " ", reflection.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrCat(name, " ", reflection.GetDouble(message, &field));
    default:
      return name;
  }
}

// What is set in a message, in the order of the fields' numbers.
void AddSetFields(const Message& message, std::vector<std::string>* parts) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->is_repeated()) {
      parts->push_back(absl::StrCat(message.GetReflection()->FieldSize(message, field), " ", AbslView(field->name())));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      AddSetFields(message.GetReflection()->GetMessage(message, field), parts);
    } else {
      parts->push_back(FieldText(message, *field));
    }
  }
}

}  // namespace

absl::StatusOr<Loss> LossOf(const quant::v1::Report& report) {
  for (const std::string_view wanted : {"top1", "perplexity", "sqnr_db"}) {
    std::vector<Loss> losses;
    for (const quant::v1::Metric& metric : report.metrics()) {
      if (BaseName(metric.name()) == wanted) losses.push_back({.metric = metric, .drop = DropOf(metric)});
    }
    for (const Loss& loss : losses) {
      if (std::isfinite(loss.drop)) continue;
      return absl::FailedPreconditionError(absl::StrCat("its ", loss.metric.name(), " is ", loss.metric.quantized(),
                                                        ", with ", loss.metric.original(), " of the original: no use"));
    }
    if (losses.empty()) continue;
    return *std::max_element(losses.begin(), losses.end(),
                             [](const Loss& a, const Loss& b) { return a.drop < b.drop; });
  }
  return WithJobReason(absl::InvalidArgumentError("nothing was measured that candidates can be compared by (top1, "
                                                  "perplexity, sqnr_db): evaluate on at least one sample"),
                       "DATA_MISMATCH");
}

double MaxDrop(const quant::v1::TuneSpec& spec, const std::string& metric) {
  if (spec.has_max_drop()) return spec.max_drop();
  return BaseName(metric) == "top1" ? kDefaultPoints : kDefaultFraction;
}

quant::v1::Trial TrialOf(const quant::v1::Report& report, const Loss& loss) {
  quant::v1::Trial trial;
  *trial.mutable_recipe() = report.provenance().recipe();
  *trial.mutable_size() = report.size();
  *trial.mutable_metric() = loss.metric;
  trial.set_drop(loss.drop);
  if (report.has_latency()) *trial.mutable_latency() = report.latency();
  double seconds = 0;
  for (const quant::v1::Phase& phase : report.phases()) seconds += phase.seconds();
  trial.set_seconds(seconds);
  return trial;
}

bool IsBetter(const quant::v1::Trial& a, const quant::v1::Trial& b, const quant::v1::Tuning& tuning) {
  const auto key = [&](const quant::v1::Trial& trial) {
    const bool misses = trial.drop() > tuning.max_drop();
    return std::tuple(misses, misses ? 0 : std::ceil(Cost(trial, tuning)), trial.drop(), SizePercent(trial));
  };
  return key(a) < key(b);
}

void Judge(quant::v1::Tuning* tuning) {
  quant::v1::Trial* best = nullptr;
  for (quant::v1::Trial& trial : *tuning->mutable_trials()) {
    if (!trial.error().empty()) continue;
    trial.set_within(trial.drop() <= tuning->max_drop());
    trial.set_pareto(std::none_of(tuning->trials().begin(), tuning->trials().end(), [&](const quant::v1::Trial& other) {
      return other.error().empty() && Dominates(other, trial, *tuning);
    }));
    if (best == nullptr || IsBetter(trial, *best, *tuning)) best = &trial;
  }
  best->set_chosen(true);
  tuning->set_met(best->within());
}

std::vector<std::string> TrialNames(const std::vector<quant::v1::Recipe>& candidates) {
  std::vector<std::string> names;
  std::map<std::string, int> seen;
  for (const quant::v1::Recipe& candidate : candidates) {
    std::vector<std::string> parts = {std::string(MethodName(candidate))};
    AddSetFields(candidate, &parts);
    std::string name = absl::StrJoin(parts, " ");
    if (const int before = seen[name]++; before > 0) absl::StrAppend(&name, " (", before + 1, ")");
    names.push_back(std::move(name));
  }
  return names;
}

}  // namespace quant

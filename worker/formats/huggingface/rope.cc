// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant::huggingface {
namespace {

// config.json's scaling block: numbers that must be positive, under its own name for messages.
struct Scaling {
  const Checkpoint& checkpoint;
  std::string block;  // "rope_scaling" or "rope_parameters"

  std::string Key(std::string_view key) const { return absl::StrCat(block, "/", AbslView(key)); }
  bool Has(std::string_view key) const { return checkpoint.Has(Key(key)); }

  absl::StatusOr<double> Positive(std::string_view key, double otherwise) const {
    ASSIGN_OR_RETURN(const double value, checkpoint.Float(Key(key), otherwise));
    if (!(value > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("config.json: ", Key(key), " is missing or not positive"));
    }
    return value;
  }

  absl::StatusOr<int64_t> OriginalPositions(int64_t otherwise) const {
    // Phi 3 keeps it beside the block, newer files in it.
    ASSIGN_OR_RETURN(otherwise, checkpoint.Int("original_max_position_embeddings", otherwise, 1, kMaxPositions));
    return checkpoint.Int(Key("original_max_position_embeddings"), otherwise, 1, kMaxPositions);
  }
};

// Grattafiori et al. 2024 (Llama 3.1): long waves are stretched, short ones kept, a linear blend between.
absl::Status ScaleLlama3(const Scaling& scaling, int64_t max_positions, std::vector<double>& inv_freq) {
  ASSIGN_OR_RETURN(const double factor, scaling.Positive("factor", 0));
  ASSIGN_OR_RETURN(const double low, scaling.Positive("low_freq_factor", 0));
  ASSIGN_OR_RETURN(const double high, scaling.Positive("high_freq_factor", 0));
  ASSIGN_OR_RETURN(const int64_t original, scaling.OriginalPositions(max_positions));
  if (high <= low) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", scaling.Key("high_freq_factor"), " is ", high,
                                                   ", not above low_freq_factor, ", low));
  }
  for (double& f : inv_freq) {
    const double turns = static_cast<double>(original) * f / (2 * std::numbers::pi);
    const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    f = f / factor * (1 - keep) + f * keep;
  }
  return absl::OkStatus();
}

// YaRN (Peng et al. 2023, arXiv 2309.00071, section 3.2 and equation 21). Returns the attention factor.
absl::StatusOr<double> ScaleYarn(const Scaling& scaling, double theta, int64_t max_positions,
                                 std::vector<double>& inv_freq) {
  ASSIGN_OR_RETURN(const double factor, scaling.Positive("factor", 0));
  ASSIGN_OR_RETURN(const double beta_fast, scaling.Positive("beta_fast", 32));
  ASSIGN_OR_RETURN(const double beta_slow, scaling.Positive("beta_slow", 1));
  ASSIGN_OR_RETURN(const bool truncate, scaling.checkpoint.Bool(scaling.Key("truncate"), true));
  ASSIGN_OR_RETURN(const int64_t original, scaling.OriginalPositions(max_positions));
  const double dim = 2 * static_cast<double>(inv_freq.size());
  // The (fractional) index of the frequency that turns `turns` times within the original context.
  const auto index = [&](double turns) {
    return dim * std::log(static_cast<double>(original) / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = index(beta_fast), high = index(beta_slow);
  if (truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double stretch = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / factor * stretch + inv_freq[i] * (1 - stretch);
  }
  const auto mscale = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1; };
  double otherwise = mscale(1);
  if (scaling.Has("mscale") && scaling.Has("mscale_all_dim")) {
    ASSIGN_OR_RETURN(const double m, scaling.Positive("mscale", 1));
    ASSIGN_OR_RETURN(const double all, scaling.Positive("mscale_all_dim", 1));
    otherwise = mscale(m) / mscale(all);
  }
  return scaling.Positive("attention_factor", otherwise);
}

// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor per frequency, one list for short and one for long inputs.
absl::Status ScaleLongRope(const Scaling& scaling, int64_t max_positions, const std::vector<double>& inv_freq,
                           Rope& rope) {
  ASSIGN_OR_RETURN(rope.original_positions, scaling.OriginalPositions(max_positions));
  const nlohmann::json& block = *scaling.checkpoint.config().find(scaling.block);  // it named the type
  for (const bool is_short : {true, false}) {
    const char* key = is_short ? "short_factor" : "long_factor";
    std::vector<float>* dst = is_short ? &rope.inv_freq : &rope.long_inv_freq;
    const auto list = block.find(key);
    if (list == block.end() || !list->is_array() || list->size() != inv_freq.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: ", scaling.Key(key), " is not a list of ", inv_freq.size(), " numbers"));
    }
    dst->clear();
    for (const auto& divisor : *list) {
      const double d = divisor.is_number() ? divisor.get<double>() : 0;
      if (!(d > 0) || !std::isfinite(d)) {
        return absl::InvalidArgumentError(
            absl::StrCat("config.json: ", scaling.Key(key), " holds something that is not a positive number"));
      }
      dst->push_back(static_cast<float>(inv_freq[dst->size()] / d));
    }
  }
  const double original = static_cast<double>(rope.original_positions);
  ASSIGN_OR_RETURN(const double given, scaling.Positive("factor", static_cast<double>(max_positions) / original));
  const double factor = scaling.checkpoint.Has("original_max_position_embeddings")
                            ? static_cast<double>(max_positions) / original
                            : given;
  const double otherwise = factor <= 1 || original <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  ASSIGN_OR_RETURN(rope.attention_factor, scaling.Positive("attention_factor", otherwise));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Rope> ReadRope(const Checkpoint& checkpoint, int64_t head_dim, int64_t max_positions) {
  const Scaling scaling{checkpoint, checkpoint.Has("rope_scaling") ? "rope_scaling" : "rope_parameters"};
  if (checkpoint.Has(scaling.block)) {
    const nlohmann::json& block = *checkpoint.config().find(scaling.block);
    if (!block.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat("config.json: ", scaling.block, " is not an object"));
    }
    for (const auto& [key, value] : block.items()) {
      if (!value.is_object()) continue;
      return absl::UnimplementedError(absl::StrCat("config.json: ", scaling.block, " differs by layer type (",
                                                   Quoted(key), "); one for all layers is supported"));
    }
  }
  ASSIGN_OR_RETURN(double theta, checkpoint.Float("rope_theta", 10000));
  ASSIGN_OR_RETURN(theta, checkpoint.Float(scaling.Key("rope_theta"), theta));
  if (!(theta > 1)) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: rope_theta is ", theta, "; it must be above 1"));
  }
  ASSIGN_OR_RETURN(double part, checkpoint.Float("partial_rotary_factor", 1));
  ASSIGN_OR_RETURN(part, checkpoint.Float(scaling.Key("partial_rotary_factor"), part));
  if (!(part > 0 && part <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: partial_rotary_factor is ", part, "; it must be above 0 and at most 1"));
  }
  Rope rope{.theta = theta, .block = scaling.block};
  rope.rotary_dim = static_cast<int64_t>(static_cast<double>(head_dim) * part);
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", rope.rotary_dim, " of the ", head_dim,
                                                   " dimensions of a head would turn; it takes an even number"));
  }
  std::vector<double> inv_freq;
  inv_freq.reserve(static_cast<size_t>(rope.rotary_dim / 2));
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    inv_freq.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim)));
  }

  std::string& type = rope.type;
  ASSIGN_OR_RETURN(type, checkpoint.String(scaling.Key("type"), "default"));  // the older key
  ASSIGN_OR_RETURN(type, checkpoint.String(scaling.Key("rope_type"), type));
  if (type == "linear") {
    ASSIGN_OR_RETURN(const double factor, scaling.Positive("factor", 0));
    for (double& f : inv_freq) f /= factor;
  } else if (type == "dynamic") {
    ASSIGN_OR_RETURN(rope.dynamic_factor, scaling.Positive("factor", 0));
    ASSIGN_OR_RETURN(rope.original_positions, scaling.OriginalPositions(max_positions));
    if (rope.rotary_dim == 2) rope.dynamic_factor = 0;  // its one frequency, theta^0, never changes
  } else if (type == "llama3") {
    RETURN_IF_ERROR(ScaleLlama3(scaling, max_positions, inv_freq));
  } else if (type == "yarn") {
    ASSIGN_OR_RETURN(rope.attention_factor, ScaleYarn(scaling, theta, max_positions, inv_freq));
  } else if (type == "longrope" || type == "su") {
    RETURN_IF_ERROR(ScaleLongRope(scaling, max_positions, inv_freq, rope));
    return rope;
  } else if (type != "default") {
    return absl::UnimplementedError(absl::StrCat("config.json: ", scaling.block, " has the type ", Quoted(type),
                                                 "; known are default, linear, dynamic, llama3, yarn and longrope"));
  }
  rope.inv_freq.assign(inv_freq.begin(), inv_freq.end());
  return rope;
}

}  // namespace quant::huggingface

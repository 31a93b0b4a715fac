// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/driver.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "worker/calibrate/cross_moment.h"
#include "worker/calibrate/hessian.h"
#include "worker/graph/routing.h"
#include "worker/graph/subgraph.h"
#include "worker/quantize/language/awq_block.h"
#include "worker/quantize/language/output_check.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

constexpr size_t kHoldOutEvery = 8;
constexpr double kFewTokens = 0.05;  // of an expert's fair share: worth a word

// Samples that judge: every eighth; none where there are fewer.
bool HeldOut(size_t sample, size_t samples) {
  return samples >= kHoldOutEvery && sample % kHoldOutEvery == kHoldOutEvery - 1;
}

std::span<const float> Floats(const Tensor& t) { return t.data<float>(); }

absl::Status AtValue(const absl::Status& status, const std::string& value, size_t sample) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("input '", value, "', sample ", sample, ": ", status.message()));
}

// The moments of one input over a set of samples.
struct Moments {
  HessianMatrix hessian;
  std::optional<CrossMomentMatrix> cross;  // with the original model's; not gathered where it does not run beside
};

class MomentsBuilder {
 public:
  static absl::StatusOr<MomentsBuilder> Create(int64_t cols, bool cross) {
    MomentsBuilder b;
    ASSIGN_OR_RETURN(b.hessian_, Hessian::Create(cols));
    if (cross) {
      ASSIGN_OR_RETURN(b.cross_, CrossMoment::Create(cols));
    }
    return b;
  }
  absl::Status Add(const Tensor& x, const Tensor* original) {
    const int64_t tokens = x.elements() / hessian_->cols();
    RETURN_IF_ERROR(hessian_->Add(Floats(x), tokens));
    return cross_.has_value() ? cross_->Add(Floats(*original), Floats(x), tokens) : absl::OkStatus();
  }
  Moments Finish() && {
    Moments m{.hessian = std::move(*hessian_).Finish(), .cross = {}};
    if (cross_.has_value()) m.cross = std::move(*cross_).Finish();
    return m;
  }

 private:
  std::optional<Hessian> hessian_;
  std::optional<CrossMoment> cross_;
};

// What is known of one input: over the samples to learn from, and over those held out, where there are any.
struct InputMoments {
  Moments fit;
  std::optional<Moments> judge;

  LayerInputs Layers() const {
    const Moments& other = judge.has_value() ? *judge : fit;
    LayerInputs inputs(fit.hessian, other.hessian);
    if (fit.cross.has_value()) inputs.fit_cross = &*fit.cross;
    if (other.cross.has_value()) inputs.judge_cross = &*other.cross;
    return inputs;
  }
};

// Works on one block; made anew for each.
class BlockWork {
 public:
  // `original` is the block as it was; null where the original model does not run beside.
  BlockWork(DecoderBlock block, const DecoderBlock* original, const HiddenStates& hidden, TokenWindows windows,
            const DriverOptions& options, const ProgressFn& progress)
      : block_(std::move(block)),
        original_(original),
        hidden_(hidden),
        windows_(windows),
        options_(options),
        progress_(progress) {}

  absl::StatusOr<BlockResult> Run() {
    const std::vector<InputGroup> groups = block_.Groups();
    for (const InputGroup& g : groups) {
      for (const Linear& l : g.linears) methods_[l.name] = options_.method_of(l);
    }
    total_ = 1.0 + static_cast<double>(groups.size());
    RETURN_IF_ERROR(CountRouted());
    RETURN_IF_ERROR(Scale(groups));
    std::map<std::string, InputMoments> all;
    if (!options_.true_sequential) {
      ASSIGN_OR_RETURN(all, Gather(groups));
    }
    for (const InputGroup& group : groups) {
      std::map<std::string, InputMoments> own;
      if (options_.true_sequential) {
        ASSIGN_OR_RETURN(own, Gather({&group, 1}));
      }
      const auto& moments = options_.true_sequential ? own : all;
      std::optional<LayerInputs> inputs;
      if (const auto it = moments.find(group.input); it != moments.end()) {
        inputs.emplace(it->second.Layers());
        inputs->layers_left = group.linears.size();
      }
      for (const Linear& linear : group.linears) {
        RETURN_IF_ERROR(Quantize(linear, inputs.has_value() ? &*inputs : nullptr));
      }
      ++done_;
    }
    // In graph order, whatever the order of the groups.
    std::stable_sort(result_.layers.begin(), result_.layers.end(),
                     [&](const QuantizedLayer& a, const QuantizedLayer& b) {
                       return order_[a.outcome.name] < order_[b.outcome.name];
                     });
    return std::move(result_);
  }

  const DecoderBlock& block() const { return block_; }

 private:
  absl::Status Say(std::string_view what) { return Tell(progress_, done_ / total_, what, Layers()); }
  // Of this block.
  Counted Layers() const {
    return {static_cast<int64_t>(result_.layers.size()), static_cast<int64_t>(methods_.size()), "layers"};
  }

  // How many of the samples' tokens go to each expert of a mixture, before anything is quantized.
  absl::Status CountRouted() {
    const std::map<std::string, std::string> shares = RoutedLinears(block_.graph());
    std::map<std::string, int64_t> tokens;  // by share
    for (const auto& [linear, share] : shares) tokens[share] = 0;
    if (tokens.empty()) return absl::OkStatus();
    std::vector<std::string> values;
    values.reserve(tokens.size());
    for (const auto& [share, count] : tokens) values.push_back(share);
    ASSIGN_OR_RETURN(BlockRunner runner, block_.Runner(values, options_.threads));
    int64_t all = 0;
    for (size_t s = 0; s < windows_.size(); ++s) {
      RETURN_IF_ERROR(Say(absl::StrCat("tokens of the experts in window ", s)));
      ASSIGN_OR_RETURN(const std::span<const Tensor> out, runner.Run(hidden_, s, windows_[s]));
      for (size_t i = 0; i < values.size(); ++i) {
        const std::span<const float> share = Floats(out[i]);
        tokens[values[i]] += std::count_if(share.begin(), share.end(), [](float v) { return v != 0; });
      }
      all += static_cast<int64_t>(windows_[s].size());
    }
    int64_t routed = 0;
    for (const auto& [share, count] : tokens) routed += count;
    const double fair = static_cast<double>(routed) / static_cast<double>(tokens.size());
    std::vector<std::string> few;
    for (const auto& [share, count] : tokens) {
      if (static_cast<double>(count) < kFewTokens * fair) few.push_back(absl::StrCat(share, " (", count, ")"));
    }
    if (!few.empty()) {
      result_.notes.push_back(absl::StrCat(few.size(), " of ", tokens.size(), " experts got few of the ", all,
                                           " calibration tokens, so that these say little of what they will see; their "
                                           "statistics are of all tokens: ",
                                           absl::StrJoin(few, ", ")));
    }
    for (const auto& [linear, share] : shares) routed_[linear] = tokens[share];
    return absl::OkStatus();
  }

  // AWQ's equivalent scales, before anything is quantized.
  absl::Status Scale(std::span<const InputGroup> groups) {
    std::vector<InputGroup> scaled;
    for (const InputGroup& g : groups) {
      const bool any =
          std::any_of(g.linears.begin(), g.linears.end(), [&](const Linear& l) { return methods_[l.name].scaled; });
      if (any) scaled.push_back(g);
    }
    if (scaled.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(auto moments, Gather(scaled));
    ASSIGN_OR_RETURN(const OutputCheck check,
                     OutputCheck::Create(block_, hidden_, windows_, CheckSamples(), options_.threads));
    for (const InputGroup& g : scaled) {
      const LinearMethod& method = methods_[g.linears[0].name];
      RETURN_IF_ERROR(Say(absl::StrCat("scales of ", g.linears[0].name)));
      DecoderBlock scaled_block = block_;
      std::map<std::string, Tensor> changed;
      ASSIGN_OR_RETURN(std::string note, ScaleGroup(&scaled_block.graph(), g, moments.at(g.input).fit.hessian, method,
                                                    options_.threads, &changed));
      if (!changed.empty()) {
        weight_only::GridOptions grid = method.grid;
        grid.search = weight_only::ScaleSearch::kMinMax;  // as in the search
        ASSIGN_OR_RETURN(const double with, check.Error(scaled_block, g, grid));
        ASSIGN_OR_RETURN(const double without, check.Error(block_, g, grid));
        if (with < without) {
          block_ = std::move(scaled_block);
          for (auto& [name, tensor] : changed) result_.changed[name] = std::move(tensor);
        } else {
          note = absl::StrFormat("%s: not scaled, the block's outputs would be further off (%.3g against %.3g)",
                                 g.linears[0].name, with, without);
        }
      }
      if (!note.empty()) result_.notes.push_back(std::move(note));
    }
    return absl::OkStatus();
  }

  // On which AWQ's choices are checked: the samples held out, or all where none are, at most 16.
  std::vector<size_t> CheckSamples() const {
    constexpr size_t kMost = 16;
    std::vector<size_t> samples;
    for (size_t s = 0; s < windows_.size() && samples.size() < kMost; ++s) {
      if (HeldOut(s, windows_.size()) || windows_.size() < kHoldOutEvery) samples.push_back(s);
    }
    return samples;
  }

  // The moments of the groups' inputs; of groups that need none, nothing.
  absl::StatusOr<std::map<std::string, InputMoments>> Gather(std::span<const InputGroup> groups) {
    std::vector<std::string> values;
    std::vector<MomentsBuilder> fit, judge;
    std::map<std::string, InputMoments> moments;
    const bool hold_out = windows_.size() >= kHoldOutEvery;
    bool any_cross = false;
    for (const InputGroup& g : groups) {
      const auto is = [&](auto&& what) {
        return std::any_of(g.linears.begin(), g.linears.end(), [&](const Linear& l) { return what(methods_[l.name]); });
      };
      if (!is([](const LinearMethod& m) { return NeedsData(m); })) continue;
      // AWQ's scales change what an input is: it is not compared with the original's.
      const bool cross = original_ != nullptr &&
                         is([](const LinearMethod& m) { return m.kind == LinearMethod::Kind::kGptq && !m.scaled; });
      any_cross = any_cross || cross;
      values.push_back(g.input);
      for (std::vector<MomentsBuilder>* builders : {&fit, &judge}) {
        if (builders == &judge && !hold_out) continue;
        ASSIGN_OR_RETURN(MomentsBuilder b, MomentsBuilder::Create(g.linears[0].cols, cross));
        builders->push_back(std::move(b));
      }
    }
    if (values.empty()) return moments;
    ASSIGN_OR_RETURN(BlockRunner runner, block_.Runner(values, options_.threads));
    std::optional<BlockRunner> original;
    if (any_cross) {
      ASSIGN_OR_RETURN(original, original_->Runner(values, options_.threads));
    }
    for (size_t s = 0; s < windows_.size(); ++s) {
      const double fraction = static_cast<double>(s) / static_cast<double>(windows_.size());
      RETURN_IF_ERROR(Tell(progress_, (done_ + 0.8 * fraction) / total_,
                           absl::StrCat("inputs of ", groups[0].linears[0].name), Layers()));
      ASSIGN_OR_RETURN(const std::span<const Tensor> y, runner.Run(hidden_, s, windows_[s]));
      std::span<const Tensor> x;
      if (original.has_value()) {
        ASSIGN_OR_RETURN(x, original->Run(hidden_, windows_.size() + s, windows_[s]));
      }
      std::vector<MomentsBuilder>& builders = HeldOut(s, windows_.size()) ? judge : fit;
      for (size_t i = 0; i < y.size(); ++i) {
        RETURN_IF_ERROR(AtValue(builders[i].Add(y[i], x.empty() ? nullptr : &x[i]), values[i], s));
      }
    }
    for (size_t i = 0; i < values.size(); ++i) {
      InputMoments& m = moments[values[i]];
      m.fit = std::move(fit[i]).Finish();
      if (hold_out) m.judge = std::move(judge[i]).Finish();
    }
    return moments;
  }

  absl::Status Quantize(const Linear& linear, LayerInputs* inputs) {
    const LinearMethod& method = methods_[linear.name];
    order_[linear.name] = linear.node;
    QuantizedLayer layer;
    layer.outcome = {.name = linear.name,
                     .op = "MatMul",
                     .method = "fp32",
                     .parameters = linear.rows * linear.cols,
                     .output = linear.output};
    if (const auto it = routed_.find(linear.name); it != routed_.end()) layer.outcome.routed_tokens = it->second;
    if (method.kind == LinearMethod::Kind::kKeep) {
      layer.outcome.fallback = method.reason;
      result_.layers.push_back(std::move(layer));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Say(linear.name));
    // The graph's initializer: AWQ may have changed it.
    ASSIGN_OR_RETURN(const std::vector<float> weights, LinearWeights(block_.graph(), linear));
    absl::StatusOr<LinearResult> quantized =
        QuantizeLinear(method, {weights, linear.rows, linear.cols}, inputs, options_.threads);
    if (!quantized.ok()) {
      return absl::Status(quantized.status().code(),
                          absl::StrCat("layer '", linear.name, "': ", quantized.status().message()));
    }
    if (!quantized->note.empty()) result_.notes.push_back(absl::StrCat(linear.name, ": ", quantized->note));
    RETURN_IF_ERROR(ReplaceLinear(&block_.graph(), linear.name, quantized->weights));
    Describe(*std::move(quantized), &layer);
    result_.layers.push_back(std::move(layer));
    return absl::OkStatus();
  }

  DecoderBlock block_;
  const DecoderBlock* original_;
  const HiddenStates& hidden_;
  TokenWindows windows_;
  const DriverOptions& options_;
  const ProgressFn& progress_;
  std::map<std::string, LinearMethod> methods_;
  std::map<std::string, int> order_;
  std::map<std::string, int64_t> routed_;  // tokens, by layer
  BlockResult result_;
  double done_ = 0, total_ = 1;
};

}  // namespace

void Describe(LinearResult result, QuantizedLayer* layer) {
  layer->outcome.method = std::move(result.method);
  layer->outcome.fallback = std::move(result.fallback);
  if (const auto* grouped = std::get_if<GroupedMatrix>(&result.weights)) {
    layer->outcome.bits = grouped->bits;
    layer->outcome.group_size = static_cast<int>(grouped->group_size);
  } else {
    layer->outcome.bits = 4;
    layer->outcome.group_size = static_cast<int>(std::get<CodebookMatrix>(result.weights).block_size);
  }
  layer->relative_error = result.relative_error;
  layer->weights = std::move(result.weights);
}

BlockDriver::BlockDriver(const Graph& model, std::vector<std::string> cuts, TokenWindows windows, DriverOptions options,
                         HiddenStates hidden)
    : model_(&model),
      cuts_(std::move(cuts)),
      windows_(windows),
      options_(std::move(options)),
      hidden_(std::move(hidden)) {}

absl::StatusOr<BlockDriver> BlockDriver::Create(const Graph& model, std::vector<std::string> cuts, TokenWindows windows,
                                                DriverOptions options, const ProgressFn& progress) {
  if (windows.empty()) return absl::InvalidArgumentError("calibration needs at least one sample");
  if (cuts.size() < 2) return absl::InvalidArgumentError("the model has no decoder block");
  std::vector<int64_t> tokens;
  for (const std::vector<int32_t>& w : windows) tokens.push_back(static_cast<int64_t>(w.size()));
  const size_t streams = options.compensate ? 2 : 1;
  if (options.compensate)
    tokens.insert(tokens.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(windows.size()));
  const std::vector<std::string> to = {cuts[0]};
  ASSIGN_OR_RETURN(Graph embedding, Subgraph(model, {}, to));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Executable> executable,
      Compile(std::make_shared<const Graph>(std::move(embedding)), {.threads = options.threads, .max_plans = 2}));
  std::optional<HiddenStates> hidden;
  for (size_t s = 0; s < windows.size(); ++s) {
    const Counted counted{static_cast<int64_t>(s), static_cast<int64_t>(windows.size()), "windows"};
    RETURN_IF_ERROR(Tell(progress, "embedding", counted));
    ASSIGN_OR_RETURN(Tensor ids, Tensor::Allocate(DType::kInt64, {1, tokens[s]}));
    std::copy(windows[s].begin(), windows[s].end(), ids.mutable_data<int64_t>().begin());
    ASSIGN_OR_RETURN(const std::span<const Tensor> out, executable->Run(std::span<const Tensor>(&ids, 1)));
    if (out[0].rank() != 3) return absl::InternalError("the residual stream is not [batch, sequence, hidden]");
    if (!hidden.has_value()) {
      const int64_t budget = options.memory_bytes > 0 ? options.memory_bytes / 4 : INT64_MAX;
      ASSIGN_OR_RETURN(hidden, HiddenStates::Create(tokens, out[0].dim(2), budget, options.spill_folder));
    }
    for (size_t stream = 0; stream < streams; ++stream)
      RETURN_IF_ERROR(hidden->Write(stream * windows.size() + s, out[0]));
  }
  return BlockDriver(model, std::move(cuts), windows, std::move(options), *std::move(hidden));
}

absl::StatusOr<BlockResult> BlockDriver::Next(const ProgressFn& progress) {
  const size_t b = static_cast<size_t>(next_);
  ASSIGN_OR_RETURN(const DecoderBlock original, DecoderBlock::Cut(*model_, cuts_[b], cuts_[b + 1]));
  BlockWork work(original, options_.compensate ? &original : nullptr, hidden_, windows_, options_, progress);
  ASSIGN_OR_RETURN(BlockResult result, work.Run());
  result.block = next_;
  if (next_ + 2 < static_cast<int64_t>(cuts_.size())) {
    RETURN_IF_ERROR(Advance(work.block(), 0));
    if (options_.compensate) RETURN_IF_ERROR(Advance(original, windows_.size()));
  }
  ++next_;
  return result;
}

absl::Status BlockDriver::Advance(const DecoderBlock& block, size_t offset) {
  const std::vector<std::string> out = {block.output()};
  ASSIGN_OR_RETURN(BlockRunner runner, block.Runner(out, options_.threads));
  for (size_t s = 0; s < windows_.size(); ++s) {
    ASSIGN_OR_RETURN(const std::span<const Tensor> values, runner.Run(hidden_, offset + s, windows_[s]));
    RETURN_IF_ERROR(hidden_.Write(offset + s, values[0]));
  }
  return absl::OkStatus();
}

absl::Status BlockDriver::Restore(int64_t next, std::span<const std::byte> state) {
  const std::span<std::byte> own = hidden_.mutable_bytes();
  if (next < 0 || next >= static_cast<int64_t>(cuts_.size()) || state.size() != own.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a resume point at block ", next, " of ", blocks(), " with ",
                                                   state.size(), " bytes of hidden states, not ", own.size()));
  }
  std::copy(state.begin(), state.end(), own.begin());
  next_ = next;
  return absl::OkStatus();
}

}  // namespace quant

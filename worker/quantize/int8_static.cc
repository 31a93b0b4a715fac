// SPDX-License-Identifier: Apache-2.0
// Static INT8: places grids (placement.h), turns weights into int8 initializers behind DequantizeLinear, biases into
// int32 at scale input * weight, and puts a QuantizeLinear/DequantizeLinear pair behind every placed value.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/quantize/bias_correction.h"
#include "worker/quantize/equalize.h"
#include "worker/quantize/int8.h"
#include "worker/quantize/placement.h"
#include "worker/quantize/qdq.h"
#include "worker/quantize/saturation.h"
#include "worker/quantize/selection.h"
#include "worker/quantize/weights.h"

namespace quant {
namespace {

struct Plan {
  std::vector<WeightedLayer> layers;              // all, in graph order
  std::map<std::string, std::string> left_alone;  // node name -> why, "" for the quantized
  std::vector<int> selected;                      // node indices
  Placement placement;
  std::vector<std::string> notes;
};

absl::StatusOr<Plan> MakePlan(const Graph& graph, const StaticInt8Options& options) {
  Plan plan;
  absl::StatusOr<std::map<std::string, std::string>> reasons = SelectLayers(graph, options.layers, &plan.notes);
  if (!reasons.ok()) return reasons.status();
  plan.left_alone = *std::move(reasons);
  plan.layers = FindWeightedLayers(graph);
  for (const WeightedLayer& layer : plan.layers) {
    const Node& node = graph.nodes[static_cast<size_t>(layer.node)];
    std::string& why = plan.left_alone[node.name];
    if (why.empty() && graph.Initializer(node.input(0)) != nullptr) why = "its input is a constant";
    if (why.empty() && node.op_type == "Gemm") {
      if (node.Float("alpha", 1) != 1 || node.Float("beta", 1) != 1 || node.Int("transA", 0) != 0) {
        why = "Gemm with alpha, beta or transA";
      } else if (const Tensor* c = graph.Initializer(node.input(2)); !node.input(2).empty()) {
        const bool per_channel =
            c != nullptr && (c->elements() == 1 || (c->elements() == layer.channels && c->rank() > 0 &&
                                                    c->dim(c->rank() - 1) == layer.channels));
        if (!per_channel) why = "Gemm whose C is not a constant with one value per channel";
      }
    }
    if (why.empty()) plan.selected.push_back(layer.node);
  }
  plan.placement = PlaceGrids(graph, plan.selected);
  return plan;
}

ObserverOptions ObserverFor(const StaticInt8Options& options) {
  ObserverOptions o = options.observer;
  o.symmetric = options.symmetric_activations;
  o.steps = o.symmetric && options.int8_activations ? 254 : 255;
  return o;
}

// The grid of each group of values: it holds the ranges of all its sources.
absl::StatusOr<std::vector<Grid>> FindGrids(const Placement& placement, const Statistics& statistics,
                                            const StaticInt8Options& options) {
  const ObserverOptions observer = ObserverFor(options);
  std::vector<Grid> grids;
  for (const std::vector<std::string>& sources : placement.sources) {
    Range range;
    for (const std::string& v : sources) {
      const auto it = statistics.tensors.find(v);
      if (it == statistics.tensors.end()) {
        return absl::InvalidArgumentError(absl::StrCat("the statistics lack value '", v,
                                                       "'; calibrate the graph that "
                                                       "PrepareStatic returned on what ValuesToCalibrate names"));
      }
      const Range r = FindRange(it->second, observer);
      range = {std::min(range.lo, r.lo), std::max(range.hi, r.hi)};
    }
    const bool s = options.symmetric_activations;
    grids.push_back(options.int8_activations ? GridForRange(range, s ? -127 : -128, 127, s)
                                             : GridForRange(range, 0, 255, s));
  }
  return grids;
}

// What one layer becomes.
struct LayerPlan {
  const WeightedLayer* layer;
  QuantizedWeights weights;
  std::vector<float> bias;  // empty: none
  float input_scale = 1;
};

class StaticQuantizer {
 public:
  StaticQuantizer(const Graph& graph, Plan plan, std::vector<Grid> grids, const StaticInt8Options& options)
      : graph_(graph), plan_(std::move(plan)), grids_(std::move(grids)), options_(options) {}

  absl::Status QuantizeLayers(const SaturationCensus& census);
  absl::StatusOr<QuantizedModel> Build() const;

  std::vector<LayerPlan>& layer_plans() { return layer_plans_; }
  const Plan& plan() const { return plan_; }
  const std::vector<Grid>& grids() const { return grids_; }
  std::map<std::string, std::string>& remarks() { return remarks_; }

 private:
  absl::StatusOr<LayerPlan> QuantizeLayer(const WeightedLayer& layer, int bits) const;
  void PlaceActivations(Graph* g) const;

  const Graph& graph_;
  Plan plan_;
  std::vector<Grid> grids_;
  const StaticInt8Options& options_;
  std::vector<LayerPlan> layer_plans_;
  std::map<std::string, std::string> remarks_;  // node name -> what its report should say
};

absl::StatusOr<LayerPlan> StaticQuantizer::QuantizeLayer(const WeightedLayer& layer, int bits) const {
  const Node& node = graph_.nodes[static_cast<size_t>(layer.node)];
  const Tensor& weights = *graph_.Initializer(node.input(1));
  LayerPlan out{.layer = &layer, .weights = {}, .bias = {}};
  out.input_scale = grids_[static_cast<size_t>(plan_.placement.grid_of.at(node.input(0)))].scale;
  WeightOptions w{.granularity = options_.weight_granularity, .symmetric = options_.symmetric_weights, .bits = bits};
  // With groups, axis 1 of a ConvTranspose's weights holds the channels of one group: its bias cannot follow.
  const bool grouped_transpose = node.op_type == "ConvTranspose" && node.Int("group", 1) > 1;
  if (grouped_transpose) w.granularity = WeightGranularity::kPerTensor;
  std::vector<float> floors;
  if (const Tensor* bias = graph_.Initializer(node.input(2)); bias != nullptr) {
    absl::StatusOr<std::vector<float>> b = ToFloat(*bias);
    if (!b.ok()) return b.status();
    out.bias = *std::move(b);
    if (out.bias.size() == 1 && layer.channels > 1) out.bias.assign(static_cast<size_t>(layer.channels), out.bias[0]);
    floors.assign(w.granularity == WeightGranularity::kPerChannel ? static_cast<size_t>(layer.channels) : 1, 0.0f);
    for (size_t c = 0; c < out.bias.size(); ++c) {
      float& f = floors[floors.size() == 1 ? 0 : c];
      f = std::max(f, BiasScaleFloor(out.bias[c], out.input_scale));
    }
  }
  absl::StatusOr<QuantizedWeights> q = QuantizeWeights(weights, layer.channel_axis, w, floors);
  if (!q.ok()) return absl::Status(q.status().code(), absl::StrCat("layer '", node.name, "': ", q.status().message()));
  out.weights = *std::move(q);
  return out;
}

absl::Status StaticQuantizer::QuantizeLayers(const SaturationCensus& census) {
  std::set<int> selected(plan_.selected.begin(), plan_.selected.end());
  for (const WeightedLayer& layer : plan_.layers) {
    if (!selected.contains(layer.node)) continue;
    const Node& node = graph_.nodes[static_cast<size_t>(layer.node)];
    absl::StatusOr<LayerPlan> p = QuantizeLayer(layer, options_.reduce_range == ReduceRange::kAlways ? 7 : 8);
    if (!p.ok()) return p.status();
    if (options_.reduce_range == ReduceRange::kAlways) remarks_[node.name] = "7-bit weights: reduce_range is always";
    if (options_.reduce_range == ReduceRange::kAuto) {
      const Grid& grid = grids_[static_cast<size_t>(plan_.placement.grid_of.at(node.input(0)))];
      absl::StatusOr<double> share = census.Share(node, p->weights, grid);
      if (!share.ok()) return share.status();
      if (*share > 0) {
        p = QuantizeLayer(layer, 7);
        if (!p.ok()) return p.status();
        remarks_[node.name] = absl::StrCat("7-bit weights: ", *share * 100,
                                           " % of the 8-bit pair sums seen in calibration exceed 16 bits on this CPU");
      }
    }
    layer_plans_.push_back(*std::move(p));
  }
  return absl::OkStatus();
}

void StaticQuantizer::PlaceActivations(Graph* g) const {
  QdqBuilder qdq(g);
  // The pair goes right behind the value's producer; graph inputs come first.
  std::vector<Node> nodes;
  const auto place = [&](const std::string& v) {
    const auto it = plan_.placement.grid_of.find(v);
    if (it == plan_.placement.grid_of.end()) return;
    const DType type = options_.int8_activations ? DType::kInt8 : DType::kUInt8;
    qdq.AppendPair(v, grids_[static_cast<size_t>(it->second)], absl::StrCat("grid", it->second), type, &nodes);
  };
  for (const ValueInfo& input : g->inputs) place(input.name);
  for (Node& n : g->nodes) {
    const std::vector<std::string> outputs = n.outputs;
    nodes.push_back(std::move(n));
    for (const std::string& o : outputs) place(o);
  }
  g->nodes = std::move(nodes);
}

absl::StatusOr<QuantizedModel> StaticQuantizer::Build() const {
  QuantizedModel out;
  out.graph = graph_;
  Graph& g = out.graph;
  std::map<int, const LayerPlan*> by_node;
  for (const LayerPlan& p : layer_plans_) by_node[p.layer->node] = &p;

  const GraphIndex index(graph_);
  for (const WeightedLayer& layer : plan_.layers) {
    const Node& node = graph_.nodes[static_cast<size_t>(layer.node)];
    LayerOutcome o{.name = node.name, .op = node.op_type, .method = "fp32", .parameters = layer.parameters};
    o.output = OutputBehindActivation(graph_, index, node);
    if (const auto it = by_node.find(layer.node); it != by_node.end()) {
      o.method = "static";
      o.bits = it->second->weights.bits;
    } else {
      o.fallback = plan_.left_alone.at(node.name);
    }
    if (const auto it = remarks_.find(node.name); it != remarks_.end()) o.fallback = it->second;
    out.layers.push_back(std::move(o));
  }
  // Activations first: their pairs replace uses by name; the weights' nodes are then put before their layers.
  PlaceActivations(&g);
  QdqBuilder qdq(&g);
  std::map<std::string, const LayerPlan*> by_name;
  for (const LayerPlan& p : layer_plans_) by_name[graph_.nodes[static_cast<size_t>(p.layer->node)].name] = &p;
  std::vector<Node> nodes;
  for (Node& n : g.nodes) {
    if (const auto it = by_name.find(n.name); it != by_name.end()) {
      qdq.AppendWeights(it->second->weights, &n, &nodes);
      if (!it->second->bias.empty()) {
        qdq.AppendBias(it->second->bias, it->second->input_scale, it->second->weights, &n, &nodes);
      }
    }
    nodes.push_back(std::move(n));
  }
  g.nodes = std::move(nodes);
  g.RemoveUnused();
  if (absl::Status s = g.Sort(); !s.ok()) return s;
  if (absl::Status s = g.Validate(); !s.ok())
    return absl::InternalError(absl::StrCat("quantized graph: ", s.message()));
  out.notes = plan_.notes;
  return out;
}

}  // namespace

absl::StatusOr<Graph> PrepareStatic(const Graph& graph, const StaticInt8Options& options) {
  Graph prepared = graph;
  if (options.cross_layer_equalization) {
    if (absl::StatusOr<int> n = EqualizeAcrossLayers(&prepared); !n.ok()) return n.status();
  }
  return prepared;
}

absl::StatusOr<std::vector<std::string>> ValuesToCalibrate(const Graph& graph, const StaticInt8Options& options) {
  absl::StatusOr<Plan> plan = MakePlan(graph, options);
  if (!plan.ok()) return plan.status();
  std::vector<std::string> values;
  for (const std::vector<std::string>& sources : plan->placement.sources) {
    values.insert(values.end(), sources.begin(), sources.end());
  }
  std::sort(values.begin(), values.end());
  return values;
}

absl::StatusOr<QuantizedModel> QuantizeStatic(const Graph& graph, const Statistics& statistics, Dataset& data,
                                              const StaticInt8Options& options, const ProgressFn& progress) {
  absl::StatusOr<Plan> plan = MakePlan(graph, options);
  if (!plan.ok()) return plan.status();
  absl::StatusOr<std::vector<Grid>> grids = FindGrids(plan->placement, statistics, options);
  if (!grids.ok()) return grids.status();

  SaturationCensus census;
  if (options.reduce_range == ReduceRange::kAuto && !options.int8_activations) {
    std::vector<std::string> inputs;
    for (const int i : plan->selected) inputs.push_back(graph.nodes[static_cast<size_t>(i)].input(0));
    if (absl::Status s = census.Collect(graph, inputs, data, options.threads, progress); !s.ok()) return s;
  }
  StaticQuantizer quantizer(graph, *std::move(plan), *std::move(grids), options);
  if (absl::Status s = quantizer.QuantizeLayers(census); !s.ok()) return s;
  if (options.bias_correction) {
    std::vector<BiasTarget> targets;
    for (LayerPlan& p : quantizer.layer_plans()) {
      const Node& node = graph.nodes[static_cast<size_t>(p.layer->node)];
      if (node.op_type == "MatMul") continue;  // has no bias input
      targets.push_back({.value = node.outputs[0],
                         .channels = p.weights.scales.size() == 1 && node.op_type == "ConvTranspose"
                                         ? p.layer->channels * node.Int("group", 1)
                                         : p.layer->channels,
                         .bias = &p.bias});
    }
    const auto build = [&]() -> absl::StatusOr<Graph> {
      absl::StatusOr<QuantizedModel> m = quantizer.Build();
      if (!m.ok()) return m.status();
      return std::move(m->graph);
    };
    if (absl::Status s = CorrectBiases(graph, targets, build, data, options.threads, progress); !s.ok()) return s;
  }
  return quantizer.Build();
}

double BitsPerWeight(const Graph& graph, int64_t parameters) {
  int64_t bits = 0;
  std::set<std::string> seen;
  const auto add = [&](const std::string& name) {
    const Tensor* t = graph.Initializer(name);
    if (t != nullptr && seen.insert(name).second) bits += static_cast<int64_t>(t->bytes().size()) * 8;
  };
  const GraphIndex index(graph);
  for (const Node& n : graph.nodes) {
    if (n.op_type != "Conv" && n.op_type != "ConvTranspose" && n.op_type != "Gemm" && n.op_type != "MatMul" &&
        n.op_type != "MatMulInteger" && n.op_type != "ConvInteger") {
      continue;
    }
    add(n.input(1));
    const int p = index.Producer(n.input(1));
    if (p < 0 || graph.nodes[static_cast<size_t>(p)].op_type != "DequantizeLinear") continue;
    for (const std::string& in : graph.nodes[static_cast<size_t>(p)].inputs) add(in);
  }
  return parameters > 0 ? static_cast<double>(bits) / static_cast<double>(parameters) : 0;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/onnx/lift.h"

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace quant {
namespace {

Tensor Ints(const std::vector<int64_t>& v) { return Tensor::Of<int64_t>({static_cast<int64_t>(v.size())}, v); }

absl::Status Unsupported(const Node& node, std::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat("node '", node.name, "' (", node.op_type, ") ", std::string(what), ": not supported"));
}

// Rewrites node by node into a new list.
class Lifter {
 public:
  explicit Lifter(Graph& graph) : graph_(graph), from_(graph.opset) {
    for (const ValueInfo& v : graph.inputs) {
      names_.insert(v.name);
      types_[v.name] = &v;
    }
    for (const auto& [name, v] : graph.value_info) types_[name] = &v;
    for (const auto& [name, t] : graph.initializers) names_.insert(name);
    for (const Node& n : graph.nodes) {
      names_.insert(n.name);
      names_.insert(n.outputs.begin(), n.outputs.end());
      uses_.insert(n.inputs.begin(), n.inputs.end());
    }
    for (const ValueInfo& v : graph.outputs) uses_.insert(v.name);
  }

  absl::Status Run() {
    std::vector<Node> nodes = std::move(graph_.nodes);
    for (Node& n : nodes) {
      RETURN_IF_ERROR(n.domain.empty() ? Lift(n) : absl::OkStatus());
      out_.push_back(std::move(n));
    }
    graph_.nodes = std::move(out_);
    return absl::OkStatus();
  }

 private:
  // Changes `n` in place; nodes to stand before it go to out_.
  absl::Status Lift(Node& n) {
    const std::string& op = n.op_type;
    if (op == "ImageScaler" || op == "Affine" || op == "Crop") return Experimental(n);
    if (from_ >= 13) return absl::OkStatus();
    if (op == "BatchNormalization") return BatchNormalization(n);
    if (op == "Dropout") return Dropout(n);
    if (op == "Upsample") return Upsample(n);
    if (op == "Resize") return Resize(n);
    if (op == "Softmax" || op == "LogSoftmax" || op == "Hardmax") return Softmax(n);
    if (op == "Clip" && from_ < 11) return Clip(n);
    if (op == "Slice" && from_ < 10) return Slice(n);
    if (op == "Pad" && from_ < 11) return Pad(n);
    if (op == "TopK" && from_ < 10) return TopK(n);
    if (op == "Scatter") n.op_type = "ScatterElements";
    if (op == "Squeeze" || op == "Unsqueeze" || op == "ReduceSum") return AttributeToInput(n, "axes");
    if (op == "Split") return AttributeToInput(n, "split");
    return absl::OkStatus();
  }

  std::string Unique(const std::string& base) {
    std::string name = base;
    for (int i = 1; !names_.insert(name).second; ++i) name = absl::StrCat(base, "_", i);
    return name;
  }

  std::string Constant(const Node& n, std::string_view what, Tensor value) {
    std::string name = Unique(absl::StrCat(n.outputs[0], "_", std::string(what)));
    graph_.initializers.emplace(name, std::move(value));
    return name;
  }

  // A node before `n` with one new output, which is returned.
  std::string Before(const Node& n, std::string op_type, std::vector<std::string> inputs,
                     std::map<std::string, Attribute> attributes = {}) {
    const std::string name = Unique(absl::StrCat(n.name, "_", op_type));
    const std::string value = Unique(absl::StrCat(n.outputs[0], "_", op_type));
    out_.push_back({.name = name,
                    .op_type = std::move(op_type),
                    .inputs = std::move(inputs),
                    .outputs = {value},
                    .attributes = std::move(attributes)});
    return value;
  }

  const ValueInfo* Type(const std::string& value) const {
    const auto it = types_.find(value);
    return it == types_.end() ? nullptr : it->second;
  }

  // A scalar of the dtype of `like`; float32 when that is not known.
  absl::StatusOr<Tensor> ScalarLike(const std::string& like, float value) const {
    const Tensor* constant = graph_.Initializer(like);
    const ValueInfo* info = Type(like);
    const DType dtype = constant != nullptr ? constant->dtype() : info != nullptr ? info->dtype : DType::kFloat32;
    return Cast(Tensor::Scalar(value), dtype);
  }

  absl::Status AttributeToInput(Node& n, const char* key) {
    if (!n.Has(key)) return absl::OkStatus();
    n.inputs.resize(1);
    n.inputs.push_back(Constant(n, key, Ints(n.Ints(key))));
    n.attributes.erase(key);
    return absl::OkStatus();
  }

  absl::Status BatchNormalization(Node& n) {
    if (n.Int("spatial", 1) != 1) return Unsupported(n, "has spatial=0");
    n.attributes.erase("spatial");
    for (size_t i = 1; i < n.outputs.size(); ++i) {
      if (uses_.contains(n.outputs[i]) && !n.outputs[i].empty()) return Unsupported(n, "is in training mode");
    }
    n.outputs.resize(1);
    return absl::OkStatus();
  }

  absl::Status Dropout(Node& n) {
    n.attributes.erase("ratio");
    // Until 10 the mask had the type of the data, since then it is bool; at inference nobody reads it.
    if (n.outputs.size() > 1 && !n.outputs[1].empty() && uses_.contains(n.outputs[1])) {
      return Unsupported(n, "has a mask that is used");
    }
    n.outputs.resize(1);
    return absl::OkStatus();
  }

  absl::Status Clip(Node& n) {
    n.inputs.resize(1);
    for (const char* key : {"min", "max"}) {
      std::string value;
      if (n.Has(key)) {
        ASSIGN_OR_RETURN(Tensor bound, ScalarLike(n.inputs[0], n.Float(key, 0)));
        value = Constant(n, key, std::move(bound));
        n.attributes.erase(key);
      }
      n.inputs.push_back(std::move(value));
    }
    while (n.inputs.back().empty()) n.inputs.pop_back();
    return absl::OkStatus();
  }

  absl::Status Slice(Node& n) {
    n.inputs.resize(1);
    for (const char* key : {"starts", "ends", "axes"}) {
      if (n.Has(key)) n.inputs.push_back(Constant(n, key, Ints(n.Ints(key))));
      n.attributes.erase(key);
    }
    return absl::OkStatus();
  }

  absl::Status Pad(Node& n) {
    n.inputs.resize(1);
    n.inputs.push_back(Constant(n, "pads", Ints(n.Ints("pads"))));
    if (n.Float("value", 0) != 0) {
      ASSIGN_OR_RETURN(Tensor value, ScalarLike(n.inputs[0], n.Float("value", 0)));
      n.inputs.push_back(Constant(n, "value", std::move(value)));
    }
    n.attributes.erase("pads");
    n.attributes.erase("value");
    return absl::OkStatus();
  }

  absl::Status TopK(Node& n) {
    n.inputs.resize(1);
    n.inputs.push_back(Constant(n, "k", Ints({n.Int("k", 1)})));
    n.attributes.erase("k");
    return absl::OkStatus();
  }

  // Upsample and Resize before 11 map coordinates by x_in = x_out / scale; nearest rounds down, except that ONNX
  // Runtime, the reference in practice, rounds up where every resized axis shrinks.
  absl::Status OldResize(Node& n, const std::string& x, const std::string& scales) {
    bool shrinks = false;
    bool grows = false;
    if (const Tensor* t = graph_.Initializer(scales); t != nullptr) {
      ASSIGN_OR_RETURN(const std::vector<float> s, ToFloat(*t));
      shrinks = std::any_of(s.begin(), s.end(), [](float v) { return v < 1; });
      grows = std::any_of(s.begin(), s.end(), [](float v) { return v > 1; });
    }
    const std::string mode = n.String("mode", "nearest");
    n.op_type = "Resize";
    n.inputs = {x, "", scales};
    n.attributes.clear();
    n.attributes["coordinate_transformation_mode"] = std::string("asymmetric");
    n.attributes["mode"] = mode == "bilinear" ? std::string("linear") : mode;
    if (mode == "nearest") n.attributes["nearest_mode"] = std::string(shrinks && !grows ? "ceil" : "floor");
    return absl::OkStatus();
  }

  absl::Status Upsample(Node& n) {
    std::string scales = n.input(1);
    if (from_ < 9) {
      const std::vector<float> s = n.Floats("scales");
      scales = Constant(n, "scales", Tensor::Of<float>({static_cast<int64_t>(s.size())}, s));
    }
    return OldResize(n, n.input(0), scales);
  }

  absl::Status Resize(Node& n) {
    if (from_ < 11) return OldResize(n, n.input(0), n.input(1));
    if (n.String("coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn") {
      return Unsupported(n, "has coordinate_transformation_mode tf_half_pixel_for_nn");
    }
    // Version 11 wants roi and scales even where they are not used, and takes an empty tensor for "not given".
    for (size_t i = 1; i < n.inputs.size(); ++i) {
      const Tensor* t = graph_.Initializer(n.inputs[i]);
      if (t != nullptr && t->elements() == 0) n.inputs[i].clear();
    }
    while (n.inputs.back().empty()) n.inputs.pop_back();
    return absl::OkStatus();
  }

  // Before 13 Softmax works on the matrix [product of dims before axis, product of dims from axis].
  absl::Status Softmax(Node& n) {
    const int64_t axis = n.Int("axis", 1);
    const ValueInfo* info = Type(n.input(0));
    if (info != nullptr && info->has_shape && !info->shape.empty()) {
      const int64_t rank = static_cast<int64_t>(info->shape.size());
      const int64_t at = axis < 0 ? axis + rank : axis;
      if (at < 0 || at >= rank) {
        return absl::InvalidArgumentError(
            absl::StrCat("node '", n.name, "' (", n.op_type, ") has axis ", axis, " on a value of rank ", rank));
      }
      if (std::all_of(info->shape.begin() + at + 1, info->shape.end(), [](const Dim& d) { return d.value == 1; })) {
        n.attributes["axis"] = at;
        return absl::OkStatus();
      }
    }
    const std::string x = n.input(0);
    const std::string shape = Before(n, "Shape", {x});
    const std::string flat = Before(n, "Flatten", {x}, {{"axis", axis}});
    const std::string result = Before(n, n.op_type, {flat}, {{"axis", int64_t{-1}}});
    n.op_type = "Reshape";
    n.inputs = {result, shape};
    n.attributes.clear();
    return absl::OkStatus();
  }

  absl::Status ScaleAndShift(Node& n, float scale, absl::StatusOr<Tensor> shift) {
    if (!shift.ok()) return shift.status();
    ASSIGN_OR_RETURN(Tensor factor, ScalarLike(n.input(0), scale));
    const std::string scaled = Before(n, "Mul", {n.input(0), Constant(n, "scale", std::move(factor))});
    n.op_type = "Add";
    n.inputs = {scaled, Constant(n, "shift", *std::move(shift))};
    n.attributes.clear();
    return absl::OkStatus();
  }

  // Operators that were never standard: semantics of onnx 1.2 to 1.4, docs/Operators.md, "experimental".
  absl::Status Experimental(Node& n) {
    if (n.inputs.size() != 1) return absl::InvalidArgumentError(absl::StrCat("node '", n.name, "' wants one input"));
    if (n.op_type == "Affine")
      return ScaleAndShift(n, n.Float("alpha", 1), ScalarLike(n.inputs[0], n.Float("beta", 0)));
    if (n.op_type == "ImageScaler") {
      const std::vector<float> bias = n.Floats("bias");
      const Tensor shift = Tensor::Of<float>({static_cast<int64_t>(bias.size()), 1, 1}, bias);
      ASSIGN_OR_RETURN(const Tensor like, ScalarLike(n.inputs[0], 0));
      return ScaleAndShift(n, n.Float("scale", 1), Cast(shift, like.dtype()));
    }
    // Crop: border = left, top, right, bottom; scale = height, width of the result, from the left and top border.
    const std::vector<int64_t> border = n.Ints("border");
    const std::vector<int64_t> size = n.Ints("scale");
    constexpr int64_t kLimit = int64_t{1} << 40;
    const auto bad = [](int64_t v) { return v < 0 || v > kLimit; };
    if (border.size() != 4 || (!size.empty() && size.size() != 2) || std::any_of(border.begin(), border.end(), bad) ||
        std::any_of(size.begin(), size.end(), bad)) {
      return absl::InvalidArgumentError(absl::StrCat("node '", n.name, "' (Crop) has a malformed border or scale"));
    }
    const auto end = [](int64_t b) { return b == 0 ? std::numeric_limits<int64_t>::max() : -b; };
    const std::vector<int64_t> ends = size.empty() ? std::vector<int64_t>{end(border[3]), end(border[2])}
                                                   : std::vector<int64_t>{border[1] + size[0], border[0] + size[1]};
    n.inputs = {n.inputs[0], Constant(n, "starts", Ints({border[1], border[0]})), Constant(n, "ends", Ints(ends)),
                Constant(n, "axes", Ints({2, 3}))};
    n.op_type = "Slice";
    n.attributes.clear();
    return absl::OkStatus();
  }

  Graph& graph_;
  const int64_t from_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> uses_;
  std::unordered_map<std::string, const ValueInfo*> types_;
  std::vector<Node> out_;
};

bool IsReduceWithAxes(const std::string& op) { return op.starts_with("Reduce") && op != "ReduceSum"; }

absl::Status RaiseNode(Graph& graph, Node& n, int64_t from, int64_t to) {
  const auto crosses = [&](int64_t version) { return from < version && to >= version; };
  if (crosses(16) && n.op_type == "RoiAlign" && !n.Has("coordinate_transformation_mode")) {
    n.attributes["coordinate_transformation_mode"] = std::string("output_half_pixel");
  }
  if (crosses(18) && IsReduceWithAxes(n.op_type) && n.Has("axes")) {
    const std::string name = graph.UniqueName(n.name + "_axes");
    graph.initializers.emplace(name, Ints(n.Ints("axes")));
    n.inputs.resize(1);
    n.inputs.push_back(name);
    n.attributes.erase("axes");
  }
  if (crosses(18) && n.op_type == "Split" && n.input(1).empty()) {
    n.attributes["num_outputs"] = static_cast<int64_t>(n.outputs.size());
  }
  if (crosses(20) && n.op_type == "GridSample") {
    const std::string mode = n.String("mode", "bilinear");
    n.attributes["mode"] = mode == "bilinear" ? std::string("linear") : mode == "bicubic" ? std::string("cubic") : mode;
  }
  if (crosses(20) && n.op_type == "DFT") return Unsupported(n, "cannot be raised to opset 20");
  if (crosses(21) && n.op_type == "GroupNormalization") return Unsupported(n, "cannot be raised to opset 21");
  return absl::OkStatus();
}

}  // namespace

absl::Status LiftToOpset13(Graph& graph) {
  RETURN_IF_ERROR(Lifter(graph).Run());
  graph.opset = std::max<int64_t>(graph.opset, 13);
  return absl::OkStatus();
}

absl::Status RaiseOpset(Graph& graph, int64_t target) {
  for (Node& n : graph.nodes) {
    if (n.domain.empty()) RETURN_IF_ERROR(RaiseNode(graph, n, graph.opset, target));
  }
  graph.opset = std::max(graph.opset, target);
  return absl::OkStatus();
}

}  // namespace quant

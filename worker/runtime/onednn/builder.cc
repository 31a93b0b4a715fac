// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/builder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/strings.h"
#include "worker/runtime/op.h"

namespace quant::onednn {
namespace {

// Operators whose outputs are elements of their first input, moved: they work on codes as on real values.
bool OnlyMoves(const Node& node) {
  static const auto& moves = *new std::unordered_set<std::string_view>{
      "Slice", "Split", "Gather", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "GatherElements", "GatherND"};
  return node.domain.empty() && moves.contains(node.op_type);
}

// What planning leaves in the graph although its inputs are constants (infer.h).
bool LeftUnfolded(const Node& node) {
  static const auto& types =
      *new std::unordered_set<std::string_view>{"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose"};
  return types.contains(node.op_type);
}

}  // namespace

PlanBuilder::PlanBuilder(const Graph& graph, const GraphIndex& index, std::shared_ptr<const InferredPlan> shapes,
                         WeightCache& weights, const CompileOptions& options)
    : graph_(graph),
      index_(index),
      shapes_(std::move(shapes)),
      weights_(weights),
      options_(options),
      threads_(options.threads),
      claimed_(graph.nodes.size(), false),
      plan_(std::make_unique<Plan>()) {}

// ---------------------------------------------------------------------------------------------- values

void PlanBuilder::CollectValues() {
  const auto add = [&](const std::string& name) {
    if (name.empty() || ids_.contains(name)) return;
    const auto it = shapes_->values.find(name);
    if (it == shapes_->values.end()) return;
    const TensorDesc* desc = &it->second;
    ids_[name] = static_cast<int>(values_.size());
    Value v;
    v.name = name;
    v.dtype = desc->dtype;
    v.shape = desc->shape;
    v.constant = desc->constant;
    v.elements = 1;
    for (const int64_t d : v.shape) v.elements *= d;
    values_.push_back(std::move(v));
  };
  for (const ValueInfo& v : graph_.inputs) add(v.name);
  for (const auto& [name, tensor] : graph_.initializers) add(name);
  for (const Node& n : graph_.nodes) {
    for (const std::string& out : n.outputs) add(out);
  }
  for (const ValueInfo& v : graph_.outputs) pinned_.insert(Id(v.name));
  for (const std::string& name : options_.taps) {
    if (const int id = Id(name); id >= 0) pinned_.insert(id), untapped_.insert(id);
  }
}

int PlanBuilder::Id(std::string_view name) const {
  const auto it = ids_.find(std::string(name));
  return it == ids_.end() ? -1 : it->second;
}

int PlanBuilder::Out(int node_index, size_t i) const {
  const Node& n = node(node_index);
  return i < n.outputs.size() ? Id(n.outputs[i]) : -1;
}

int PlanBuilder::OnlyConsumer(int id) const {
  if (Pinned(id) || Consumers(id).size() != 1) return -1;
  return Consumers(id)[0];
}

bool PlanBuilder::Available(int id) const {
  if (id < 0) return false;
  const Value& v = value(id);
  return v.has_buffer() || v.codes >= 0 || IsConstant(id);
}

bool PlanBuilder::DeadAfter(int id, std::span<const int> readers) const {
  if (value(id).name.empty() || Pinned(id)) return false;
  for (const int c : Consumers(id)) {
    if (std::find(readers.begin(), readers.end(), c) != readers.end()) continue;
    if (!Claimed(c)) return false;
    // A claimed DequantizeLinear may still be turned into a step.
    if (node(c).op_type == "DequantizeLinear" && !DeadAfter(Out(c), readers)) return false;
  }
  return true;
}

bool PlanBuilder::IsConstant(int id) const {
  if (id < 0) return false;
  if (value(id).constant != nullptr) return true;
  const int producer = Producer(id);
  if (producer < 0) return false;
  const Node& n = node(producer);
  if (!LeftUnfolded(n)) return false;
  for (const std::string& in : n.inputs) {
    if (!in.empty() && !IsConstant(Id(in))) return false;
  }
  return true;
}

absl::StatusOr<const Tensor*> PlanBuilder::Constant(int id) {
  if (!IsConstant(id)) return nullptr;
  if (value(id).constant != nullptr) return value(id).constant;
  const Node& n = node(Producer(id));
  std::vector<const Tensor*> inputs;
  for (const std::string& in : n.inputs) {
    inputs.push_back(nullptr);
    if (in.empty()) continue;
    ASSIGN_OR_RETURN(inputs.back(), Constant(Id(in)));
  }
  ASSIGN_OR_RETURN(std::vector<Tensor> out, EvaluateNode(n, inputs));
  Tensor& kept = owned_constants_[id] = out[0];
  plan_->storage_.push_back(kept);
  value(id).constant = &kept;
  return &kept;
}

std::vector<float> PlanBuilder::ConstantFloats(int id) {
  // A weight matrix behind a Cast: widened for the caller, and kept by nobody.
  if (id >= 0 && value(id).constant == nullptr && value(id).dtype == DType::kFloat32 && IsConstant(id)) {
    const int producer = Producer(id);
    if (node(producer).op_type == "Cast" && IsFloat(value(In(producer, 0)).dtype))
      return ConstantFloats(In(producer, 0));
  }
  const absl::StatusOr<const Tensor*> constant = Constant(id);
  if (!constant.ok() || *constant == nullptr) return {};
  absl::StatusOr<std::vector<float>> floats = ToFloat(**constant);
  return floats.ok() ? *std::move(floats) : std::vector<float>();
}

bool PlanBuilder::NodeGrid(int node_index, Grid* grid) {
  const Node& n = node(node_index);
  const bool quantize = n.op_type == "QuantizeLinear";
  const int codes = quantize ? Out(node_index) : In(node_index, 0);
  if (codes < 0 || n.Int("block_size", 0) != 0) return false;
  if (value(codes).dtype != DType::kUInt8 && value(codes).dtype != DType::kInt8) return false;
  const int real = quantize ? In(node_index, 0) : Out(node_index);
  if (real < 0 || value(real).dtype != DType::kFloat32) return false;
  const std::vector<float> scale = ConstantFloats(In(node_index, 1));
  if (scale.size() != 1 || !(scale[0] > 0)) return false;
  grid->scale = scale[0];
  grid->zero_point = 0;
  if (!n.input(2).empty()) {
    const std::vector<float> zero_point = ConstantFloats(In(node_index, 2));
    if (zero_point.size() != 1) return false;
    grid->zero_point = static_cast<int32_t>(zero_point[0]);
  }
  return true;
}

const QuantizedConstant* PlanBuilder::Quantized(int id) {
  if (id < 0) return nullptr;
  const auto [it, is_new] = quantized_.try_emplace(id);
  if (!is_new) return it->second.get();
  const int producer = Producer(id);
  if (producer < 0 || node(producer).op_type != "DequantizeLinear" || value(id).dtype != DType::kFloat32)
    return nullptr;
  const Node& n = node(producer);
  const int x = In(producer, 0);
  if (n.Int("block_size", 0) != 0) return nullptr;
  const absl::StatusOr<const Tensor*> constant = Constant(x);
  if (!constant.ok() || *constant == nullptr) return nullptr;
  const Tensor& tensor = **constant;
  if (DTypeBits(tensor.dtype()) > 8) return nullptr;
  absl::StatusOr<std::vector<int64_t>> codes = ToInt64(tensor);
  std::vector<float> scales = ConstantFloats(In(producer, 1));
  std::vector<float> zero_points = ConstantFloats(In(producer, 2));
  if (!codes.ok() || scales.empty() || (!n.input(2).empty() && zero_points.size() != scales.size())) return nullptr;

  auto q = std::make_unique<QuantizedConstant>();
  int64_t inner = tensor.elements();
  int64_t count = 1;
  if (scales.size() > 1) {
    int64_t axis = n.Int("axis", 1);
    if (axis < 0) axis += tensor.rank();
    if (axis < 0 || axis >= tensor.rank() ||
        tensor.dim(static_cast<int>(axis)) != static_cast<int64_t>(scales.size())) {
      return nullptr;
    }
    q->axis = static_cast<int>(axis);
    count = tensor.dim(q->axis);
    inner = 1;
    for (int d = q->axis + 1; d < tensor.rank(); ++d) inner *= tensor.dim(d);
  }
  q->codes.resize(codes->size());
  q->fits_s8 = true;
  for (size_t i = 0; i < codes->size(); ++i) {
    const size_t channel = q->axis < 0 ? 0 : static_cast<size_t>(static_cast<int64_t>(i) / inner % count);
    const int32_t zero_point = zero_points.empty() ? 0 : static_cast<int32_t>(zero_points[channel]);
    const int32_t code = static_cast<int32_t>((*codes)[i]) - zero_point;
    q->codes[i] = code;
    q->max_abs = std::max(q->max_abs, std::abs(code));
    q->fits_s8 = q->fits_s8 && code >= -128 && code <= 127;
  }
  q->scales = std::move(scales);
  it->second = std::move(q);
  return it->second.get();
}

// ---------------------------------------------------------------------------------------------- buffers

int PlanBuilder::NewBuffer(int64_t bytes) {
  buffers_.emplace_back();
  buffers_.back().bytes = std::max<int64_t>(bytes, 1);
  return static_cast<int>(buffers_.size()) - 1;
}

int PlanBuilder::Anonymous(DType dtype, Shape shape) {
  Value v;
  v.dtype = dtype;
  v.shape = std::move(shape);
  v.elements = 1;
  for (const int64_t d : v.shape) v.elements *= d;
  values_.push_back(std::move(v));
  return static_cast<int>(values_.size()) - 1;
}

int PlanBuilder::Temporary(int64_t bytes) { return NewBuffer(bytes); }

bool PlanBuilder::BufferIsWritable(int buffer) const {
  const Buffer& b = buffers_[static_cast<size_t>(buffer)];
  return b.fixed == nullptr && b.input < 0;
}

void PlanBuilder::DefineAs(int id, Layout layout, int buffer) {
  Value& v = value(id);
  const bool both = LayoutsCoincide(v.shape);
  if (!v.has_buffer() && v.codes < 0) newly_defined_.push_back(id);
  v.buffer[static_cast<size_t>(layout)] = buffer;
  if (both) v.buffer = {buffer, buffer};
  ++buffers_[static_cast<size_t>(buffer)].values;
}

int PlanBuilder::Define(int id, Layout layout) {
  const int buffer = NewBuffer(DTypeBytes(value(id).dtype, value(id).elements).value_or(0));
  DefineAs(id, layout, buffer);
  return buffer;
}

absl::Status PlanBuilder::Alias(int id, int source) {
  if (value(source).codes >= 0 && !value(source).has_buffer()) {
    // Stay lazy: the codes are seen under the new shape by a value without a name.
    const int codes = value(source).codes;
    ASSIGN_OR_RETURN(const int buffer, Use(codes, Layout::kPlain));
    const int view_id = Anonymous(value(codes).dtype, value(id).shape);
    DefineAs(view_id, Layout::kPlain, buffer);
    DefineDequantized(id, view_id, value(source).grid);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const int buffer, Use(source, Layout::kPlain));
  DefineAs(id, Layout::kPlain, buffer);
  return absl::OkStatus();
}

void PlanBuilder::DefineDequantized(int id, int codes, Grid grid) {
  if (!value(id).has_buffer() && value(id).codes < 0) newly_defined_.push_back(id);
  value(id).codes = codes;
  value(id).grid = grid;
}

Layout PlanBuilder::LayoutOf(int id) const {
  const Value& v = value(id);
  if (v.buffer[0] >= 0) return Layout::kPlain;
  if (v.buffer[1] >= 0) return Layout::kChannelsLast;
  if (v.codes >= 0) return LayoutOf(v.codes);
  return Layout::kPlain;
}

absl::StatusOr<int> PlanBuilder::Use(int id, Layout layout) {
  if (LayoutsCoincide(value(id).shape)) layout = Layout::kPlain;
  const size_t want = static_cast<size_t>(layout);
  if (value(id).buffer[want] >= 0) return value(id).buffer[want];
  if (layout == Layout::kPlain && IsConstant(id)) {
    ASSIGN_OR_RETURN(const Tensor* constant, Constant(id));
    ASSIGN_OR_RETURN(const Tensor tensor, AlignedTensor(*constant));
    plan_->storage_.push_back(tensor);
    const int buffer = NewBuffer(static_cast<int64_t>(tensor.bytes().size()));
    buffers_.back().fixed = const_cast<std::byte*>(tensor.bytes().data());
    ++buffers_.back().values;
    value(id).buffer[0] = buffer;
    return buffer;
  }
  if (!value(id).has_buffer()) {
    if (IsConstant(id)) {
      RETURN_IF_ERROR(Use(id, Layout::kPlain).status());
    } else if (value(id).codes >= 0) {
      RETURN_IF_ERROR(EmitDequantize(id, layout));
      return value(id).buffer[want];
    } else {
      return absl::InternalError(absl::StrCat("value '", value(id).name, "' is used before it is computed"));
    }
  }
  RETURN_IF_ERROR(EmitReorder(id, LayoutOf(id), layout));
  return value(id).buffer[want];
}

// ---------------------------------------------------------------------------------------------- steps

void PlanBuilder::Touch(int buffer) {
  Buffer& b = buffers_[static_cast<size_t>(buffer)];
  const int now = static_cast<int>(plan_->steps_.size());
  if (b.first < 0) b.first = now;
  b.last = now;
}

void PlanBuilder::AddStep(Step step, const std::vector<int>& reads, const std::vector<int>& writes) {
  for (const int b : reads) Touch(b);
  for (const int b : writes) Touch(b);
  plan_->steps_.push_back(std::move(step));
}

void PlanBuilder::AddStep(Step step, std::initializer_list<int> reads, std::initializer_list<int> writes) {
  AddStep(std::move(step), std::vector<int>(reads), std::vector<int>(writes));
}

void PlanBuilder::AddPrimitive(std::string_view node_name, std::string_view what, const dnnl::primitive& primitive,
                               const dnnl::memory::desc& scratchpad, std::vector<Arg> args, int threads) {
  if (scratchpad.get_size() > 0) {
    scratchpad_bytes_ = std::max(scratchpad_bytes_, static_cast<int64_t>(scratchpad.get_size()));
    args.push_back(Arg::Of(DNNL_ARG_SCRATCHPAD, scratchpad, 0));
  }
  std::vector<dnnl_exec_arg_t> exec;
  std::vector<dnnl::memory> own;  // keeps memories without a buffer alive
  std::vector<int> used;
  for (Arg& arg : args) {
    if (arg.buffer >= 0) {
      arg.memory = dnnl::memory(arg.desc, CpuEngine(), DNNL_MEMORY_NONE);
      plan_->memories_.emplace_back(arg.memory, arg.buffer);
      if (arg.buffer != 0) used.push_back(arg.buffer);
    } else {
      own.push_back(arg.memory);
    }
    exec.push_back({arg.key, arg.memory.get()});
  }
  Step step;
  step.node = node_name;
  const char* impl = nullptr;
  dnnl_primitive_desc_query(primitive.get_primitive_desc(), dnnl_query_impl_info_str, 0, static_cast<void*>(&impl));
  step.what = absl::StrCat(AbslView(what), " ", impl ? impl : "?");
  step.threads = threads;
  step.run = [primitive, own = std::move(own), exec = std::move(exec)](Pointers) -> absl::Status {
    const dnnl_status_t status =
        dnnl_primitive_execute(primitive.get(), CpuStream().get(), static_cast<int>(exec.size()), exec.data());
    if (status == dnnl_success) return absl::OkStatus();
    if (status == dnnl_out_of_memory) return absl::ResourceExhaustedError("oneDNN ran out of memory");
    return absl::InternalError(absl::StrCat("oneDNN could not execute a primitive (status ", status, ")"));
  };
  AddStep(std::move(step), used, {});
}

absl::Status PlanBuilder::EmitReorder(int id, Layout from, Layout to) {
  const DType dtype = value(id).dtype;
  const Shape shape = value(id).shape;
  const int src = value(id).buffer[static_cast<size_t>(from)];
  if (value(id).constant != nullptr && HasDnnlType(dtype)) {
    const dnnl::memory packed = weights_.Get(absl::StrCat(value(id).name, "|value"), Desc(dtype, shape, to), [&] {
      return dnnl::memory(Desc(dtype, shape, from), CpuEngine(),
                          const_cast<std::byte*>(value(id).constant->bytes().data()));
    });
    const int buffer = NewBuffer(static_cast<int64_t>(packed.get_desc().get_size()));
    buffers_.back().fixed = static_cast<std::byte*>(packed.get_data_handle());
    ++buffers_.back().values;
    value(id).buffer[static_cast<size_t>(to)] = buffer;
    return absl::OkStatus();
  }
  const int dst = Define(id, to);
  return EmitCopy(*this, value(id).name.empty() ? "(view)" : value(id).name, "reorder", dtype, shape,
                  LayoutStrides(shape, from), src, LayoutStrides(shape, to), dst);
}

// ---------------------------------------------------------------------------------------------- the walk

absl::Status PlanBuilder::EmitTaps() {
  std::vector<int> defined;
  defined.swap(newly_defined_);
  for (const int id : defined) {
    if (untapped_.erase(id) > 0) RETURN_IF_ERROR(EmitTap(id));
  }
  newly_defined_.clear();
  return absl::OkStatus();
}

absl::Status PlanBuilder::EmitTap(int id) {
  ASSIGN_OR_RETURN(const int buffer, Use(id, Layout::kPlain));
  const Value& v = value(id);
  Step step;
  step.node = v.name;
  step.what = "tap";
  step.run = [this_tap = options_.tap, name = v.name, dtype = v.dtype, shape = v.shape,
              bytes = static_cast<size_t>(DTypeBytes(v.dtype, v.elements).value_or(0)),
              buffer](Pointers p) -> absl::Status {
    absl::StatusOr<Tensor> view = Tensor::Borrow(dtype, shape, {p[static_cast<size_t>(buffer)], bytes}, nullptr);
    if (!view.ok()) return view.status();
    return this_tap ? this_tap(name, *view) : absl::OkStatus();
  };
  AddStep(std::move(step), {buffer}, {});
  return absl::OkStatus();
}

absl::Status PlanBuilder::EmitNode(int node_index) {
  const Node& n = node(node_index);
  bool all_constant = true;
  bool all_empty = true;
  for (size_t i = 0; i < n.outputs.size(); ++i) {
    const int out = Out(node_index, i);
    if (out < 0) continue;
    all_constant = all_constant && IsConstant(out);
    all_empty = all_empty && value(out).elements == 0;
  }
  if (all_constant || all_empty) {
    for (size_t i = 0; i < n.outputs.size(); ++i) {
      const int out = Out(node_index, i);
      if (out < 0) continue;
      if (all_constant) {
        newly_defined_.push_back(out);
      } else {
        Define(out, Layout::kPlain);
      }
    }
    return absl::OkStatus();
  }
  if (const Emitter emit = FindEmitter(n.domain, n.op_type)) {
    ASSIGN_OR_RETURN(const bool done, emit(*this, node_index));
    if (done) return absl::OkStatus();
  }
  return EmitReference(node_index);
}

absl::Status PlanBuilder::EmitReference(int node_index) {
  const Node& n = node(node_index);
  const Op* op = FindOp(n.domain, n.op_type);
  if (op == nullptr) return absl::UnimplementedError(absl::StrCat("operator ", n.op_type, " is not supported"));

  // Tensor handles over the buffers, made once the buffers are placed; those over the caller's tensors in each run.
  struct Args {
    std::vector<Tensor> tensors;
    std::vector<const Tensor*> in;
    std::vector<Tensor> out;
    struct FromInput {
      size_t i;
      int buffer;
      DType dtype;
      Shape shape;
      size_t bytes;
    };
    std::vector<FromInput> from_inputs;
  };
  auto args = std::make_shared<Args>();  // shared by the step and by the closure that fills it
  args->tensors.resize(n.inputs.size());
  args->in.resize(n.inputs.size(), nullptr);
  args->out.resize(n.outputs.size());
  std::vector<int> reads, writes;
  struct Fill {
    Tensor* tensor;
    int value, buffer;
  };
  std::vector<Fill> fills;
  const int first = In(node_index, 0);
  const bool on_codes = first >= 0 && OnlyMoves(n) && value(first).codes >= 0 && !value(first).has_buffer();
  const int codes = on_codes ? value(first).codes : -1;
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const int in = on_codes && i == 0 ? codes : In(node_index, i);
    if (in < 0) continue;
    args->in[i] = &args->tensors[i];
    if (IsConstant(in)) {
      ASSIGN_OR_RETURN(const Tensor* constant, Constant(in));
      ASSIGN_OR_RETURN(args->tensors[i], AlignedTensor(*constant));
      continue;
    }
    ASSIGN_OR_RETURN(const int buffer, Use(in, Layout::kPlain));
    reads.push_back(buffer);
    if (buffers_[static_cast<size_t>(buffer)].input >= 0) {
      args->from_inputs.push_back({i, buffer, value(in).dtype, value(in).shape,
                                   static_cast<size_t>(buffers_[static_cast<size_t>(buffer)].bytes)});
      args->from_inputs.back().bytes = static_cast<size_t>(DTypeBytes(value(in).dtype, value(in).elements).value_or(0));
    } else {
      fills.push_back({&args->tensors[i], in, buffer});
    }
  }
  for (size_t i = 0; i < n.outputs.size(); ++i) {
    int out = Out(node_index, i);
    if (out < 0) continue;
    if (on_codes) {
      const int real = out;
      out = Anonymous(value(codes).dtype, value(real).shape);
      DefineDequantized(real, out, value(first).grid);
    }
    const int buffer = Define(out, Layout::kPlain);
    writes.push_back(buffer);
    fills.push_back({&args->out[i], out, buffer});
  }
  after_placing_.push_back([this, args, fills] {  // run by Place()
    for (const Fill& f : fills) {
      const Value& v = value(f.value);
      const size_t bytes = static_cast<size_t>(DTypeBytes(v.dtype, v.elements).value_or(0));
      *f.tensor = Tensor::Over(v.dtype, v.shape, {plan_->pointers_[static_cast<size_t>(f.buffer)], bytes});
    }
  });
  Step step;
  step.node = n.name;
  step.what = absl::StrCat(n.op_type, " plain loops");
  step.run = [op, args, &n](Pointers p) -> absl::Status {
    for (const Args::FromInput& f : args->from_inputs) {
      absl::StatusOr<Tensor> t = Tensor::Borrow(f.dtype, f.shape, {p[static_cast<size_t>(f.buffer)], f.bytes}, nullptr);
      if (!t.ok()) return t.status();
      args->tensors[f.i] = *std::move(t);
    }
    return op->compute(n, args->in, std::span(args->out));
  };
  AddStep(std::move(step), reads, writes);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Plan>> PlanBuilder::Build() {
  return Guard("making the plan", [&]() -> absl::StatusOr<std::unique_ptr<Plan>> {
    CollectValues();
    NewBuffer(1);  // buffer 0: the scratchpad that primitives share
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      const int id = Id(graph_.inputs[i].name);
      if (id < 0 || value(id).constant != nullptr) continue;
      const int buffer = Define(id, Layout::kPlain);
      buffers_[static_cast<size_t>(buffer)].input = static_cast<int>(i);
    }
    RETURN_IF_ERROR(EmitTaps());
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const int n = static_cast<int>(i);
      if (Claimed(n)) continue;
      absl::Status status = EmitNode(n);
      if (status.ok()) {
        Claim(n);
        status = EmitTaps();
      }
      if (!status.ok()) {
        return absl::Status(status.code(),
                            absl::StrCat("node '", node(n).name, "' (", node(n).op_type, "): ", status.message()));
      }
    }
    RETURN_IF_ERROR(DefineOutputs());
    RETURN_IF_ERROR(Place());
    plan_->keep_ = shapes_;
    return std::move(plan_);
  });
}

absl::Status PlanBuilder::DefineOutputs() {
  for (const ValueInfo& info : graph_.outputs) {
    const int id = Id(info.name);
    if (id < 0) return absl::InternalError(absl::StrCat("output '", info.name, "' has no shape"));
    ASSIGN_OR_RETURN(int buffer, Use(id, Layout::kPlain));
    if (!BufferIsWritable(buffer) && plan_->outputs_.size() < graph_.outputs.size()) {
      bool is_output = false;  // of two outputs that share bytes, the second finds the first one's storage
      for (const Tensor& t : plan_->outputs_) {
        is_output = is_output || t.bytes().data() == buffers_[static_cast<size_t>(buffer)].fixed;
      }
      if (!is_output) {  // the caller's input or a constant: outputs are memory of their own
        const size_t bytes = static_cast<size_t>(DTypeBytes(value(id).dtype, value(id).elements).value_or(0));
        const int copy = Temporary(static_cast<int64_t>(bytes));
        Step step;
        step.node = info.name;
        step.what = "copy to output";
        step.run = [buffer, copy, bytes](Pointers p) {
          if (bytes > 0) std::memcpy(p[static_cast<size_t>(copy)], p[static_cast<size_t>(buffer)], bytes);
          return absl::OkStatus();
        };
        AddStep(std::move(step), {buffer}, {copy});
        buffer = copy;
      }
    }
    Buffer& b = buffers_[static_cast<size_t>(buffer)];
    if (b.fixed == nullptr) {
      ASSIGN_OR_RETURN(Tensor storage, Tensor::Allocate(DType::kUInt8, {b.bytes}));
      b.fixed = storage.mutable_bytes().data();
      plan_->storage_.push_back(storage);
    }
    const size_t bytes = static_cast<size_t>(DTypeBytes(value(id).dtype, value(id).elements).value_or(0));
    plan_->outputs_.push_back(Tensor::Over(value(id).dtype, value(id).shape, {b.fixed, bytes}));
  }
  return absl::OkStatus();
}

absl::Status PlanBuilder::Place() {
  constexpr int64_t kAlign = 64;
  const auto round_up = [](int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; };
  buffers_[0].bytes = std::max<int64_t>(scratchpad_bytes_, 1);
  buffers_[0].first = 0;
  buffers_[0].last = static_cast<int>(plan_->steps_.size());

  std::vector<Buffer*> order;
  for (Buffer& b : buffers_) {
    if (b.fixed == nullptr && b.input < 0) order.push_back(&b);
    if (b.first < 0) b.first = b.last = 0;
  }
  std::stable_sort(order.begin(), order.end(), [](const Buffer* a, const Buffer* b) { return a->bytes > b->bytes; });
  int64_t total = 0;
  std::vector<Buffer*> placed;  // by offset
  for (Buffer* b : order) {
    int64_t offset = 0;
    for (const Buffer* other : placed) {
      if (other->last < b->first || b->last < other->first) continue;
      if (offset + b->bytes <= other->offset) break;
      offset = std::max(offset, round_up(other->offset + other->bytes));
    }
    b->offset = offset;
    total = std::max(total, offset + round_up(b->bytes));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), b,
                                   [](const Buffer* x, const Buffer* y) { return x->offset < y->offset; }),
                  b);
  }
  if (total > options_.max_plan_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the model needs ", total, " bytes for intermediate values with these input shapes; the limit is ",
                     options_.max_plan_bytes, ": use a smaller batch or raise the memory limit"));
  }
  ASSIGN_OR_RETURN(Tensor arena, Tensor::Allocate(DType::kUInt8, {total}));
  plan_->pointers_.resize(buffers_.size(), nullptr);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    Buffer& b = buffers_[i];
    if (b.input >= 0) {
      plan_->inputs_.push_back({static_cast<int>(i), static_cast<size_t>(b.input)});
    } else {
      plan_->pointers_[i] = b.fixed != nullptr ? b.fixed : arena.mutable_bytes().data() + b.offset;
    }
  }
  plan_->storage_.insert(plan_->storage_.begin(), std::move(arena));
  plan_->bytes_ = total;
  for (auto& [memory, buffer] : plan_->memories_) {
    if (buffers_[static_cast<size_t>(buffer)].input >= 0) {
      plan_->input_memories_.emplace_back(memory, buffer);
    } else {
      memory.set_data_handle(plan_->pointers_[static_cast<size_t>(buffer)]);
    }
  }
  for (const auto& fill : after_placing_) fill();
  return absl::OkStatus();
}

}  // namespace quant::onednn

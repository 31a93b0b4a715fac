// SPDX-License-Identifier: Apache-2.0
// LSTM, GRU and RNN over [sequence, batch, input] (layout 0), forward, reverse or bidirectional.
//
// LSTM (gates in the order i, o, f, c):      GRU (gates in the order z, r, h):
//   i = f(Wi x + Ri h + Pi.C + b)              z = f(Wz x + Rz h + b)      r = f(Wr x + Rr h + b)
//   f = f(Wf x + Rf h + Pf.C + b)              n = g(Wh x + Rh (r.h) + b), or with linear_before_reset
//   c = g(Wc x + Rc h + b)                         g(Wh x + r.(Rh h + Rbh) + Wbh)
//   C = f.C + i.c                              h = (1 - z).n + z.h
//   o = f(Wo x + Ro h + Po.C + b)            RNN: h = f(W x + R h + b)
//   h = o.h(C)
// Everything is in double but what is stored in Y, Y_h and Y_c.
#include <algorithm>
#include <cmath>
#include <string>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

using Activation = double (*)(double);

Activation FindActivation(const std::string& name) {
  if (name == "Sigmoid")
    return [](double x) { return x >= 0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x)); };
  if (name == "Tanh") return [](double x) { return std::tanh(x); };
  if (name == "Relu") return [](double x) { return x > 0 ? x : 0.0; };
  return nullptr;
}

enum class Cell { kLstm, kGru, kRnn };

struct Recurrence {
  Cell cell;
  int64_t gates, states;  // gate matrices; states kept (h, and c of LSTM)
  int64_t sequence, batch, input, hidden, directions;
  bool reverse;                         // the (first) direction runs backwards
  double clip;                          // 0: none
  std::vector<Activation> activations;  // per direction: 3, 2 or 1
};

template <typename GetShape>
absl::StatusOr<Recurrence> GetRecurrence(const Node& node, GetShape shape) {
  Recurrence r;
  r.cell = node.op_type == "LSTM" ? Cell::kLstm : node.op_type == "GRU" ? Cell::kGru : Cell::kRnn;
  r.gates = r.cell == Cell::kLstm ? 4 : r.cell == Cell::kGru ? 3 : 1;
  r.states = r.cell == Cell::kLstm ? 2 : 1;
  const std::string direction = node.String("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional")
    return Invalid("direction is '", direction, "'");
  r.directions = direction == "bidirectional" ? 2 : 1;
  r.reverse = direction == "reverse";
  r.clip = static_cast<double>(node.Float("clip", 0));
  if (node.Int("layout", 0) != 0) return Unsupported("layout 1 (batch first) is not supported");
  if (node.Int("input_forget", 0) != 0) return Unsupported("input_forget is not supported");
  const Shape &x = shape(0), &w = shape(1), &rw = shape(2);
  if (x.size() != 3 || w.size() != 3 || rw.size() != 3)
    return Invalid("X, W and R must have rank 3, they are ", ShapeString(x), ", ", ShapeString(w), ", ",
                   ShapeString(rw));
  r.sequence = x[0], r.batch = x[1], r.input = x[2], r.hidden = rw[2];
  if (w != Shape{r.directions, r.gates * r.hidden, r.input} ||
      rw != Shape{r.directions, r.gates * r.hidden, r.hidden} || node.Int("hidden_size", r.hidden) != r.hidden ||
      r.hidden < 1) {
    return Invalid("X ", ShapeString(x), ", W ", ShapeString(w), " and R ", ShapeString(rw), " do not fit ",
                   r.directions, " directions of ", r.gates, " gates of hidden size ",
                   node.Int("hidden_size", r.hidden));
  }
  std::vector<std::string> names;
  if (const auto it = node.attributes.find("activations"); it != node.attributes.end()) {
    if (const auto* v = std::get_if<std::vector<std::string>>(&it->second)) names = *v;
  }
  const std::vector<std::string> usual = r.cell == Cell::kLstm  ? std::vector<std::string>{"Sigmoid", "Tanh", "Tanh"}
                                         : r.cell == Cell::kGru ? std::vector<std::string>{"Sigmoid", "Tanh"}
                                                                : std::vector<std::string>{"Tanh"};
  if (names.empty()) {
    for (int64_t d = 0; d < r.directions; ++d) names.insert(names.end(), usual.begin(), usual.end());
  }
  if (names.size() != usual.size() * static_cast<size_t>(r.directions))
    return Invalid("activations has ", names.size(), " values");
  for (const std::string& name : names) {
    r.activations.push_back(FindActivation(name));
    if (r.activations.back() == nullptr) return Unsupported("activation '", name, "' is not supported");
  }
  return r;
}

absl::Status CheckOptional(Descs in, size_t i, DType dtype, const Shape& shape, const char* what) {
  const TensorDesc* d = At(in, i);
  if (d == nullptr || (d->shape == shape && d->dtype == dtype)) return absl::OkStatus();
  return Invalid(what, " is ", DTypeName(d->dtype), " ", ShapeString(d->shape), "; ", DTypeName(dtype), " ",
                 ShapeString(shape), " is needed");
}

absl::Status InferRecurrent(const Node& node, Descs in, OutDescs out) {
  const bool lstm = node.op_type == "LSTM";
  RETURN_IF_ERROR(CheckArity(node, in, 3, lstm ? 8 : 6, lstm ? 3 : 2));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  ASSIGN_OR_RETURN(const Recurrence r, GetRecurrence(node, [&](size_t i) -> const Shape& { return in[i]->shape; }));
  const DType type = in[0]->dtype;
  for (size_t i = 1; i < 3; ++i) RETURN_IF_ERROR(CheckSameType(*in[0], *in[i]));
  const Shape state = {r.directions, r.batch, r.hidden};
  RETURN_IF_ERROR(CheckOptional(in, 3, type, {r.directions, 2 * r.gates * r.hidden}, "B"));
  RETURN_IF_ERROR(CheckOptional(in, 4, DType::kInt32, {r.batch}, "sequence_lens"));
  RETURN_IF_ERROR(CheckOptional(in, 5, type, state, "initial_h"));
  RETURN_IF_ERROR(CheckOptional(in, 6, type, state, "initial_c"));
  RETURN_IF_ERROR(CheckOptional(in, 7, type, {r.directions, 3 * r.hidden}, "P"));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].dtype = type;
    out[i].shape = i == 0 ? Shape{r.sequence, r.directions, r.batch, r.hidden} : state;
  }
  return absl::OkStatus();
}

// One direction of one sample.
class CellRunner {
 public:
  CellRunner(const Recurrence& r, const Node& node, Inputs in, int64_t direction)
      : r_(r),
        linear_before_reset_(node.Int("linear_before_reset", 0) != 0),
        w_(Ptr<float>(*in[1]) + direction * r.gates * r.hidden * r.input),
        rw_(Ptr<float>(*in[2]) + direction * r.gates * r.hidden * r.hidden),
        bias_(At(in, 3) ? Ptr<float>(*in[3]) + direction * 2 * r.gates * r.hidden : nullptr),
        peephole_(At(in, 7) ? Ptr<float>(*in[7]) + direction * 3 * r.hidden : nullptr),
        f_(&r.activations[static_cast<size_t>(direction) * (r.activations.size() / static_cast<size_t>(r.directions))]),
        h(static_cast<size_t>(r.hidden)),
        c(static_cast<size_t>(r.hidden)),
        gate_(static_cast<size_t>(r.gates * r.hidden)),
        reset_(static_cast<size_t>(r.hidden)) {}

  void Step(const float* x) {
    const int64_t n = r_.hidden;
    for (int64_t g = 0; g < r_.gates * n; ++g) {
      // The last gate of GRU reads h through the reset gate: it is completed below.
      const bool candidate = r_.cell == Cell::kGru && g >= 2 * n;
      gate_[static_cast<size_t>(g)] =
          Dot(w_ + g * r_.input, x, r_.input) + Bias(g) + (candidate ? 0.0 : Recurrent(g, h) + RecurrentBias(g));
    }
    if (r_.cell == Cell::kLstm) {
      for (int64_t k = 0; k < n; ++k) {
        const size_t i = static_cast<size_t>(k);
        const double in = f_[0](Clip(Gate(0, k) + Peephole(0, k) * c[i]));
        const double forget = f_[0](Clip(Gate(2, k) + Peephole(2, k) * c[i]));
        c[i] = forget * c[i] + in * f_[1](Clip(Gate(3, k)));
        h[i] = f_[0](Clip(Gate(1, k) + Peephole(1, k) * c[i])) * f_[2](c[i]);
      }
    } else if (r_.cell == Cell::kGru) {
      for (int64_t k = 0; k < n; ++k) {
        const double reset = f_[0](Clip(Gate(1, k)));
        if (linear_before_reset_) {
          gate_[static_cast<size_t>(2 * n + k)] += reset * (Recurrent(2 * n + k, h) + RecurrentBias(2 * n + k));
        }
        reset_[static_cast<size_t>(k)] = reset * h[static_cast<size_t>(k)];
      }
      for (int64_t k = 0; k < n && !linear_before_reset_; ++k) {
        gate_[static_cast<size_t>(2 * n + k)] += Recurrent(2 * n + k, reset_) + RecurrentBias(2 * n + k);
      }
      for (int64_t k = 0; k < n; ++k) {
        const size_t i = static_cast<size_t>(k);
        const double update = f_[0](Clip(Gate(0, k)));
        h[i] = (1 - update) * f_[1](Clip(Gate(2, k))) + update * h[i];
      }
    } else {
      for (int64_t k = 0; k < n; ++k) h[static_cast<size_t>(k)] = f_[0](Clip(Gate(0, k)));
    }
  }

 private:
  template <typename B>
  static double Dot(const float* a, const B* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
  }
  double Recurrent(int64_t row, const std::vector<double>& v) const {
    return Dot(rw_ + row * r_.hidden, v.data(), r_.hidden);
  }
  double Bias(int64_t row) const { return bias_ ? static_cast<double>(bias_[row]) : 0.0; }
  double RecurrentBias(int64_t row) const {
    return bias_ ? static_cast<double>(bias_[r_.gates * r_.hidden + row]) : 0.0;
  }
  double Gate(int64_t g, int64_t k) const { return gate_[static_cast<size_t>(g * r_.hidden + k)]; }
  double Peephole(int64_t g, int64_t k) const {
    return peephole_ ? static_cast<double>(peephole_[g * r_.hidden + k]) : 0.0;
  }
  double Clip(double v) const { return r_.clip > 0 ? std::clamp(v, -r_.clip, r_.clip) : v; }

  const Recurrence& r_;
  const bool linear_before_reset_;
  const float *w_, *rw_, *bias_, *peephole_;
  const Activation* f_;

 public:
  std::vector<double> h, c;

 private:
  std::vector<double> gate_, reset_;
};

absl::Status ComputeRecurrent(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Recurrence r, GetRecurrence(node, [&](size_t i) -> const Shape& { return in[i]->shape(); }));
  for (size_t i = 0; i < out.size(); ++i) {
    if (Wanted(out, i)) std::fill_n(MutablePtr<float>(out[i]), out[i].elements(), 0.0f);
  }
  const auto store = [&](size_t output, int64_t at, const std::vector<double>& v) {
    if (!Wanted(out, output)) return;
    for (size_t i = 0; i < v.size(); ++i)
      MutablePtr<float>(out[output])[at + static_cast<int64_t>(i)] = static_cast<float>(v[i]);
  };
  for (int64_t d = 0; d < r.directions; ++d) {
    CellRunner cell(r, node, in, d);
    for (int64_t b = 0; b < r.batch; ++b) {
      const int64_t state = (d * r.batch + b) * r.hidden;
      for (int64_t k = 0; k < r.hidden; ++k) {
        const size_t i = static_cast<size_t>(k);
        cell.h[i] = At(in, 5) ? static_cast<double>(Ptr<float>(*in[5])[state + k]) : 0.0;
        cell.c[i] = At(in, 6) ? static_cast<double>(Ptr<float>(*in[6])[state + k]) : 0.0;
      }
      int64_t length = r.sequence;
      if (At(in, 4)) {
        length = Ptr<int32_t>(*in[4])[b];
        if (length < 0 || length > r.sequence)
          return Invalid("sequence_lens has ", length, " for a sequence of ", r.sequence);
      }
      const bool backwards = r.reverse || d == 1;
      for (int64_t step = 0; step < length; ++step) {
        const int64_t t = backwards ? length - 1 - step : step;
        cell.Step(Ptr<float>(*in[0]) + (t * r.batch + b) * r.input);
        store(0, ((t * r.directions + d) * r.batch + b) * r.hidden, cell.h);
      }
      store(1, state, cell.h);
      store(2, state, cell.c);
    }
  }
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"GRU", {InferRecurrent, ViaFloat<ComputeRecurrent>}},
    {"LSTM", {InferRecurrent, ViaFloat<ComputeRecurrent>}},
    {"RNN", {InferRecurrent, ViaFloat<ComputeRecurrent>}},
};

}  // namespace

std::span<const OpEntry> RecurrentOps() { return kOps; }

}  // namespace quant::ops

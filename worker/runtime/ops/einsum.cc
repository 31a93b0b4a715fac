// SPDX-License-Identifier: Apache-2.0
// Einsum with explicit or implicit output; an ellipsis stands for broadcast leading dimensions. One loop nest over all
// labels: the plainest definition, for small products.
#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

// Labels are letters, and '0'..'7' for the dimensions of an ellipsis, '0' being the last.
struct Equation {
  std::vector<std::string> inputs;
  std::string output;
};

// "b...i" with `rank` dimensions: the ellipsis written out.
absl::StatusOr<std::string> Expand(const std::string& term, size_t rank) {
  const size_t dots = term.find("...");
  std::string labels = term;
  if (dots != std::string::npos) {
    if (term.size() - 3 > rank)
      return Invalid("term '", term, "' has more labels than its input has dimensions (", rank, ")");
    const size_t count = rank - (term.size() - 3);
    std::string filled;
    for (size_t i = count; i-- > 0;) filled.push_back(static_cast<char>('0' + i));
    labels = term.substr(0, dots) + filled + term.substr(dots + 3);
  }
  for (const char c : labels) {
    if (!std::isalnum(static_cast<unsigned char>(c)))
      return Invalid("term '", term, "' has the character '", std::string(1, c), "'");
  }
  if (labels.size() != rank) return Invalid("term '", term, "' does not fit an input of rank ", rank);
  return labels;
}

template <typename GetShape>
absl::StatusOr<Equation> Parse(const Node& node, size_t count, GetShape shape) {
  std::string text = node.String("equation", "");
  std::erase(text, ' ');
  for (const char c : text) {
    if (std::isdigit(static_cast<unsigned char>(c))) return Invalid("equation '", text, "' has a digit");
  }
  const size_t arrow = text.find("->");
  std::string left = text.substr(0, arrow);
  Equation e;
  size_t ellipsis = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t comma = left.find(',');
    if ((comma == std::string::npos) != (i + 1 == count))
      return Invalid("equation '", text, "' does not have ", count, " terms");
    const Shape& s = shape(i);
    if (s.size() > kMaxRank) return Invalid("input ", i, " has rank ", s.size());
    ASSIGN_OR_RETURN(std::string labels, Expand(left.substr(0, comma), s.size()));
    for (const char c : labels) {
      if (std::isdigit(static_cast<unsigned char>(c))) ellipsis = std::max(ellipsis, static_cast<size_t>(c - '0') + 1);
    }
    e.inputs.push_back(std::move(labels));
    left = comma == std::string::npos ? "" : left.substr(comma + 1);
  }
  if (arrow != std::string::npos) {
    const std::string right = text.substr(arrow + 2);
    const size_t letters = right.find("...") == std::string::npos ? right.size() : right.size() - 3 + ellipsis;
    ASSIGN_OR_RETURN(e.output, Expand(right, letters));
  } else {  // the ellipsis, then the labels that occur once, in alphabetical order
    for (size_t i = ellipsis; i-- > 0;) e.output.push_back(static_cast<char>('0' + i));
    std::string all;
    for (const std::string& labels : e.inputs) all += labels;
    std::sort(all.begin(), all.end());
    for (const char c : all) {
      if (std::isalpha(static_cast<unsigned char>(c)) && std::count(all.begin(), all.end(), c) == 1)
        e.output.push_back(c);
    }
  }
  for (const char c : e.output) {
    if (std::count(e.output.begin(), e.output.end(), c) > 1)
      return Invalid("output label '", std::string(1, c), "' repeats in '", text, "'");
  }
  return e;
}

// Where a label's size stands.
size_t Slot(char label) { return static_cast<unsigned char>(label); }

// Size of each label; -1 for one that no input has.
template <typename GetShape>
absl::StatusOr<std::array<int64_t, 256>> LabelSizes(const Equation& e, GetShape shape) {
  std::array<int64_t, 256> sizes;
  sizes.fill(-1);
  for (size_t i = 0; i < e.inputs.size(); ++i) {
    for (size_t d = 0; d < e.inputs[i].size(); ++d) {
      int64_t& size = sizes[Slot(e.inputs[i][d])];
      const int64_t n = shape(i)[d];
      if (size < 0 || size == 1) {
        size = n;
      } else if (n != 1 && n != size) {
        return Invalid("label '", e.inputs[i].substr(d, 1), "' is ", size, " in one input and ", n, " in another");
      }
    }
  }
  for (const char c : e.output) {
    if (sizes[Slot(c)] < 0) return Invalid("output label '", std::string(1, c), "' is in no input");
  }
  return sizes;
}

absl::Status InferEinsum(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 64));
  for (const TensorDesc* d : in) {
    if (d == nullptr) return Invalid("an input is absent");
    RETURN_IF_ERROR(CheckFloat(*d, "an input"));
    RETURN_IF_ERROR(CheckSameType(*in[0], *d));
  }
  const auto shape = [&](size_t i) -> const Shape& { return in[i]->shape; };
  ASSIGN_OR_RETURN(const Equation e, Parse(node, in.size(), shape));
  ASSIGN_OR_RETURN(const auto sizes, LabelSizes(e, shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape.clear();
  for (const char c : e.output) out[0].shape.push_back(sizes[Slot(c)]);
  return absl::OkStatus();
}

absl::Status ComputeEinsum(const Node& node, Inputs in, Outputs out) {
  const auto shape = [&](size_t i) -> const Shape& { return in[i]->shape(); };
  ASSIGN_OR_RETURN(const Equation e, Parse(node, in.size(), shape));
  ASSIGN_OR_RETURN(const auto sizes, LabelSizes(e, shape));
  if (out[0].elements() == 0) return absl::OkStatus();
  std::string summed;
  for (const std::string& labels : e.inputs) {
    for (const char c : labels) {
      if (e.output.find(c) == std::string::npos && summed.find(c) == std::string::npos) summed.push_back(c);
    }
  }
  // Strides of each input along the labels of a list; a label twice in one input walks its diagonal.
  const auto strides_of = [&](const std::string& list) {
    std::vector<std::vector<int64_t>> strides(in.size(), std::vector<int64_t>(list.size(), 0));
    for (size_t i = 0; i < in.size(); ++i) {
      const std::vector<int64_t> own = BroadcastStrides(shape(i), shape(i));
      for (size_t d = 0; d < e.inputs[i].size(); ++d) {
        const size_t at = list.find(e.inputs[i][d]);
        if (at != std::string::npos) strides[i][at] += own[d];
      }
    }
    return strides;
  };
  std::vector<int64_t> summed_dims;
  for (const char c : summed) summed_dims.push_back(sizes[Slot(c)]);
  const bool empty = std::find(summed_dims.begin(), summed_dims.end(), 0) != summed_dims.end();
  const auto outer = strides_of(e.output), inner = strides_of(summed);
  float* y = MutablePtr<float>(out[0]);
  Odometer at(out[0].shape(), outer);
  do {
    double sum = 0;
    Odometer term(summed_dims, inner);
    do {
      if (empty) break;
      double product = 1;
      for (size_t i = 0; i < in.size(); ++i)
        product *= static_cast<double>(Ptr<float>(*in[i])[at.offset(i) + term.offset(i)]);
      sum += product;
    } while (term.Next());
    *y++ = static_cast<float>(sum);
  } while (at.Next());
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Einsum", {InferEinsum, ViaFloat<ComputeEinsum>}},
};

}  // namespace

std::span<const OpEntry> EinsumOps() { return kOps; }

}  // namespace quant::ops

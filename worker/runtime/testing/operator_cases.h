// SPDX-License-Identifier: Apache-2.0
// Runs the single-operator models that ort_operator_cases.py makes and compares the outputs with ONNX Runtime's.
#ifndef QUANT_WORKER_RUNTIME_TESTING_OPERATOR_CASES_H_
#define QUANT_WORKER_RUNTIME_TESTING_OPERATOR_CASES_H_

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/runtime/executable.h"

namespace quant::testing {

// Makes cases with the script in the source tree into `folder` (created): `rounds` of every family, choices from
// `seed`. UNAVAILABLE when Python, onnx or onnxruntime is missing.
absl::Status MakeOperatorCases(const std::filesystem::path& folder, int seed, int rounds);

// One random input for a real model and its outputs, into `npz`. UNAVAILABLE as above; INTERNAL when ONNX Runtime does
// not run the model.
absl::Status MakeModelCase(const std::filesystem::path& model, const std::filesystem::path& npz, int seed);

// The models of the folder, sorted.
std::vector<std::filesystem::path> ListOperatorCases(const std::filesystem::path& folder);

using MakeExecutable = std::function<absl::StatusOr<std::unique_ptr<Executable>>(std::shared_ptr<const Graph>)>;

// Imports the model, runs it on the inputs of `npz` and compares every output: dtype and shape exactly, integers and
// booleans exactly but for `integer_slack` units, floats within tolerance * (1 + the largest |value|).
// OK, or an error that names the output, the worst element and both values.
absl::Status RunCase(const std::filesystem::path& model, const std::filesystem::path& npz, const MakeExecutable& make,
                     double tolerance, int integer_slack = 0);

// The largest difference between two tensors of one shape, relative to 1 + max |want|; NaN equals NaN, an infinity its
// equal; otherwise infinite. INVALID_ARGUMENT when dtype or shape differ.
absl::StatusOr<double> WorstDifference(const Tensor& got, const Tensor& want);

}  // namespace quant::testing

#endif  // QUANT_WORKER_RUNTIME_TESTING_OPERATOR_CASES_H_

// SPDX-License-Identifier: Apache-2.0
// NumPy's array file, .npy versions 1.0, 2.0 and 3.0, read without copying.
//
// Layout (numpy/lib/_format_impl.py): "\x93NUMPY", major, minor, header length (u16 in 1.0, u32 since), header, data.
// The header is a Python dictionary literal with descr, fortran_order and shape; it is parsed by a fixed grammar, never
// evaluated. Read: bool, int8..int64, uint8..uint64, float16, float32, float64, little-endian, row-major.
#ifndef QUANT_WORKER_FORMATS_NPY_NPY_H_
#define QUANT_WORKER_FORMATS_NPY_NPY_H_

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

// The array in `bytes`, borrowed from `owner`. INVALID_ARGUMENT: malformed, truncated or too long, big-endian,
// column-major with more than one axis over 1, objects (pickle), structures, strings, dates, complex numbers; the
// message says how to save it instead.
absl::StatusOr<Tensor> ParseNpy(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

// Maps `file`; it stays mapped while the tensor lives. Errors as above (with the file's name) and as MappedFile::Open.
absl::StatusOr<Tensor> ReadNpy(const std::filesystem::path& file);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_NPY_NPY_H_

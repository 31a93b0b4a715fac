// SPDX-License-Identifier: Apache-2.0
// RETURN_IF_ERROR(expr) and ASSIGN_OR_RETURN(target, expr) for functions that return absl::Status or StatusOr.
#ifndef QUANT_COMMON_STATUS_MACROS_H_
#define QUANT_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Evaluates `expr` (an absl::Status) once and returns it from the enclosing function when it is an error.
#define RETURN_IF_ERROR(expr)                                                           \
  do {                                                                                  \
    if (absl::Status quant_status_ = (expr); !quant_status_.ok()) return quant_status_; \
  } while (false)

// Evaluates `expr` (an absl::StatusOr<T>) once; returns its status on error, else moves the value to `target`, which
// may declare a variable: ASSIGN_OR_RETURN(FileDigest digest, DigestFile(path)). Parenthesise an `expr` or type that
// has a comma outside parentheses. Two statements: not for the body of an `if` without braces.
#define ASSIGN_OR_RETURN(target, ...) \
  QUANT_ASSIGN_OR_RETURN_(QUANT_CONCAT_(quant_status_or_, __LINE__), target, (__VA_ARGS__))

#define QUANT_CONCAT_INNER_(a, b) a##b
#define QUANT_CONCAT_(a, b) QUANT_CONCAT_INNER_(a, b)
#define QUANT_ASSIGN_OR_RETURN_(tmp, target, expr) \
  auto tmp = expr;                                 \
  if (!tmp.ok()) return std::move(tmp).status();   \
  target = *std::move(tmp)

#endif  // QUANT_COMMON_STATUS_MACROS_H_

// SPDX-License-Identifier: Apache-2.0
// Names that nobody else chose: ids of models, datasets and jobs, uploads, request ids.
#ifndef QUANT_COMMON_RANDOM_ID_H_
#define QUANT_COMMON_RANDOM_ID_H_

#include <string>
#include <string_view>

namespace quant {

// `prefix` and then `length` characters of [a-z0-9], each uniform and from the kernel's random source (getrandom).
// 16 characters are 82 bits. Thread-safe.
std::string RandomId(std::string_view prefix, int length = 16);

// True for `prefix` followed by exactly `length` characters of [a-z0-9].
bool IsRandomId(std::string_view s, std::string_view prefix, int length = 16);

}  // namespace quant

#endif  // QUANT_COMMON_RANDOM_ID_H_

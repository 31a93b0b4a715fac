// SPDX-License-Identifier: Apache-2.0
// WriteAt: pwritev(2), all of it.
#ifndef QUANT_COMMON_WRITE_AT_H_
#define QUANT_COMMON_WRITE_AT_H_

#include <cstdint>
#include <string_view>

#include "absl/types/span.h"

namespace quant {

// Writes the pieces one behind the other from `offset` of `fd` on, going on after short writes and signals. 0, or an
// errno value; then the pieces may be written in part.
int WriteAt(int fd, absl::Span<const std::string_view> pieces, int64_t offset);

}  // namespace quant

#endif  // QUANT_COMMON_WRITE_AT_H_

// SPDX-License-Identifier: Apache-2.0
#include "common/write_at.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

namespace quant {

int WriteAt(int fd, absl::Span<const std::string_view> pieces, int64_t offset) {
  constexpr size_t kMost = 64;  // per call; the kernel's limit is 1024
  size_t skip = 0;              // bytes of the first piece that are written
  while (true) {
    while (!pieces.empty() && skip >= pieces[0].size()) {
      skip -= pieces[0].size();
      pieces.remove_prefix(1);
    }
    if (pieces.empty()) return 0;
    std::array<iovec, kMost> parts;
    const size_t count = std::min(pieces.size(), kMost);
    for (size_t i = 0; i < count; ++i) {
      parts[i] = {.iov_base = const_cast<char*>(pieces[i].data()), .iov_len = pieces[i].size()};
    }
    parts[0].iov_base = static_cast<char*>(parts[0].iov_base) + skip;
    parts[0].iov_len -= skip;
    const ssize_t n = ::pwritev(fd, parts.data(), static_cast<int>(count), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    offset += n;
    skip += static_cast<size_t>(n);
  }
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// A file of its own: where the compiler sees these definitions and their callers together it warns of mixed pairs.
#include "worker/runtime/onednn/testing/count_allocations.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace {
bool counting = false;
quant::testing::Allocations counted;
}  // namespace

void* operator new(size_t n, const std::nothrow_t&) noexcept {
  if (counting) {
    counted.bytes += n;
    counted.greatest_bytes = std::max(counted.greatest_bytes, n);
  }
  return std::malloc(std::max<size_t>(n, 1));
}
void* operator new(size_t n) {
  if (void* p = operator new(n, std::nothrow)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace quant::testing {

void StartCountingAllocations() {
  counted = {};
  counting = true;
}

Allocations StopCountingAllocations() {
  counting = false;
  return counted;
}

}  // namespace quant::testing

// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/isa.h"

#include <dnnl.h>

namespace quant {

bool HasExactInt8() {
  // The sets are ordered by inclusion only in part, so the inexact ones are listed.
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_default:
    case dnnl_cpu_isa_sse41:
    case dnnl_cpu_isa_avx:
    case dnnl_cpu_isa_avx2:
    case dnnl_cpu_isa_avx512_core:
      return false;
    default:
      return true;
  }
}

}  // namespace quant

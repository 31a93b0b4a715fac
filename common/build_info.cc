// SPDX-License-Identifier: Apache-2.0
#include "common/build_info.h"

#include "quant_revision.h"

namespace quant {

std::string BuildVersion() { return QUANT_VERSION; }

}  // namespace quant

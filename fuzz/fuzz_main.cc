// SPDX-License-Identifier: Apache-2.0
// libFuzzer's way in. QUANT_FUZZ_TARGET names the target; without a name, or with an unknown one, all are listed.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "fuzz/fuzz_target.h"

namespace {
quant::fuzz::Target target;
}

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const char* const name = std::getenv("QUANT_FUZZ_TARGET");
  const auto found = quant::fuzz::Targets().find(name == nullptr ? "" : name);
  if (found == quant::fuzz::Targets().end()) {
    std::fprintf(stderr, "QUANT_FUZZ_TARGET must be one of:\n");
    for (const auto& [known, unused] : quant::fuzz::Targets()) std::fprintf(stderr, "%s\n", known.c_str());
    std::exit(2);
  }
  target = found->second;
  absl::SetMinLogLevel(absl::LogSeverityAtLeast::kFatal);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  target({reinterpret_cast<const char*>(data), size});
  return 0;
}

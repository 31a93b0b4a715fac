// SPDX-License-Identifier: Apache-2.0
// Which build runs on which instruction set: for --version, worker registration and a report's provenance.
#ifndef QUANT_COMMON_BUILD_INFO_H_
#define QUANT_COMMON_BUILD_INFO_H_

#include <string>

namespace quant {

// "0.1.0+1a2b3c4d5e6f", with ".dirty" when tracked files differed from the commit; "0.1.0" where the source is no git
// checkout. Library quant::build_info, apart from quant::common, since it changes with every commit.
std::string BuildVersion();

// What this machine's CPU and operating system offer to int8 and bfloat16 code, best first: "amx", "avx512_bf16",
// "avx512_vnni", "avx512", "avx_vnni", "avx2", "sse"; "generic" on another architecture. Never above what
// ONEDNN_MAX_CPU_ISA allows, so that it names what oneDNN will use. Names differ where our own kernels give other bits.
// In quant::common.
std::string DetectIsa();

// The same rule on given facts: `cpu` is what the machine has, `max_isa` the variable's value ("" when unset).
std::string CapIsa(const std::string& cpu, const std::string& max_isa);

}  // namespace quant

#endif  // QUANT_COMMON_BUILD_INFO_H_

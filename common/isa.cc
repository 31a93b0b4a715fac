// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/build_info.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quant {
namespace {

// From least to most. oneDNN orders avx_vnni ("AVX2_VNNI") below avx512 ("AVX512_CORE") as well.
constexpr const char* kOrder[] = {"generic", "sse", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"};

size_t Rank(const std::string& isa) {
  return static_cast<size_t>(std::find(std::begin(kOrder), std::end(kOrder), isa) - std::begin(kOrder));
}

// The most that a value of ONEDNN_MAX_CPU_ISA allows (oneDNN 3.7, doc/advanced/dispatcher_controls).
std::string Allowed(std::string value) {
  absl::AsciiStrToUpper(&value);
  if (value == "SSE41" || value == "AVX") return "sse";
  if (value == "AVX2") return "avx2";
  if (absl::StartsWith(value, "AVX2_VNNI")) return "avx_vnni";
  if (value == "AVX512_CORE") return "avx512";
  if (value == "AVX512_CORE_VNNI") return "avx512_vnni";
  if (value == "AVX512_CORE_BF16" || value == "AVX512_CORE_FP16" || value == "AVX10_1_512") return "avx512_bf16";
  return "amx";  // unset, DEFAULT, ALL, or one that this list does not know
}

std::string Machine() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return "sse";
  unsigned int eax = 0;
  unsigned int ebx = 0;
  unsigned int ecx = 0;
  unsigned int edx = 0;
  __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx);
  const bool avx_vnni = (eax & (1U << 4)) != 0;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!avx512) return avx_vnni ? "avx_vnni" : "avx2";
  if (!__builtin_cpu_supports("avx512vnni")) return "avx512";
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  const bool amx_int8 = (edx & (1U << 24)) != 0 && (edx & (1U << 25)) != 0;
  uint32_t xcr0 = 0;
  uint32_t xcr0_high = 0;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
  const bool os_saves_tiles = (xcr0 & (3U << 17)) == (3U << 17);
  if (amx_int8 && os_saves_tiles) return "amx";
  return __builtin_cpu_supports("avx512bf16") ? "avx512_bf16" : "avx512_vnni";
#else
  return "generic";
#endif
}

}  // namespace

std::string CapIsa(const std::string& cpu, const std::string& max_isa) {
  return kOrder[std::min(Rank(cpu), Rank(Allowed(max_isa)))];
}

std::string DetectIsa() {
  const char* const max_isa = std::getenv("ONEDNN_MAX_CPU_ISA");
  return CapIsa(Machine(), max_isa == nullptr ? "" : max_isa);
}

}  // namespace quant

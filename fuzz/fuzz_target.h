// SPDX-License-Identifier: Apache-2.0
// Fuzz targets: one function per reader of bytes, called with bytes of any kind. A target must not crash, hang, leak,
// use memory out of proportion, or break an invariant (CHECK). All targets stand in one table, so that one program
// fuzzes any of them and one test replays the corpora of all.
//
//   FUZZ_TARGET(npy, input) { ParseNpy(…); }
#ifndef QUANT_FUZZ_FUZZ_TARGET_H_
#define QUANT_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quant::fuzz {

using Target = void (*)(std::string_view input);

// By name. Filled before main.
std::map<std::string, Target>& Targets();

struct Registration {
  Registration(const char* name, Target target) { Targets()[name] = target; }
};

#define FUZZ_TARGET(name, input)                                                    \
  static void Fuzz_##name(std::string_view input);                                  \
  static const ::quant::fuzz::Registration registration_##name(#name, Fuzz_##name); \
  static void Fuzz_##name(std::string_view input)

// A folder in memory (/dev/shm) for readers that take paths: made once, emptied by each call; goes with the process.
const std::filesystem::path& EmptyFolder();
void WriteTo(const std::filesystem::path& file, std::string_view bytes);

// The parts of `input` between "\n----\n" marks, exactly `count`: missing ones are empty, the last has the rest.
std::vector<std::string_view> Parts(std::string_view input, size_t count);

// A copy of exactly that size on the heap, so that AddressSanitizer sees a read past its end.
struct Copy {
  explicit Copy(std::string_view input);
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

}  // namespace quant::fuzz

#endif  // QUANT_FUZZ_FUZZ_TARGET_H_

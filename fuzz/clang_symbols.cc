// SPDX-License-Identifier: Apache-2.0
// Debian's Abseil is built by g++, which leaves constraints out of the names of templates; clang 19 writes them in.
// These are the names that clang asks for, each a jump to the function that the library has. Only in the preset fuzz,
// x86-64.
#define JUMP(wanted, there) asm(".globl " wanted "\n" wanted ":\n  jmp " there "@PLT\n")

// LogMessage::operator<<(const T&), T by its letter in the names.
#define LOG_MESSAGE(type)                                                                 \
  JUMP("_ZN4absl7debian712log_internal10LogMessagelsI" type                               \
       "TnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_", \
       "_ZN4absl7debian712log_internal10LogMessagelsI" type "Li0EEERS2_RKT_")
LOG_MESSAGE("b");
LOG_MESSAGE("c");
LOG_MESSAGE("i");
LOG_MESSAGE("j");
LOG_MESSAGE("l");
LOG_MESSAGE("m");
LOG_MESSAGE("x");
LOG_MESSAGE("y");
LOG_MESSAGE("f");
LOG_MESSAGE("d");

// Cord(std::string&&)
JUMP(
    "_ZN4absl7debian74CordC1INSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEETnNSt9enable_ifIXsr3std7is_sameIT_S8_"
    "EE5"
    "valueEiE4typeELi0EEEOSA_",
    "_ZN4absl7debian74CordC1INSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEELi0EEEOT_");

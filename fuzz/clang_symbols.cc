// SPDX-License-Identifier: Apache-2.0
// Debian's Abseil is built by g++, which leaves constraints out of the names of templates; clang 19 writes them in. These
// are the names that clang asks for, each a jump to the function that the library has. Only in the preset fuzz, x86-64.

// LogMessage << int
asm(R"(
.globl _ZN4absl7debian712log_internal10LogMessagelsIiTnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_
_ZN4absl7debian712log_internal10LogMessagelsIiTnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_:
  jmp _ZN4absl7debian712log_internal10LogMessagelsIiLi0EEERS2_RKT_@PLT
)");

// LogMessage << long
asm(R"(
.globl _ZN4absl7debian712log_internal10LogMessagelsIlTnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_
_ZN4absl7debian712log_internal10LogMessagelsIlTnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_:
  jmp _ZN4absl7debian712log_internal10LogMessagelsIlLi0EEERS2_RKT_@PLT
)");

// LogMessage << unsigned long
asm(R"(
.globl _ZN4absl7debian712log_internal10LogMessagelsImTnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_
_ZN4absl7debian712log_internal10LogMessagelsImTnNSt9enable_ifIXntsr4absl16HasAbslStringifyIT_EE5valueEiE4typeELi0EEERS2_RKS5_:
  jmp _ZN4absl7debian712log_internal10LogMessagelsImLi0EEERS2_RKT_@PLT
)");

// Cord(std::string&&)
asm(R"(
.globl _ZN4absl7debian74CordC1INSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEETnNSt9enable_ifIXsr3std7is_sameIT_S8_EE5valueEiE4typeELi0EEEOSA_
_ZN4absl7debian74CordC1INSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEETnNSt9enable_ifIXsr3std7is_sameIT_S8_EE5valueEiE4typeELi0EEEOSA_:
  jmp _ZN4absl7debian74CordC1INSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEELi0EEEOT_@PLT
)");

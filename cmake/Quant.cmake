# SPDX-License-Identifier: Apache-2.0
# One interface target carries the flags of our own code; nothing global is set.
add_library(quant_flags INTERFACE)
target_include_directories(quant_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(quant_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
                                             -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(quant_flags INTERFACE -Wthread-safety)
else()
  # g++ 14 warns of std::vector copies that cannot happen; seen, not fatal.
  target_compile_options(quant_flags INTERFACE -Wno-error=array-bounds -Wno-error=stringop-overflow
                                               -Wno-error=stringop-overread)
endif()

# quant_library(NAME SRCS … [HDRS …] [DEPS …] [PRIVATE_DEPS …]): library quant_NAME, used as quant::NAME.
# A library without SRCS is header-only.
function(quant_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;HDRS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(quant_${name} STATIC ${ARG_SRCS} ${ARG_HDRS})
    target_link_libraries(quant_${name} PUBLIC ${ARG_DEPS} PRIVATE quant_flags ${ARG_PRIVATE_DEPS})
    target_include_directories(quant_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  else()
    add_library(quant_${name} INTERFACE ${ARG_HDRS})
    target_link_libraries(quant_${name} INTERFACE ${ARG_DEPS})
    target_include_directories(quant_${name} INTERFACE ${CMAKE_SOURCE_DIR})
  endif()
  add_library(quant::${name} ALIAS quant_${name})
endfunction()

# quant_test(NAME SRCS … DEPS … [DEFINES …] [LABEL unit|integration|slow|fault] [TIMEOUT seconds] [THREADS]): a GoogleTest
# program, one CTest entry per program; nothing where tests are not built. A GTEST_SKIP in every test of it shows as
# skipped. THREADS: our own threads meet in it and it runs clean under ThreadSanitizer; it gets the label `threads` too and
# is part of the target thread_tests.
add_custom_target(thread_tests)
function(quant_test name)
  cmake_parse_arguments(ARG "THREADS" "LABEL;TIMEOUT" "SRCS;DEPS;DEFINES" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE quant_flags ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE ${ARG_DEFINES})
  if(NOT ARG_LABEL)
    set(ARG_LABEL unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if(ARG_THREADS)
    list(APPEND ARG_LABEL threads)
    add_dependencies(thread_tests ${name})
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

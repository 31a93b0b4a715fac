# SPDX-License-Identifier: Apache-2.0
# Everything comes from Debian 13 (deploy/debian/*.txt); nothing is fetched.
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(CURL REQUIRED)
find_package(ZLIB REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(dnnl CONFIG REQUIRED)
find_package(OpenMP REQUIRED)
find_package(hwy CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)

# Debian's ONNX package config exports targets that ask for static archives; the shared libraries are named here.
find_library(ONNX_LIBRARY onnx REQUIRED)
find_library(ONNX_PROTO_LIBRARY onnx_proto REQUIRED)
add_library(quant_onnx_upstream INTERFACE)
target_compile_definitions(quant_onnx_upstream INTERFACE ONNX_ML=1 ONNX_NAMESPACE=onnx)
target_link_libraries(quant_onnx_upstream INTERFACE ${ONNX_LIBRARY} ${ONNX_PROTO_LIBRARY} protobuf::libprotobuf)

# OpenBLAS on OpenMP: CBLAS and LAPACK's factorizations in one library, threads shared with oneDNN.
find_package(PkgConfig REQUIRED)
pkg_check_modules(OPENBLAS REQUIRED openblas)
add_library(quant_openblas INTERFACE)
target_include_directories(quant_openblas SYSTEM INTERFACE ${OPENBLAS_INCLUDE_DIRS})
target_link_libraries(quant_openblas INTERFACE ${OPENBLAS_LINK_LIBRARIES} OpenMP::OpenMP_CXX)

# The sandbox of a job's process.
pkg_check_modules(SECCOMP REQUIRED libseccomp)
add_library(quant_seccomp INTERFACE)
target_include_directories(quant_seccomp SYSTEM INTERFACE ${SECCOMP_INCLUDE_DIRS})
target_link_libraries(quant_seccomp INTERFACE ${SECCOMP_LINK_LIBRARIES})

pkg_check_modules(LIBPQ REQUIRED libpq)
add_library(quant_libpq_upstream INTERFACE)
target_include_directories(quant_libpq_upstream SYSTEM INTERFACE ${LIBPQ_INCLUDE_DIRS})
target_link_libraries(quant_libpq_upstream INTERFACE ${LIBPQ_LINK_LIBRARIES})

find_library(CIVETWEB_LIBRARY civetweb REQUIRED)
add_library(quant_civetweb_upstream INTERFACE)
target_link_libraries(quant_civetweb_upstream INTERFACE ${CIVETWEB_LIBRARY})

# Tokenizers; none of the three brings a CMake package.
find_library(SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(PCRE2_LIBRARY pcre2-8 REQUIRED)
find_library(UTF8PROC_LIBRARY utf8proc REQUIRED)

if(BUILD_TESTING)
  find_package(GTest CONFIG REQUIRED)
endif()
option(QUANT_BENCHMARKS "Build the programs of bench/" OFF)
if(QUANT_BENCHMARKS)
  find_package(benchmark CONFIG REQUIRED)
endif()
# Debian ships Abseil's status matchers as an archive without a CMake target.
if(BUILD_TESTING AND NOT TARGET absl::status_matchers)
  find_library(ABSL_STATUS_MATCHERS_LIBRARY absl_status_matchers REQUIRED)
  add_library(absl::status_matchers INTERFACE IMPORTED)
  target_link_libraries(absl::status_matchers INTERFACE ${ABSL_STATUS_MATCHERS_LIBRARY} GTest::gmock absl::status
                                                        absl::statusor)
endif()

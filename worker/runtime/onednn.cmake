# SPDX-License-Identifier: Apache-2.0
# quant::kernels: our own vector kernels. quant::onednn_backend: plans over oneDNN. quant::runtime: Compile().
quant_library(kernels
  SRCS kernels/decoder.cc kernels/elementwise.cc kernels/linear.cc kernels/transpose.cc
  HDRS kernels/decoder.h kernels/elementwise.h kernels/linear.h kernels/parallel.h kernels/transpose.h
  PRIVATE_DEPS hwy::hwy absl::check absl::log)
# The same bits on every instruction set: no contraction to fused multiply-add.
set_source_files_properties(kernels/elementwise.cc kernels/linear.cc PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")

quant_library(onednn_backend
  SRCS onednn/builder.cc onednn/copy.cc onednn/dnnl_util.cc onednn/dynamic.cc onednn/emit.cc
       onednn/emit_attention.cc onednn/emit_conv.cc onednn/emit_decoder.cc onednn/emit_linear.cc
       onednn/emit_elementwise.cc onednn/emit_matmul.cc onednn/emit_move.cc onednn/emit_pool.cc onednn/emit_quantize.cc
       onednn/emit_shape.cc onednn/fusion.cc onednn/isa.cc onednn/lower.cc onednn/onednn_backend.cc onednn/plan.cc
  HDRS isa.h onednn/builder.h onednn/dnnl_util.h onednn/dynamic.h onednn/emit.h onednn/fusion.h onednn/lookup.h onednn/lower.h
       onednn/onednn_backend.h onednn/plan.h
  DEPS quant::ops quant::graph quant::tensor absl::status absl::statusor absl::strings
  PRIVATE_DEPS quant::kernels DNNL::dnnl OpenMP::OpenMP_CXX absl::check absl::log)

quant_library(runtime
  SRCS compile.cc
  HDRS executable.h op.h
  DEPS quant::ops quant::reference quant::onednn_backend)

if(BUILD_TESTING)
  add_library(quant_onednn_testing STATIC onednn/testing/test_graph.cc onednn/testing/test_graph.h)
  target_link_libraries(quant_onednn_testing PUBLIC quant::runtime PRIVATE quant_flags absl::check GTest::gtest)
  quant_test(onednn_test
    SRCS kernels/kernels_test.cc onednn/fusion_test.cc onednn/int8_test.cc onednn/plan_test.cc
         onednn/testing/count_allocations.cc
    DEPS quant_onednn_testing quant::kernels quant::runtime absl::log absl::strings)
  quant_test(llm_plan_test
    SRCS kernels/linear_test.cc onednn/decoder_test.cc onednn/linear_plan_test.cc
    DEPS hwy::hwy quant_onednn_testing quant::kernels quant::runtime absl::log absl::strings)
  # The same tests on the instruction sets whose int8 sums saturate, and on AVX-VNNI.
  foreach(isa AVX2 AVX512_CORE AVX2_VNNI)
    add_test(NAME onednn_test_${isa} COMMAND onednn_test)
    set_tests_properties(onednn_test_${isa} PROPERTIES LABELS unit TIMEOUT 300 ENVIRONMENT ONEDNN_MAX_CPU_ISA=${isa})
  endforeach()
endif()

# SPDX-License-Identifier: Apache-2.0
# quant::kernels: our own vector kernels. quant::onednn_backend: plans over oneDNN. quant::runtime: Compile().
quant_library(kernels
  SRCS kernels/elementwise.cc kernels/transpose.cc
  HDRS kernels/elementwise.h kernels/parallel.h kernels/transpose.h
  PRIVATE_DEPS hwy::hwy absl::check absl::log)
# The same bits on every instruction set: no contraction to fused multiply-add.
set_source_files_properties(kernels/elementwise.cc PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")

quant_library(onednn_backend
  SRCS onednn/builder.cc onednn/copy.cc onednn/dnnl_util.cc onednn/emit.cc onednn/emit_conv.cc
       onednn/emit_elementwise.cc onednn/emit_matmul.cc onednn/emit_move.cc onednn/emit_pool.cc onednn/emit_quantize.cc
       onednn/emit_shape.cc onednn/fusion.cc onednn/isa.cc onednn/lower.cc onednn/onednn_backend.cc onednn/plan.cc
  HDRS isa.h onednn/builder.h onednn/dnnl_util.h onednn/emit.h onednn/fusion.h onednn/lookup.h onednn/lower.h
       onednn/onednn_backend.h onednn/plan.h
  DEPS quant::ops quant::graph quant::tensor absl::status absl::statusor absl::strings
  PRIVATE_DEPS quant::kernels DNNL::dnnl OpenMP::OpenMP_CXX absl::check absl::log)

quant_library(runtime
  SRCS compile.cc
  HDRS executable.h op.h
  DEPS quant::ops quant::reference quant::onednn_backend)

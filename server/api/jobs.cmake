# SPDX-License-Identifier: Apache-2.0
# quant.v1.JobService and quant.v1.WorkerService.
quant_library(job_services SRCS external_scaler.cc job_service.cc worker_service.cc
              HDRS external_scaler.h job_service.h worker_service.h
              DEPS quant::queue PRIVATE_DEPS quant::thread_pool quant::common_grpc quant::gate quant::proto_grpc)
quant_test(job_services_test SRCS external_scaler_test.cc job_services_test.cc
           DEPS quant::job_services quant::fake_artifact_catalog quant::memory_job_store quant::common_grpc quant::gate
                quant::proto_grpc quant::server_metrics absl_status_matchers)

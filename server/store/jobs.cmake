# SPDX-License-Identifier: Apache-2.0
# The seam of jobs: quant::job_store with SQLite behind it, PostgreSQL, and the fake for tests.
quant_library(job_store SRCS job_store.cc sqlite_job_store.cc HDRS job_peers.h job_store.h
              sqlite_job_store.h
              DEPS quant::principal quant::proto quant::sqlite PRIVATE_DEPS quant::common)
quant_library(postgres_job_store SRCS postgres_job_store.cc HDRS postgres_job_store.h
              DEPS quant::job_store quant::postgres PRIVATE_DEPS quant::common absl::log)
quant_library(memory_job_store SRCS memory_job_store.cc HDRS memory_job_store.h DEPS quant::job_store
              PRIVATE_DEPS quant::common)
quant_test(job_store_test SRCS job_store_test.cc DEPS quant::memory_job_store quant::postgres_job_store
           quant::postgres_server quant::common absl_status_matchers THREADS)

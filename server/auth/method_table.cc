// SPDX-License-Identifier: Apache-2.0
#include "server/auth/method_table.h"

#include <algorithm>

namespace quant {

const std::vector<MethodRule>& MethodTable() {
  static const auto* const table = new std::vector<MethodRule>{
      // Blobs move both ways for workers too: inputs of jobs, and results.
      {.method = "/quant.v1.ArtifactService/FindMissingBlobs", .user = true, .worker = true},
      {.method = "/quant.v1.ArtifactService/QueryWriteStatus", .user = true, .worker = true},
      {.method = "/quant.v1.ArtifactService/WriteBlob", .user = true, .worker = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/ReadBlob", .user = true, .worker = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/CreateModel", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/GetModel", .user = true},
      {.method = "/quant.v1.ArtifactService/ListModels", .user = true},
      {.method = "/quant.v1.ArtifactService/DeleteModel", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/CreateDataset", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/GetDataset", .user = true},
      {.method = "/quant.v1.ArtifactService/ListDatasets", .user = true},
      {.method = "/quant.v1.ArtifactService/DeleteDataset", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/SetRetention", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.ArtifactService/GetStorage", .user = true},

      {.method = "/quant.v1.JobService/SubmitJob", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.JobService/GetJob", .user = true},
      {.method = "/quant.v1.JobService/ListJobs", .user = true},
      {.method = "/quant.v1.JobService/WatchJob", .user = true},
      {.method = "/quant.v1.JobService/CancelJob", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.JobService/RetryJob", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.JobService/DeleteJob", .user = true, .audit = Audit::kAll},
      {.method = "/quant.v1.JobService/GetJobReport", .user = true, .audit = Audit::kAll},

      {.method = "/quant.v1.WorkerService/LeaseJob", .worker = true, .audit = Audit::kObjects},
      {.method = "/quant.v1.WorkerService/Heartbeat", .worker = true},
      {.method = "/quant.v1.WorkerService/CompleteJob", .worker = true, .audit = Audit::kAll},
      // These tell of jobs of all tenants.
      {.method = "/quant.v1.WorkerService/ListWorkers", .audit = Audit::kRefusals},
      {.method = "/quant.v1.WorkerService/DrainWorker", .audit = Audit::kAll},

      // KEDA, which counts jobs of all tenants.
      {.method = "/externalscaler.ExternalScaler/IsActive", .scaler = true},
      {.method = "/externalscaler.ExternalScaler/StreamIsActive", .scaler = true},
      {.method = "/externalscaler.ExternalScaler/GetMetricSpec", .scaler = true},
      {.method = "/externalscaler.ExternalScaler/GetMetrics", .scaler = true},

      // Probes have no credentials, and learn only whether we serve.
      {.method = "/grpc.health.v1.Health/Check", .anyone = true},
      {.method = "/grpc.health.v1.Health/Watch", .anyone = true},
  };
  return *table;
}

const MethodRule* FindMethodRule(std::string_view method) {
  const std::vector<MethodRule>& table = MethodTable();
  const auto it =
      std::find_if(table.begin(), table.end(), [&](const MethodRule& rule) { return rule.method == method; });
  return it == table.end() ? nullptr : &*it;
}

bool Allows(const MethodRule& rule, Role role) {
  switch (role) {
    case Role::kUser:
      return rule.user;
    case Role::kWorker:
      return rule.worker;
    case Role::kScaler:
      return rule.scaler;
    case Role::kOperator:
      return true;
  }
  return false;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "server/auth/tenant_limits.h"

#include <fcntl.h>

#include <nlohmann/json.hpp>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/auth/principal.h"
#include "server/blobs/file_io.h"

namespace quant {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = 1 << 20;

absl::Status ReadLimits(const json& object, TenantLimits* limits) {
  if (!object.is_object()) return absl::InvalidArgumentError("limits must be an object");
  const std::pair<const char*, int64_t*> integers[] = {{"max_queued_jobs", &limits->max_queued_jobs},
                                                       {"max_running_jobs", &limits->max_running_jobs},
                                                       {"max_stored_bytes", &limits->max_stored_bytes},
                                                       {"max_model_bytes", &limits->max_model_bytes},
                                                       {"upload_bytes_per_second", &limits->upload_bytes_per_second}};
  for (const auto& [key, value] : object.items()) {
    bool known = false;
    for (const auto& [name, target] : integers) {
      if (key != name) continue;
      known = true;
      if (!value.is_number_integer() || value.get<int64_t>() < 0) {
        return absl::InvalidArgumentError(absl::StrCat(key, " must be an integer from 0 on"));
      }
      *target = value.get<int64_t>();
    }
    if (key == "requests_per_second" || key == "weight") {
      known = true;
      const double number = value.is_number() ? value.get<double>() : -1;
      const bool good = key == "weight" ? number >= 0.01 && number <= 1000 : number >= 0 && number <= 1e9;
      if (!good) {
        return absl::InvalidArgumentError(
            absl::StrCat(key, key == "weight" ? " must be a number from 0.01 to 1000" : " must be a number from 0 on"));
      }
      (key == "weight" ? limits->weight : limits->requests_per_second) = number;
    }
    if (!known) return absl::InvalidArgumentError(absl::StrCat("unknown limit ", Quoted(key)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LimitsTable::Table> LimitsTable::Parse(std::string_view text) {
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) return absl::InvalidArgumentError("it is no JSON object");
  for (const auto& [key, value] : document.items()) {
    if (key != "default" && key != "tenants") {
      return absl::InvalidArgumentError(absl::StrCat("unknown field ", Quoted(key), ": default and tenants are known"));
    }
  }
  Table table;
  if (document.contains("default")) RETURN_IF_ERROR(ReadLimits(document["default"], &table.others));
  if (!document.contains("tenants")) return table;
  if (!document["tenants"].is_object()) return absl::InvalidArgumentError("tenants must be an object");
  for (const auto& [tenant, value] : document["tenants"].items()) {
    RETURN_IF_ERROR(CheckPrincipalName("tenant", tenant));
    TenantLimits limits = table.others;
    if (const absl::Status status = ReadLimits(value, &limits); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("tenant ", tenant, ": ", status.message()));
    }
    table.named[tenant] = limits;
  }
  return table;
}

absl::StatusOr<std::unique_ptr<LimitsTable>> LimitsTable::Open(std::filesystem::path file, Clock* clock) {
  auto made = std::make_unique<LimitsTable>();
  made->clock_ = clock;
  MutexLock lock(&made->mu_);
  made->watch_ = std::make_unique<FileWatch>(std::move(file));
  RETURN_IF_ERROR(made->Load());
  return made;
}

absl::Status LimitsTable::Load() {
  if (!watch_->Changed(clock_->Now())) return absl::OkStatus();
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(watch_->file(), O_RDONLY));
  ASSIGN_OR_RETURN(const std::string text, ReadAt(fd.get(), kMaxFileBytes, 0, watch_->file()));
  absl::StatusOr<Table> table = Parse(text);
  if (!table.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(watch_->file().native()), ": ", table.status().message()));
  }
  table_ = *std::move(table);
  watch_->Accept();
  LOG(INFO) << "limits: " << table_.named.size() << " tenants named in " << watch_->file().native();
  return absl::OkStatus();
}

TenantLimits LimitsTable::For(std::string_view tenant) {
  MutexLock lock(&mu_);
  if (watch_ != nullptr) {
    const absl::Status status = Load();
    LOG_IF(ERROR, !status.ok()) << "limits: keeping what was read before: " << status;
  }
  const auto it = table_.named.find(tenant);
  return it == table_.named.end() ? table_.others : it->second;
}

void LimitsTable::Set(const std::string& tenant, const TenantLimits& limits) {
  MutexLock lock(&mu_);
  table_.named[tenant] = limits;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "server/auth/credential_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/file_io.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{16} << 20;

std::string Rfc3339(absl::Time time) { return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone()); }

std::string Line(const Credential& c) {
  nlohmann::ordered_json line;
  line["id"] = c.id;
  line["name"] = c.principal.name;
  line["tenant"] = c.principal.tenant;
  line["role"] = std::string(RoleName(c.principal.role));
  if (!c.sha256.empty()) line["sha256"] = c.sha256;
  if (!c.certificate.empty()) line["certificate"] = c.certificate;
  line["created"] = Rfc3339(c.created);
  if (c.expires != absl::InfiniteFuture()) line["expires"] = Rfc3339(c.expires);
  if (c.revoked) line["revoked"] = true;
  return line.dump() + "\n";
}

// Strict: a field that is misspelt could be the one that takes a right away.
absl::StatusOr<Credential> ParseLine(std::string_view text) {
  const json line = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return absl::InvalidArgumentError("it is no JSON object");
  Credential c;
  bool has_created = false;
  std::string role;
  for (const auto& [key, value] : line.items()) {
    if (key == "revoked") {
      if (!value.is_boolean()) return absl::InvalidArgumentError("revoked is not true or false");
      c.revoked = value.get<bool>();
      continue;
    }
    if (!value.is_string()) return absl::InvalidArgumentError("a value is not a string");
    const std::string string = value.get<std::string>();
    std::string error;
    if (key == "id") {
      c.id = string;
    } else if (key == "name") {
      c.principal.name = string;
    } else if (key == "tenant") {
      c.principal.tenant = string;
    } else if (key == "role") {
      role = string;
    } else if (key == "sha256") {
      c.sha256 = string;
    } else if (key == "certificate") {
      c.certificate = string;
    } else if (key == "created" || key == "expires") {
      if (!absl::ParseTime(absl::RFC3339_full, string, key == "created" ? &c.created : &c.expires, &error)) {
        return absl::InvalidArgumentError(absl::StrCat(key, " is no RFC 3339 time"));
      }
      has_created = has_created || key == "created";
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unknown field ", Quoted(key, 20)));
    }
  }
  if (!IsRandomId(c.id, "t-")) return absl::InvalidArgumentError("id is missing or malformed");
  if (!has_created) return absl::InvalidArgumentError("created is missing");
  RETURN_IF_ERROR(CheckPrincipalName("name", c.principal.name));
  RETURN_IF_ERROR(CheckPrincipalName("tenant", c.principal.tenant));
  ASSIGN_OR_RETURN(c.principal.role, ParseRole(role));
  if (c.sha256.empty() == c.certificate.empty()) {
    return absl::InvalidArgumentError("it needs either sha256 or certificate");
  }
  if (!c.sha256.empty() && !IsSha256Hex(c.sha256)) return absl::InvalidArgumentError("sha256 is malformed");
  return c;
}

// Edits the file under a lock, by way of a new file that takes its place.
absl::Status Edit(const fs::path& file, const std::function<absl::Status(std::vector<Credential>*)>& edit) {
  ASSIGN_OR_RETURN(const UniqueFd lock, OpenFile(file.native() + ".lock", O_RDWR | O_CREAT));
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return FileError(errno, "lock", file);
  }
  absl::StatusOr<std::vector<Credential>> all = ReadCredentials(file);
  if (absl::IsNotFound(all.status())) all = std::vector<Credential>();
  RETURN_IF_ERROR(all.status());
  RETURN_IF_ERROR(edit(&*all));
  std::string text;
  for (const Credential& c : *all) text += Line(c);
  const fs::path next = file.native() + ".new";
  {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(next, O_WRONLY | O_CREAT | O_TRUNC));
    RETURN_IF_ERROR(WriteAt(fd.get(), {text}, 0, next));
    RETURN_IF_ERROR(SyncFile(fd.get(), next));
  }
  if (::rename(next.c_str(), file.c_str()) != 0) return FileError(errno, "replace", file);
  const fs::path folder = file.parent_path();
  return SyncFolder(folder.empty() ? "." : folder);
}

}  // namespace

absl::StatusOr<Role> ParseRole(std::string_view name) {
  for (const Role role : {Role::kUser, Role::kWorker, Role::kScaler, Role::kOperator}) {
    if (name == RoleName(role)) return role;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("role is ", Quoted(name), ": user, worker, scaler or operator is wanted"));
}

absl::StatusOr<std::vector<Credential>> ReadCredentials(const fs::path& file) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(file, O_RDONLY));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return FileError(errno, "look at", file);
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(file.native()), " may be written to by others than its owner: chmod 600 it"));
  }
  if (info.st_size > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(file.native()), " is larger than ", kMaxFileBytes, " bytes"));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadAt(fd.get(), info.st_size, 0, file));
  std::vector<Credential> all;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) continue;
    absl::StatusOr<Credential> credential = ParseLine(StdView(line));
    if (!credential.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, " of ", Quoted(file.native()), ": ", credential.status().message()));
    }
    all.push_back(*std::move(credential));
  }
  return all;
}

absl::Status AddCredential(const fs::path& file, const Credential& credential) {
  return Edit(file, [&](std::vector<Credential>* all) -> absl::Status {
    for (const Credential& old : *all) {
      if (old.revoked) continue;
      if (old.principal.name == credential.principal.name) {
        return absl::AlreadyExistsError(absl::StrCat("the name ", credential.principal.name, " is taken by ", old.id,
                                                     ": revoke that first, or choose another"));
      }
      if (!credential.certificate.empty() && old.certificate == credential.certificate) {
        return absl::AlreadyExistsError(
            absl::StrCat("the certificate ", Quoted(credential.certificate), " is ", old.principal.name, "'s already"));
      }
    }
    all->push_back(credential);
    return absl::OkStatus();
  });
}

absl::StatusOr<int> RevokeCredential(const fs::path& file, std::string_view id_or_name) {
  int revoked = 0;
  RETURN_IF_ERROR(Edit(file, [&](std::vector<Credential>* all) -> absl::Status {
    for (Credential& c : *all) {
      if (c.revoked || (c.id != id_or_name && c.principal.name != id_or_name)) continue;
      c.revoked = true;
      ++revoked;
    }
    if (revoked > 0) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("no token that is not revoked has the id or name ", Quoted(id_or_name)));
  }));
  return revoked;
}

std::string MakeToken(Credential* credential) {
  unsigned char secret[32];
  ssize_t n = 0;
  do n = ::getrandom(secret, sizeof(secret), 0);
  while (n < 0 && errno == EINTR);
  CHECK_EQ(n, static_cast<ssize_t>(sizeof(secret))) << "getrandom failed";  // up to 256 bytes come at once
  credential->id = RandomId("t-");
  const std::string token = absl::StrCat(
      credential->id, ".", absl::BytesToHexString({reinterpret_cast<const char*>(secret), sizeof(secret)}));
  credential->sha256 = Sha256Hex(token);
  return token;
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
// PostgresServer: a real PostgreSQL of a test's own, in a temporary folder, on a Unix socket, with fsync on.
#ifndef QUANT_SERVER_STORE_TESTING_POSTGRES_SERVER_H_
#define QUANT_SERVER_STORE_TESTING_POSTGRES_SERVER_H_

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

// Runs as the user `postgres` where the test is root. Thread-compatible.
class PostgresServer {
 public:
  //   NOT_FOUND: PostgreSQL's programs are not installed, or there is no user to run them as: skip the test.
  static absl::StatusOr<std::unique_ptr<PostgresServer>> Start();
  // One for the whole program; stopped when it ends.
  static absl::StatusOr<PostgresServer*> Shared();
  // Stops the server and removes the folder.
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // The address of a new, empty schema.
  absl::StatusOr<std::string> NewSchema();

  // kill -9 of the postmaster; its other processes notice and end.
  void Kill();
  // Starts the server again on its data; returns when it answers.
  absl::Status Restart();

 private:
  PostgresServer() = default;
  std::string Url(const std::string& options) const;
  absl::Status Run();

  std::filesystem::path folder_;
  std::filesystem::path programs_;
  pid_t pid_ = -1;
  int schemas_ = 0;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_TESTING_POSTGRES_SERVER_H_

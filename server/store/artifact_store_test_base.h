// SPDX-License-Identifier: Apache-2.0
// What the artifact store's tests share: a store on SQLite or PostgreSQL with its blobs in a folder, and two tenants.
#ifndef QUANT_SERVER_STORE_ARTIFACT_STORE_TEST_BASE_H_
#define QUANT_SERVER_STORE_ARTIFACT_STORE_TEST_BASE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/random_id.h"
#include "server/auth/principal.h"
#include "server/blobs/file_blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/store/artifact_store.h"
#include "server/store/postgres_connection.h"
#include "server/store/sqlite.h"
#include "server/store/testing/postgres_server.h"

namespace quant {

inline const Principal kAnn{.tenant = "acme", .name = "ann", .role = Role::kUser};
inline const Principal kBob{.tenant = "zoo", .name = "bob", .role = Role::kUser};

class ArtifactStoreTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "postgres") {
      const auto server = PostgresServer::Shared();
      if (absl::IsNotFound(server.status())) GTEST_SKIP() << server.status();
      ASSERT_TRUE(server.ok()) << server.status();
      const auto url = (*server)->NewSchema();
      ASSERT_TRUE(url.ok()) << url.status();
      url_ = *url;
    }
    Reopen();
  }
  ~ArtifactStoreTest() override {
    store_.reset();
    db_.reset();
    blobs_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Reopen() {
    store_.reset();
    db_.reset();
    auto blobs = FileBlobStore::Open(dir_, {.reserve_bytes = 0, .clock = &clock_});
    ASSERT_TRUE(blobs.ok()) << blobs.status();
    blobs_ = *std::move(blobs);
    if (GetParam() == "postgres") {
      auto postgres = Postgres::Open({.url = url_});
      ASSERT_TRUE(postgres.ok()) << postgres.status();
      postgres_ = *std::move(postgres);
      db_ = std::make_unique<PostgresConnection>(postgres_.get(), 1);
    } else {
      auto db = Database::Open(dir_ / "artifacts.db");
      ASSERT_TRUE(db.ok()) << db.status();
      db_ = *std::move(db);
    }
    auto store = ArtifactStore::Create(db_.get(), blobs_.get(), &metrics_, &clock_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  // A file whose blob is stored.
  v1::File Stored(const std::string& path, const std::string& bytes) {
    v1::File file = NotStored(path, bytes);
    auto writer = blobs_->OpenWriter("u", {file.digest().sha256(), file.digest().size_bytes()}, 0);
    EXPECT_TRUE(writer.ok() && (*writer)->Write(bytes).ok() && (*writer)->Finish().ok());
    return file;
  }
  static v1::File NotStored(const std::string& path, const std::string& bytes) {
    v1::File file;
    file.set_path(path);
    file.mutable_digest()->set_sha256(Sha256Hex(bytes));
    file.mutable_digest()->set_size_bytes(static_cast<int64_t>(bytes.size()));
    return file;
  }
  static v1::CreateModelRequest ModelRequest(const std::string& name, std::vector<v1::File> files) {
    v1::CreateModelRequest request;
    request.set_name(name);
    for (const v1::File& file : files) *request.add_files() = file;
    return request;
  }
  v1::Model Make(const std::string& name, const std::string& bytes) {
    auto model = store_->CreateModel(OpenPrincipal(), ModelRequest(name, {Stored("m.onnx", bytes)}));
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  }

  static BlobId IdOf(const v1::File& file) { return {file.digest().sha256(), file.digest().size_bytes()}; }

  const std::filesystem::path dir_ = std::filesystem::path(testing::TempDir()) / RandomId("artifacts-");
  FakeClock clock_{absl::Now()};
  ServerMetrics metrics_;
  std::unique_ptr<BlobStore> blobs_;
  std::string url_;
  std::unique_ptr<Postgres> postgres_;
  std::unique_ptr<SqlConnection> db_;
  std::unique_ptr<ArtifactStore> store_;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_ARTIFACT_STORE_TEST_BASE_H_

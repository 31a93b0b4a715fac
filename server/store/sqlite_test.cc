// SPDX-License-Identifier: Apache-2.0
#include "server/store/sqlite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/random_id.h"
#include "common/strings.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

class SqliteTest : public ::testing::Test {
 protected:
  SqliteTest() { std::filesystem::create_directory(dir_); }
  ~SqliteTest() override { std::filesystem::remove_all(dir_); }
  std::unique_ptr<Database> Open() {
    auto db = Database::Open(dir_ / "db");
    EXPECT_TRUE(db.ok()) << db.status();
    return *std::move(db);
  }
  static int64_t Count(Database* db) {
    auto stmt = db->Prepare("SELECT count(*) FROM t");
    EXPECT_TRUE(stmt.ok() && stmt->Step().value());
    return stmt->Int(0);
  }
  static absl::Status Insert(Database* db, int64_t id, std::string_view text) {
    auto stmt = db->Prepare("INSERT INTO t (id, text) VALUES (?, ?)");
    if (!stmt.ok()) return stmt.status();
    stmt->Bind(1, id);
    stmt->Bind(2, text);
    return stmt->Run();
  }

  const std::filesystem::path dir_ = std::filesystem::path(testing::TempDir()) / RandomId("sqlite-");
};

constexpr char kTable[] = "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT NOT NULL CHECK (text <> 'bad')) STRICT";

TEST_F(SqliteTest, HasTheSettingsOfADurableStore) {
  const auto db = Open();
  const auto pragma = [&](const char* sql) {
    auto stmt = db->Prepare(sql);
    EXPECT_TRUE(stmt.ok() && stmt->Step().value());
    return stmt->Text(0);
  };
  EXPECT_EQ(pragma("PRAGMA journal_mode"), "wal");
  EXPECT_EQ(pragma("PRAGMA synchronous"), "2");
  EXPECT_EQ(pragma("PRAGMA foreign_keys"), "1");
}

TEST_F(SqliteTest, ValuesOfEveryTypeComeBack) {
  const auto db = Open();
  auto stmt = db->Prepare("SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8");
  ASSERT_TRUE(stmt.ok()) << stmt.status();
  const std::string bytes("a\0b", 3);
  stmt->Bind(1, int64_t{INT64_MIN});
  stmt->Bind(2, 0.1);
  stmt->Bind(3, bytes);
  stmt->BindBlob(4, bytes);
  stmt->BindNull(5);
  stmt->Bind(6, absl::FromUnixNanos(1'700'000'000'123'456'789));
  stmt->Bind(7, absl::InfiniteFuture());
  stmt->Bind(8, std::string_view());
  ASSERT_TRUE(stmt->Step().value());
  EXPECT_EQ(stmt->Int(0), INT64_MIN);
  EXPECT_EQ(stmt->Double(1), 0.1);
  EXPECT_EQ(stmt->Text(2), bytes);
  EXPECT_EQ(stmt->Blob(3), bytes);
  EXPECT_TRUE(stmt->IsNull(4));
  EXPECT_EQ(stmt->Time(5), absl::FromUnixNanos(1'700'000'000'123'456'789));
  EXPECT_EQ(stmt->Time(6), absl::InfiniteFuture());
  EXPECT_FALSE(stmt->IsNull(7));
  EXPECT_FALSE(stmt->Step().value());
}

TEST_F(SqliteTest, TransactionIsAllOrNothing) {
  const auto db = Open();
  ASSERT_TRUE(db->Execute(kTable).ok());
  {
    auto txn = Transaction::Begin(db.get());
    ASSERT_TRUE(txn.ok());
    ASSERT_TRUE(Insert(db.get(), 1, "a").ok());
  }
  EXPECT_EQ(Count(db.get()), 0);
  int commits = 0;
  db->SetCommitObserver([&](absl::Duration, bool ok) { commits += ok ? 1 : 100; });
  auto txn = Transaction::Begin(db.get());
  ASSERT_TRUE(txn.ok());
  ASSERT_TRUE(Insert(db.get(), 1, "a").ok());
  EXPECT_TRUE(txn->Commit().ok());
  EXPECT_EQ(Count(db.get()), 1);
  EXPECT_EQ(commits, 1);
  EXPECT_EQ(Count(Open().get()), 1);  // another connection sees it
}

TEST_F(SqliteTest, ErrorsHaveCanonicalCodes) {
  const auto db = Open();
  ASSERT_TRUE(db->Execute(kTable).ok());
  ASSERT_TRUE(Insert(db.get(), 1, "a").ok());
  EXPECT_EQ(Insert(db.get(), 1, "b").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Insert(db.get(), 2, "bad").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(db->Prepare("SELEKT").status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(Insert(db.get(), 2, "still usable").ok());
}

TEST_F(SqliteTest, FullDatabaseIsResourceExhaustedAndNothingIsHalfWritten) {
  const auto db = Open();
  ASSERT_TRUE(db->Execute(kTable).ok());
  ASSERT_TRUE(db->Execute("PRAGMA max_page_count=20").ok());
  {
    auto txn = Transaction::Begin(db.get());
    ASSERT_TRUE(txn.ok());
    absl::Status status;
    for (int i = 0; status.ok() && i < 1000; ++i) status = Insert(db.get(), i, std::string(4000, 'x'));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(StdView(status.message())), HasSubstr("make room"));
  }
  EXPECT_EQ(Count(db.get()), 0);
  EXPECT_TRUE(Insert(db.get(), 1, "small").ok());
}

TEST_F(SqliteTest, GarbageFileIsDataLoss) {
  std::ofstream(dir_ / "db") << std::string(8192, 'z');
  EXPECT_EQ(Database::Open(dir_ / "db").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SqliteTest, MigrationsRunOnceAndANewerFileIsRefused) {
  const auto db = Open();
  ASSERT_TRUE(db->Migrate("test", {kTable}).ok());
  ASSERT_TRUE(Insert(db.get(), 1, "a").ok());
  ASSERT_TRUE(db->Migrate("test", {kTable, "ALTER TABLE t ADD COLUMN more INTEGER"}).ok());
  EXPECT_EQ(Count(db.get()), 1);
  EXPECT_EQ(db->Migrate("test", {kTable}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(db->Migrate("other", {"CREATE TABLE u (a) STRICT"}).ok());  // STRICT wants a type: rolled back
  EXPECT_TRUE(db->Migrate("other", {"CREATE TABLE u (a INTEGER) STRICT"}).ok());
}

TEST_F(SqliteTest, SameStatementTwiceAtOnce) {
  const auto db = Open();
  ASSERT_TRUE(db->Execute(kTable).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Insert(db.get(), i, "x").ok());
  auto outer = db->Prepare("SELECT id FROM t");
  int pairs = 0;
  while (outer->Step().value()) {
    auto inner = db->Prepare("SELECT id FROM t");
    while (inner->Step().value()) ++pairs;
  }
  EXPECT_EQ(pairs, 9);
}

}  // namespace
}  // namespace quant

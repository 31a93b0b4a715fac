// SPDX-License-Identifier: Apache-2.0
#include "server/store/testing/postgres_server.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "server/store/postgres.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kStartTimeout = absl::Seconds(60);

fs::path FindPrograms() {
  std::error_code error;
  fs::path newest;
  for (const fs::directory_entry& version : fs::directory_iterator("/usr/lib/postgresql", error)) {
    if (fs::exists(version.path() / "bin/initdb", error)) newest = std::max(newest, version.path() / "bin");
  }
  return newest;
}

// Starts a program as the user `postgres` where we are root; its output goes to `log`.
pid_t Spawn(const std::vector<std::string>& command, const fs::path& log) {
  std::vector<char*> args;
  args.reserve(command.size() + 1);
  for (const std::string& arg : command) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  const passwd* const user = ::geteuid() == 0 ? ::getpwnam("postgres") : nullptr;
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const pid_t pid = ::fork();
  if (pid != 0) {
    ::close(out);
    return pid;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGQUIT);  // immediate shutdown with the test
  ::dup2(out, STDOUT_FILENO);
  ::dup2(out, STDERR_FILENO);
  if (user != nullptr && (::setgroups(0, nullptr) != 0 || ::setgid(user->pw_gid) != 0 || ::setuid(user->pw_uid) != 0)) {
    ::_exit(126);
  }
  ::prctl(PR_SET_PDEATHSIG, SIGQUIT);  // setuid has cleared it
  if (::chdir("/") != 0) ::_exit(126);
  ::setenv("LC_ALL", "C", 1);
  ::execv(args[0], args.data());
  ::_exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PostgresServer>> PostgresServer::Start() {
  std::unique_ptr<PostgresServer> server(new PostgresServer);
  server->programs_ = FindPrograms();
  if (server->programs_.empty()) return absl::NotFoundError("PostgreSQL is not installed: there is no initdb");
  const passwd* const user = ::getpwnam("postgres");
  if (::geteuid() == 0 && user == nullptr) {
    return absl::NotFoundError("PostgreSQL does not run as root, and there is no user postgres");
  }
  server->folder_ = fs::temp_directory_path() / RandomId("pg-");
  fs::create_directories(server->folder_);
  if (::geteuid() == 0 && ::chown(server->folder_.c_str(), user->pw_uid, user->pw_gid) != 0) {
    return absl::InternalError(absl::StrCat("chown of ", server->folder_.string(), " failed"));
  }
  const pid_t init = Spawn({server->programs_ / "initdb", "--no-sync", "--auth=trust", "--username=postgres",
                            "--encoding=UTF8", "--locale=C", "--pgdata", server->folder_ / "data"},
                           server->folder_ / "initdb.log");
  int status = 0;
  ::waitpid(init, &status, 0);
  if (status != 0) return absl::InternalError(absl::StrCat("initdb failed with status ", status));
  RETURN_IF_ERROR(server->Run());
  return server;
}

absl::StatusOr<PostgresServer*> PostgresServer::Shared() {
  static absl::StatusOr<std::unique_ptr<PostgresServer>> server = Start();
  if (!server.ok()) return server.status();
  return server->get();
}

PostgresServer::~PostgresServer() {
  if (pid_ > 0) {
    ::kill(pid_, SIGQUIT);  // at once: the data goes with it
    ::waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

std::string PostgresServer::Url(const std::string& options) const {
  return absl::StrCat("postgres://postgres@/postgres?host=", folder_.string(), options);
}

absl::Status PostgresServer::Run() {
  const absl::Time until = absl::Now() + kStartTimeout;
  absl::Status status;
  while (absl::Now() < until) {
    // Ended: after a kill the old server's processes may hold its memory for a moment.
    if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
    if (pid_ < 0) {
      pid_ = Spawn({programs_ / "postgres", "-D", folder_ / "data", "-k", folder_, "-c", "listen_addresses=", "-c",
                    "fsync=on", "-c", "shared_buffers=32MB", "-c", "max_connections=100"},
                   folder_ / "postgres.log");
    }
    status = PgSession::Connect(Url(""), absl::Seconds(5), absl::Seconds(5)).status();
    if (status.ok()) return status;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return status;
}

absl::StatusOr<std::string> PostgresServer::NewSchema() {
  const std::string name = absl::StrCat("test", ++schemas_);
  ASSIGN_OR_RETURN(auto session, PgSession::Connect(Url(""), absl::Seconds(5), absl::Seconds(5)));
  RETURN_IF_ERROR(session->Execute(absl::StrCat("CREATE SCHEMA ", name)));
  return Url(absl::StrCat("&options=-csearch_path%3D", name));
}

void PostgresServer::Kill() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

absl::Status PostgresServer::Restart() { return Run(); }

}  // namespace quant

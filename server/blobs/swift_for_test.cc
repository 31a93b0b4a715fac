// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/swift_for_test.h"

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/random_id.h"

extern char** environ;

namespace quant {

SwiftForTest* SwiftForTest::Get() {
  static auto* const swift = new SwiftForTest;
  return swift->in_ < 0 ? nullptr : swift;
}

SwiftForTest::SwiftForTest() {
  std::signal(SIGPIPE, SIG_IGN);
  int to_child[2];
  int from_child[2];
  CHECK(::pipe2(to_child, O_CLOEXEC) == 0 && ::pipe2(from_child, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], STDOUT_FILENO);
  const char* argv[] = {"python3", QUANT_SWIFT_SERVER, nullptr};
  pid_t pid = 0;
  CHECK(::posix_spawnp(&pid, argv[0], &actions, nullptr, const_cast<char**>(argv), environ) == 0);
  posix_spawn_file_actions_destroy(&actions);
  ::close(to_child[0]);
  ::close(from_child[1]);
  out_ = from_child[0];
  const std::vector<std::string> words = absl::StrSplit(ReadLine(), ' ');
  if (words.size() != 6) return;  // it has told why on stderr
  in_ = to_child[1];              // the server stops when this is closed: with this process
  options_.endpoint = words[1];
  options_.bucket = words[2];
  options_.credentials = {words[3], words[4], ""};
  folder_ = words[5];
}

S3Options SwiftForTest::NewOptions() {
  S3Options options = options_;
  options.prefix = absl::StrCat(RandomId("test-"), "/");
  return options;
}

void SwiftForTest::Order(const std::string& order) {
  const std::string line = order + "\n";
  CHECK(::write(in_, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
  CHECK(ReadLine() == "done") << order << ": the server's script has died";
}

std::string SwiftForTest::ReadLine() {
  std::string line;
  char c = 0;
  while (::read(out_, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

}  // namespace quant

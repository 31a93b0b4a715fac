// SPDX-License-Identifier: Apache-2.0
// A job's process for tests: called as quant-worker --run-job is, it does what the lines of FOLDER/model/script.txt
// say.
//
//   progress PHASE FRACTION MESSAGE   send a frame
//   sleep MILLISECONDS
//   wait FILE                         until FILE exists
//   touch FILE
//   print TEXT                        to stderr
//   output NAME TEXT                  write output/NAME
//   link NAME TARGET                  make output/NAME a symbolic link
//   succeed | cancelled | fail REASON MESSAGE      write work/outcome.pb (and go on)
//   torn                              write a work/outcome.pb that is no message
//   ignore_term | on_term_succeed     from here on
//   try NAME ATTEMPT…                 do what attempts.h lists, and write its errno (0: it could) to output/NAME
//   crash | exit N | hang | eat MIB | garbage | orphan FILE | inspect
//
// orphan: fork a process that ignores SIGTERM and keeps FILE locked, then go on. inspect: write what was inherited to
// output/inspect.txt: environment, open descriptors, signal mask, arguments, working directory.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "quant/v1/workers.pb.h"
#include "worker/agent/sandbox/sandbox.h"
#include "worker/agent/testing/attempts.h"

namespace {

std::string folder;

void WriteFile(const std::string& name, const std::string& bytes) {
  std::ofstream(folder + "/" + name + ".tmp", std::ios::binary) << bytes;
  std::filesystem::rename(folder + "/" + name + ".tmp", folder + "/" + name);
}

void Outcome(const quant::v1::CompleteJobRequest& outcome) {
  WriteFile("work/outcome.pb", outcome.SerializeAsString());
}

void Succeed() {
  quant::v1::CompleteJobRequest outcome;
  outcome.mutable_success()->mutable_report()->mutable_size()->set_original_bytes(42);
  outcome.mutable_success()->mutable_report()->add_phases()->set_name("load");
  Outcome(outcome);
}

void SendFrame(const std::string& payload) {
  std::string frame;
  for (int i = 0; i < 4; ++i) frame += static_cast<char>(payload.size() >> (8 * i));
  frame += payload;
  if (::write(3, frame.data(), frame.size()) < 0) std::perror("write");
}

void Sleep(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

[[noreturn]] void Hang() {
  while (true) Sleep(1000);
}

void Eat(int mib) {
  for (int i = 0; i < mib; ++i) {
    auto* block = static_cast<char*>(std::malloc(1 << 20));
    std::memset(block, i + 1, 1 << 20);
    if (i % 8 == 0) Sleep(1);
  }
}

std::string Inspect(int argc, char** argv) {
  std::ostringstream out;
  for (int i = 1; i < argc; ++i) out << "arg " << argv[i] << "\n";
  for (char** e = environ; *e != nullptr; ++e) out << "env " << *e << "\n";
  DIR* dir = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != ::dirfd(dir)) out << "fd " << entry->d_name << "\n";
  }
  ::closedir(dir);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("SigBlk", 0) == 0 || line.rfind("SigIgn", 0) == 0) out << line << "\n";
  }
  out << "cwd " << std::filesystem::current_path().string() << "\n";
  out << "group " << (::getpgrp() == ::getpid() ? "own" : "shared") << "\n";
  return out.str();
}

void Orphan(const std::string& file) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT, 0644);
  if (::flock(fd, LOCK_EX) != 0) std::perror("flock");
  if (::fork() == 0) {
    ::signal(SIGTERM, SIG_IGN);
    Hang();
  }
  ::close(fd);  // the lock stays with the forked process
}

void Do(const std::string& line, int argc, char** argv) {
  std::istringstream in(line);
  std::string verb, a, b;
  in >> verb;
  const auto rest = [&] {
    std::string text;
    std::getline(in >> std::ws, text);
    return text;
  };
  if (verb == "progress") {
    quant::v1::Progress progress;
    double fraction = 0;
    in >> a >> fraction;
    progress.set_phase(a);
    progress.set_fraction(fraction);
    progress.set_message(rest());
    SendFrame(progress.SerializeAsString());
  } else if (verb == "sleep") {
    in >> a;
    Sleep(std::stoi(a));
  } else if (verb == "wait") {
    in >> a;
    while (!std::filesystem::exists(a)) Sleep(2);
  } else if (verb == "touch") {
    in >> a;
    std::ofstream(a) << "";
  } else if (verb == "print") {
    std::fprintf(stderr, "%s\n", rest().c_str());
  } else if (verb == "output") {
    in >> a;
    std::filesystem::create_directories(std::filesystem::path(folder + "/output/" + a).parent_path());
    std::ofstream(folder + "/output/" + a, std::ios::binary) << rest();
  } else if (verb == "link") {
    in >> a >> b;
    std::filesystem::create_symlink(b, folder + "/output/" + a);
  } else if (verb == "succeed") {
    Succeed();
  } else if (verb == "cancelled") {
    quant::v1::CompleteJobRequest outcome;
    outcome.mutable_cancelled();
    Outcome(outcome);
  } else if (verb == "fail") {
    quant::v1::CompleteJobRequest outcome;
    in >> a;
    outcome.mutable_failure()->set_error_class(quant::v1::ERROR_CLASS_FINAL);
    outcome.mutable_failure()->set_reason(a);
    outcome.mutable_failure()->set_message(rest());
    Outcome(outcome);
  } else if (verb == "torn") {
    WriteFile("work/outcome.pb", "\x0a\xff\xff");
  } else if (verb == "ignore_term") {
    ::signal(SIGTERM, SIG_IGN);
  } else if (verb == "on_term_succeed") {
    ::signal(SIGTERM, [](int) {  // not async-signal-safe, but this process only sleeps
      Succeed();
      ::_exit(0);
    });
  } else if (verb == "crash") {
    ::signal(SIGSEGV, SIG_DFL);
    ::raise(SIGSEGV);
  } else if (verb == "exit") {
    in >> a;
    ::_exit(std::stoi(a));
  } else if (verb == "hang") {
    Hang();
  } else if (verb == "eat") {
    in >> a;
    Eat(std::stoi(a));
  } else if (verb == "garbage") {
    const std::string junk(4096, '\xee');
    if (::write(3, junk.data(), junk.size()) < 0) std::perror("write");
  } else if (verb == "orphan") {
    in >> a;
    Orphan(a);
  } else if (verb == "try") {
    std::string name;
    in >> name;
    std::vector<std::string> words;
    while (in >> a) words.push_back(a);
    std::ofstream(folder + "/output/" + name) << quant::Attempt(words);
  } else if (verb == "inspect") {
    const std::string seen = Inspect(argc, argv);  // before one more file is open
    std::ofstream(folder + "/output/inspect.txt") << seen;
  } else if (!verb.empty()) {
    std::fprintf(stderr, "fake_child: unknown verb %s\n", verb.c_str());
    ::_exit(99);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string mode = "off";
  quant::SandboxOptions options;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--run-job") == 0) folder = argv[i + 1];
    if (std::strcmp(argv[i], "--sandbox") == 0) mode = argv[i + 1];
    if (std::strcmp(argv[i], "--threads") == 0) options.threads = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--memory") == 0) options.memory_bytes = std::atoll(argv[i + 1]);
  }
  options.folder = folder;
  if (const auto sandbox = quant::EnterSandbox(*quant::ParseSandboxMode(mode), options); !sandbox.ok()) {
    std::fprintf(stderr, "fake_child: %s\n", sandbox.status().ToString().c_str());
    return 97;
  }
  std::ifstream script(folder + "/model/script.txt");
  if (!script) return 98;
  for (std::string line; std::getline(script, line);) Do(line, argc, argv);
  return 0;
}

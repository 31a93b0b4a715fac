// SPDX-License-Identifier: Apache-2.0
#include "fuzz/fuzz_target.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>

namespace quant::fuzz {
namespace {

constexpr std::string_view kMark = "\n----\n";

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name =
        std::filesystem::is_directory("/dev/shm") ? "/dev/shm/quant-fuzz.XXXXXX" : "/tmp/quant-fuzz.XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      std::perror("mkdtemp");
      std::abort();
    }
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

std::map<std::string, Target>& Targets() {
  static auto* const targets = new std::map<std::string, Target>;
  return *targets;
}

const std::filesystem::path& EmptyFolder() {
  static const TemporaryFolder folder;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    std::filesystem::remove_all(entry.path());
  return folder.path();
}

void WriteTo(const std::filesystem::path& file, std::string_view bytes) {
  std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::vector<std::string_view> Parts(std::string_view input, size_t count) {
  std::vector<std::string_view> parts;
  while (parts.size() + 1 < count) {
    const size_t at = input.find(kMark);
    parts.push_back(input.substr(0, at));
    input = at == std::string_view::npos ? std::string_view() : input.substr(at + kMark.size());
  }
  parts.push_back(input);
  return parts;
}

Copy::Copy(std::string_view input) {
  const std::shared_ptr<std::byte[]> copy(new std::byte[input.size()]);
  if (!input.empty()) std::memcpy(copy.get(), input.data(), input.size());
  bytes = {copy.get(), input.size()};
  owner = copy;
}

}  // namespace quant::fuzz

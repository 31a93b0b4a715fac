// SPDX-License-Identifier: Apache-2.0
// What the tests of formats share: a scratch folder, whole-file reads and writes, and the real data of $QUANT_SHARED.
#ifndef QUANT_WORKER_FORMATS_TESTING_H_
#define QUANT_WORKER_FORMATS_TESTING_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "absl/log/check.h"

namespace quant::testing {

// A new folder, removed with its content at the end of the scope.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "quant_test_XXXXXX").string();
    CHECK(::mkdtemp(name.data()) != nullptr) << name;
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void WriteFile(const std::filesystem::path& file, std::string_view bytes) {
  std::ofstream out(file, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  CHECK(out.good()) << file;
}

inline std::string ReadFile(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  CHECK(in.good()) << file;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// $QUANT_SHARED/data/`name`, or an empty path when it is not there (the test then skips).
inline std::filesystem::path SharedData(std::string_view name) {
  const char* root = std::getenv("QUANT_SHARED");
  if (root == nullptr) return {};
  const std::filesystem::path path = std::filesystem::path(root) / "data" / name;
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

}  // namespace quant::testing

// Skips the running test when `path`, made by SharedData, is empty.
#define QUANT_SKIP_WITHOUT(path) \
  if ((path).empty()) GTEST_SKIP() << "real data is not there: set QUANT_SHARED to the folder that has data/"

#endif  // QUANT_WORKER_FORMATS_TESTING_H_

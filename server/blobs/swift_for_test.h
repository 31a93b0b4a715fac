// SPDX-License-Identifier: Apache-2.0
// A real S3 server for tests: tests/support/swift_server.py as a child process. It ends with this one.
#ifndef QUANT_SERVER_BLOBS_SWIFT_FOR_TEST_H_
#define QUANT_SERVER_BLOBS_SWIFT_FOR_TEST_H_

#include <filesystem>
#include <string>

#include "server/blobs/s3_client.h"

namespace quant {

// One for the program. Thread-compatible.
class SwiftForTest {
 public:
  // Starts the server at the first call; null where Swift is not installed.
  static SwiftForTest* Get();

  // To its bucket, under a prefix of its own for each call.
  S3Options NewOptions();
  // kill -9 of the server's processes, and their start on the same data.
  void Kill() { Order("kill"); }
  void Restart() { Order("restart"); }
  // The folder with the server's data: objects are *.data files in it.
  const std::filesystem::path& folder() const { return folder_; }

 private:
  SwiftForTest();
  void Order(const std::string& order);
  std::string ReadLine();

  int in_ = -1;
  int out_ = -1;
  S3Options options_;
  std::filesystem::path folder_;
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_SWIFT_FOR_TEST_H_

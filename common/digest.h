// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4): the name of every blob. OpenSSL's EVP inside.
#ifndef QUANT_COMMON_DIGEST_H_
#define QUANT_COMMON_DIGEST_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quant {

// Streaming SHA-256. Movable; a moved-from or finished object may only be destroyed or assigned to. Thread-compatible.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(std::string_view bytes);
  // The digest of all bytes so far as 64 lower-case hex digits. Call once.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The digest of `bytes` as 64 lower-case hex digits.
std::string Sha256Hex(std::string_view bytes);

// True for exactly 64 of [0-9a-f].
bool IsSha256Hex(std::string_view s);

struct FileDigest {
  std::string sha256;      // 64 lower-case hex digits
  int64_t size_bytes = 0;  // bytes that were read and hashed
};

// Reads a regular file once, front to back, in 1 MiB pieces.
//   NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION (not a regular file), UNAVAILABLE (read error): names the path.
absl::StatusOr<FileDigest> DigestFile(const std::filesystem::path& path);

}  // namespace quant

#endif  // QUANT_COMMON_DIGEST_H_

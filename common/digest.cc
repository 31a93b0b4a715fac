// SPDX-License-Identifier: Apache-2.0
#include "common/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "common/unique_fd.h"

namespace quant {

struct Sha256::State {
  EVP_MD_CTX* ctx = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(ctx); }
};

// The EVP calls fail only without memory or without the algorithm: a broken process, not an input.
Sha256::Sha256() : state_(std::make_unique<State>()) {
  CHECK(state_->ctx != nullptr && EVP_DigestInit_ex(state_->ctx, EVP_sha256(), nullptr) == 1)
      << "OpenSSL has no SHA-256";
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(std::string_view bytes) { CHECK_EQ(EVP_DigestUpdate(state_->ctx, bytes.data(), bytes.size()), 1); }

std::string Sha256::Finish() {
  static constexpr char kHex[] = "0123456789abcdef";
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK_EQ(EVP_DigestFinal_ex(state_->ctx, raw, &size), 1);
  std::string hex;
  hex.reserve(size_t{2} * size);
  for (unsigned int i = 0; i < size; ++i) {
    hex += kHex[raw[i] >> 4];
    hex += kHex[raw[i] & 15];
  }
  return hex;
}

std::string Sha256Hex(std::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

bool IsSha256Hex(std::string_view s) {
  return s.size() == 64 &&
         std::all_of(s.begin(), s.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

absl::StatusOr<FileDigest> DigestFile(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO must not hang before fstat tells what it is.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", Quoted(path.native())));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", Quoted(path.native())));
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(Quoted(path.native()), " is not a regular file"));
  }
  Sha256 hash;
  FileDigest result;
  std::vector<char> buffer(1 << 20);
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n == 0) break;
    if (n < 0) {
      if (errno == EINTR) continue;
      return absl::UnavailableError(absl::StrCat("cannot read ", Quoted(path.native()), ": errno ", errno));
    }
    hash.Update(std::string_view(buffer.data(), static_cast<size_t>(n)));
    result.size_bytes += n;
  }
  result.sha256 = hash.Finish();
  return result;
}

}  // namespace quant

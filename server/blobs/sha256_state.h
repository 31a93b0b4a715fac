// SPDX-License-Identifier: Apache-2.0
// SHA-256 whose state between two bytes can be stored and taken up again, by another process too. OpenSSL's EVP (what
// common/digest.h stands on) keeps its state to itself; this is on its older functions, of the same speed.
#ifndef QUANT_SERVER_BLOBS_SHA256_STATE_H_
#define QUANT_SERVER_BLOBS_SHA256_STATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace quant {

// Movable. Thread-compatible.
class ResumableSha256 {
 public:
  ResumableSha256();
  ~ResumableSha256();
  ResumableSha256(ResumableSha256&&) noexcept;
  ResumableSha256& operator=(ResumableSha256&&) noexcept;

  void Update(std::string_view bytes);
  // The digest of all bytes so far, 64 lower-case hex digits; more may follow.
  std::string Hex() const;

  // The state as hex digits: 32 bytes of H (FIPS 180-4, section 6.2, big-endian), then the up to 63 bytes that do not
  // fill a block yet.
  std::string Save() const;
  // The state after `bytes` bytes; nothing if `saved` is not one of so many.
  static std::optional<ResumableSha256> Restore(std::string_view saved, int64_t bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_SHA256_STATE_H_

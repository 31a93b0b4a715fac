// SPDX-License-Identifier: Apache-2.0
#define OPENSSL_SUPPRESS_DEPRECATED  // SHA256_CTX: deprecated for EVP, whose state cannot be read
#include "server/blobs/sha256_state.h"

#include <openssl/sha.h>

#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/strings.h"

namespace quant {

struct ResumableSha256::State {
  SHA256_CTX context;
};

ResumableSha256::ResumableSha256() : state_(std::make_unique<State>()) { SHA256_Init(&state_->context); }
ResumableSha256::~ResumableSha256() = default;
ResumableSha256::ResumableSha256(ResumableSha256&&) noexcept = default;
ResumableSha256& ResumableSha256::operator=(ResumableSha256&&) noexcept = default;

void ResumableSha256::Update(std::string_view bytes) { SHA256_Update(&state_->context, bytes.data(), bytes.size()); }

std::string ResumableSha256::Hex() const {
  SHA256_CTX copy = state_->context;
  unsigned char out[SHA256_DIGEST_LENGTH];
  SHA256_Final(out, &copy);
  return absl::BytesToHexString({reinterpret_cast<const char*>(out), sizeof(out)});
}

std::string ResumableSha256::Save() const {
  const SHA256_CTX& context = state_->context;
  std::string bytes;
  for (const SHA_LONG word : context.h) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift & 0xff);
  }
  bytes.append(reinterpret_cast<const char*>(context.data), context.num);
  return absl::BytesToHexString(bytes);
}

std::optional<ResumableSha256> ResumableSha256::Restore(std::string_view saved, int64_t bytes) {
  std::string raw;
  if (bytes < 0 || saved.size() != 2 * (32 + static_cast<size_t>(bytes % 64)) ||
      !absl::HexStringToBytes(AbslView(saved), &raw)) {
    return std::nullopt;
  }
  std::optional<ResumableSha256> hash(std::in_place);
  SHA256_CTX& context = hash->state_->context;
  for (size_t i = 0; i < 8; ++i) {
    context.h[i] = 0;
    for (size_t j = 0; j < 4; ++j) context.h[i] = context.h[i] << 8 | static_cast<unsigned char>(raw[4 * i + j]);
  }
  const uint64_t bits = static_cast<uint64_t>(bytes) * 8;
  context.Nl = static_cast<SHA_LONG>(bits);
  context.Nh = static_cast<SHA_LONG>(bits >> 32);
  context.num = static_cast<unsigned>(bytes % 64);
  std::memcpy(context.data, raw.data() + 32, context.num);
  return hash;
}

}  // namespace quant

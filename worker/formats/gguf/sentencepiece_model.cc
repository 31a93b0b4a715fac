// SPDX-License-Identifier: Apache-2.0
// The few fields of sentencepiece's ModelProto that GGUF wants, read straight from the wire: the library hides them.
//
// Message (google/sentencepiece src/sentencepiece_model.proto): pieces = 1 {piece = 1, score = 2, type = 3},
// normalizer_spec = 3 {add_dummy_prefix = 3}.
#include <cmath>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "worker/formats/gguf/vocabulary.h"

namespace quant {
namespace {

constexpr size_t kMaxPieces = 4'000'000;

struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;  // 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes
  uint64_t varint = 0;
  std::string_view bytes;
};

// Fields of a message, one after the other; nullopt at the end or when the bytes are malformed (then ok() is false).
class Wire {
 public:
  explicit Wire(std::string_view bytes) : left_(bytes) {}

  std::optional<Field> Next() {
    if (left_.empty() || !ok_) return std::nullopt;
    Field f;
    const uint64_t key = Varint();
    f.number = static_cast<uint32_t>(key >> 3);
    f.wire = static_cast<uint32_t>(key & 7);
    switch (f.wire) {
      case 0:
        f.varint = Varint();
        break;
      case 1:
        f.bytes = Take(8);
        break;
      case 2:
        f.bytes = Take(Varint());
        break;
      case 5:
        f.bytes = Take(4);
        break;
      default:
        ok_ = false;
    }
    if (!ok_ || f.number == 0) {
      ok_ = false;
      return std::nullopt;
    }
    return f;
  }
  bool ok() const { return ok_; }

 private:
  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (left_.empty()) break;
      const auto byte = static_cast<unsigned char>(left_[0]);
      left_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    ok_ = false;
    return 0;
  }
  std::string_view Take(uint64_t n) {
    if (n > left_.size()) {
      ok_ = false;
      return {};
    }
    const std::string_view taken = left_.substr(0, n);
    left_.remove_prefix(n);
    return taken;
  }

  std::string_view left_;
  bool ok_ = true;
};

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  const auto malformed = [] { return absl::InvalidArgumentError("tokenizer.model is no SentencePiece model"); };
  Wire wire(bytes);
  while (const std::optional<Field> field = wire.Next()) {
    if (field->number == 1 && field->wire == 2) {
      if (model.pieces.size() >= kMaxPieces) return malformed();
      SentencePiece piece;
      Wire inner(field->bytes);
      while (const std::optional<Field> f = inner.Next()) {
        if (f->number == 1 && f->wire == 2) piece.text = f->bytes;
        if (f->number == 2 && f->wire == 5) std::memcpy(&piece.score, f->bytes.data(), 4);
        if (f->number == 3 && f->wire == 0) piece.type = static_cast<int32_t>(f->varint);
      }
      if (!inner.ok() || piece.type < 1 || piece.type > 6 || !std::isfinite(piece.score)) return malformed();
      model.pieces.push_back(std::move(piece));
    } else if (field->number == 3 && field->wire == 2) {
      Wire inner(field->bytes);
      while (const std::optional<Field> f = inner.Next()) {
        if (f->number == 3 && f->wire == 0) model.add_dummy_prefix = f->varint != 0;
      }
      if (!inner.ok()) return malformed();
    }
  }
  if (!wire.ok() || model.pieces.empty()) return malformed();
  return model;
}

}  // namespace quant

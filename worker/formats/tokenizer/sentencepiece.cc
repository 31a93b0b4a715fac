// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/sentencepiece.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/tokenizer/sentencepiece_library.h"

namespace quant::tokenizer {
namespace {

class SentencePieceTokenizer : public Tokenizer {
 public:
  absl::Status Read(const std::filesystem::path& file) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
    if (static_cast<int64_t>(mapped->bytes().size()) > kMaxTokenizerBytes) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.model has ", mapped->bytes().size(), " bytes; at most ",
                                                     kMaxTokenizerBytes, " are read"));
    }
    std::string why;
    library_ = SentencePieceLibrary::Open(&why);
    if (library_ == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("tokenizer.model needs libsentencepiece, which cannot be loaded: ", why));
    }
    if (const std::string wrong = library_->Load(mapped->text()); !wrong.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.model is not a SentencePiece model: ", Quoted(wrong)));
    }
    if (vocab_size() < 1 || vocab_size() > kMaxVocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.model has ", vocab_size(), " pieces; 1 to ", kMaxVocabulary, " are read"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special) const override {
    if (static_cast<int64_t>(text.size()) > kMaxTextBytes) {
      return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(), " bytes; at most ", kMaxTextBytes,
                                                     " are tokenized at once: split it into documents"));
    }
    if (!IsValidUtf8(text)) return absl::InvalidArgumentError("the text is not UTF-8");
    std::vector<int> pieces;
    if (const std::string wrong = library_->Encode(text, pieces); !wrong.empty()) {
      return absl::InternalError(absl::StrCat("SentencePiece: ", Quoted(wrong)));
    }
    std::vector<int32_t> ids;
    ids.reserve(pieces.size() + 1);
    if (add_special && bos().has_value()) ids.push_back(*bos());
    ids.insert(ids.end(), pieces.begin(), pieces.end());
    return ids;
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocab_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("id ", ids[i], " at position ", i, " is outside the vocabulary of ", vocab_size()));
      }
    }
    std::string text;
    if (const std::string wrong = library_->Decode({ids.begin(), ids.end()}, text); !wrong.empty()) {
      return absl::InternalError(absl::StrCat("SentencePiece: ", Quoted(wrong)));
    }
    return text;
  }

  int64_t vocab_size() const override { return library_->size(); }
  std::string_view token(int32_t id) const override {
    return id < 0 || id >= vocab_size() ? std::string_view() : library_->piece(id);
  }
  std::optional<int32_t> bos() const override { return Known(library_->bos()); }
  std::optional<int32_t> eos() const override { return Known(library_->eos()); }

 private:
  static std::optional<int32_t> Known(int id) { return id < 0 ? std::nullopt : std::optional<int32_t>(id); }

  std::unique_ptr<SentencePieceLibrary> library_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::filesystem::path& folder) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  RETURN_IF_ERROR(tokenizer->Read(folder / "tokenizer.model"));
  return tokenizer;
}

}  // namespace quant::tokenizer

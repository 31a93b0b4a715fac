// SPDX-License-Identifier: Apache-2.0
// quant_sentencepiece.so: see sentencepiece_library.h.
#include <sentencepiece_processor.h>

#include <exception>

#include "worker/formats/tokenizer/sentencepiece_library.h"

namespace quant::tokenizer {
namespace {

// Runs `call`, which gives a sentencepiece::util::Status.
template <typename Call>
std::string Message(Call call) {
  try {
    const sentencepiece::util::Status status = call();
    return status.ok() ? "" : status.ToString();
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown exception";
  }
}

class Library : public SentencePieceLibrary {
 public:
  Library() { sentencepiece::SetMinLogLevel(3); }  // errors come back as text

  std::string Load(std::string_view model) override {
    return Message([&] { return processor_.LoadFromSerializedProto(model); });
  }
  std::string Encode(std::string_view text, std::vector<int>& ids) const override {
    return Message([&] { return processor_.Encode(text, &ids); });
  }
  std::string Decode(const std::vector<int>& ids, std::string& text) const override {
    return Message([&] { return processor_.Decode(ids, &text); });
  }
  int size() const override { return processor_.GetPieceSize(); }
  std::string_view piece(int id) const override { return processor_.IdToPiece(id); }
  int bos() const override { return processor_.bos_id(); }
  int eos() const override { return processor_.eos_id(); }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace
}  // namespace quant::tokenizer

extern "C" __attribute__((visibility("default"))) quant::tokenizer::SentencePieceLibrary* QuantMakeSentencePiece() {
  return new quant::tokenizer::Library;
}

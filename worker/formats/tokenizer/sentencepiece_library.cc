// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/sentencepiece_library.h"

#include <sentencepiece_processor.h>

#include <exception>

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

}  // namespace

SentencePieceLibrary::SentencePieceLibrary() : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  sentencepiece::SetMinLogLevel(3);  // errors come back as text
}
SentencePieceLibrary::~SentencePieceLibrary() = default;

std::string SentencePieceLibrary::Load(std::string_view model) {
  return Message([&] { return processor_->LoadFromSerializedProto(model); });
}
std::string SentencePieceLibrary::Encode(std::string_view text, std::vector<int>& ids) const {
  return Message([&] { return processor_->Encode(text, &ids); });
}
std::string SentencePieceLibrary::Decode(const std::vector<int>& ids, std::string& text) const {
  return Message([&] { return processor_->Decode(ids, &text); });
}
int SentencePieceLibrary::size() const { return processor_->GetPieceSize(); }
std::string_view SentencePieceLibrary::piece(int id) const { return processor_->IdToPiece(id); }
int SentencePieceLibrary::bos() const { return processor_->bos_id(); }
int SentencePieceLibrary::eos() const { return processor_->eos_id(); }

}  // namespace quant::tokenizer

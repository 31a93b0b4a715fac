// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/sentencepiece_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace quant::tokenizer {

std::unique_ptr<SentencePieceLibrary> SentencePieceLibrary::Open(std::string* why) {
#if defined(__SANITIZE_ADDRESS__)
  // The sanitizer's interceptors cannot be bound past.
  *why = "a program with AddressSanitizer cannot load libsentencepiece";
  return nullptr;
#else
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path module = program.parent_path() / "quant_sentencepiece.so";
  // Never closed: its code may run until the process ends.
  void* const handle = ::dlopen(module.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  void* const make = handle == nullptr ? nullptr : ::dlsym(handle, kMakeSentencePiece);
  if (make == nullptr) {
    const char* text = ::dlerror();
    *why = text == nullptr ? "unknown error" : text;
    return nullptr;
  }
  return std::unique_ptr<SentencePieceLibrary>(reinterpret_cast<MakeSentencePiece>(make)());
#endif
}

}  // namespace quant::tokenizer

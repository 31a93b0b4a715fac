// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/text.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/dataset/arrays.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kSeparator = "<|endoftext|>";
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

absl::Status TooMany(int64_t tokens, const TokenDatasetOptions& options) {
  return absl::ResourceExhaustedError(
      absl::StrCat("more than ", tokens, " tokens; at most ", options.max_tokens, " are read: give less text"));
}

// ---- text

std::string_view WithoutLineBreak(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.ends_with('\r')) text.remove_suffix(1);
  return text;
}

// The non-empty documents of a file.
std::vector<std::string_view> Documents(std::string_view text) {
  std::vector<std::string_view> documents;
  const auto add = [&](size_t begin, size_t end) {
    const std::string_view document = WithoutLineBreak(text.substr(begin, end - begin));
    if (!document.empty()) documents.push_back(document);
  };
  size_t begin = 0;
  for (size_t line = 0; line < text.size();) {
    const size_t newline = text.find('\n', line);
    const size_t next = newline == std::string_view::npos ? text.size() : newline + 1;
    if (WithoutLineBreak(text.substr(line, next - line)) == kSeparator) {
      add(begin, line);
      begin = next;
    }
    line = next;
  }
  add(begin, text.size());
  return documents;
}

// The first byte of `text`, which is not well-formed, that begins no character.
size_t FirstWrongByte(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const auto lead = static_cast<unsigned char>(text[at]);
    const size_t bytes = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (!IsValidUtf8(text.substr(at, bytes))) break;
    at += bytes;
  }
  return at;
}

absl::Status ReadTextFile(const fs::path& file, const Tokenizer& tokenizer, int64_t vocab_size,
                          const TokenDatasetOptions& options, int64_t& bytes_left, int64_t& tokens,
                          TokenDataset& dataset) {
  const std::string name = Quoted(file.filename().string());
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  std::string_view text = mapped->text();
  bytes_left -= static_cast<int64_t>(text.size());
  if (bytes_left < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the text files have more than ", options.max_text_bytes, " bytes together: give less text"));
  }
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not UTF-8 at byte ", FirstWrongByte(text)));
  }
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  for (const std::string_view document : Documents(text)) {
    absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(document, /*add_special=*/false);
    if (!ids.ok()) return absl::Status(ids.status().code(), absl::StrCat(name, ": ", ids.status().message()));
    if (dataset.bos.has_value()) ids->insert(ids->begin(), *dataset.bos);
    for (size_t i = 0; i < ids->size(); ++i) {
      const int32_t id = (*ids)[i];
      if (id < vocab_size) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("the tokenizer does not fit the model: token ", i, " of document ", dataset.documents.size(),
                       " is ", id, " (", Quoted(tokenizer.token(id)), "), the model's vocabulary has ", vocab_size));
    }
    tokens += static_cast<int64_t>(ids->size());
    if (tokens > options.max_tokens) return TooMany(options.max_tokens, options);
    if (!ids->empty()) dataset.documents.push_back(*std::move(ids));
  }
  return absl::OkStatus();
}

// ---- arrays

// Removes and returns the array `name`, of integers; an empty vector of ids and no shape when there is none.
struct Integers {
  std::vector<int64_t> shape;
  std::vector<int64_t> values;
};

absl::StatusOr<Integers> TakeIntegers(Arrays& arrays, const std::string& name, const TokenDatasetOptions& options) {
  const auto it = arrays.find(name);
  const Tensor array = std::move(it->second);
  arrays.erase(it);
  if (IsFloat(array.dtype()) || array.dtype() == DType::kUInt64) {
    return absl::InvalidArgumentError(absl::StrCat("array ", Quoted(name), " is ", DTypeName(array.dtype()),
                                                   "; token ids are integers of at most 63 bits"));
  }
  if (array.elements() > options.max_tokens) return TooMany(options.max_tokens, options);
  Integers integers;
  integers.shape.assign(array.shape().begin(), array.shape().end());
  ASSIGN_OR_RETURN(integers.values, ToInt64(array));
  return integers;
}

// The name of the array of ids.
absl::StatusOr<std::string> IdsName(const Arrays& arrays) {
  for (const char* name : {"input_ids", "tokens"}) {
    if (arrays.contains(name)) return name;
  }
  if (arrays.size() == 1) return arrays.begin()->first;
  return absl::InvalidArgumentError(
      absl::StrCat("no array called input_ids or tokens, and not just one: there are ", ArrayNames(arrays)));
}

// Where the documents begin, and after them the number of tokens.
absl::StatusOr<std::vector<int64_t>> Starts(const Integers& ids, const Integers& offsets) {
  const auto tokens = static_cast<int64_t>(ids.values.size());
  std::vector<int64_t> starts;
  if (ids.shape.size() == 2) {
    for (int64_t row = 0; row <= ids.shape[0]; ++row) starts.push_back(row * ids.shape[1]);
    return starts;
  }
  starts = offsets.values;
  if (offsets.shape.empty()) starts = {0};
  for (size_t i = 0; i < starts.size(); ++i) {
    if (starts[i] >= (i == 0 ? 0 : starts[i - 1]) && starts[i] <= tokens) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "offset ", i, " is ", starts[i], "; offsets do not fall and go from 0 to ", tokens, ", the number of tokens"));
  }
  if (starts.empty() || starts[0] != 0) {
    return absl::InvalidArgumentError("offsets do not begin with 0: tokens before the first document");
  }
  if (starts.back() != tokens || starts.size() == 1) starts.push_back(tokens);
  return starts;
}

absl::StatusOr<TokenDataset> FromArrays(Arrays arrays, int64_t vocab_size, const TokenDatasetOptions& options) {
  Integers offsets;
  Integers mask;
  if (arrays.contains("offsets")) {
    ASSIGN_OR_RETURN(offsets, TakeIntegers(arrays, "offsets", options));
    if (offsets.shape.size() != 1) return absl::InvalidArgumentError("offsets have more than one axis");
  }
  if (arrays.contains("attention_mask")) {
    ASSIGN_OR_RETURN(mask, TakeIntegers(arrays, "attention_mask", options));
  }
  ASSIGN_OR_RETURN(const std::string name, IdsName(arrays));
  ASSIGN_OR_RETURN(const Integers ids, TakeIntegers(arrays, name, options));
  const size_t rank = ids.shape.size();
  if (rank != 1 && rank != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("array ", Quoted(name), " has ", rank, " axes; want [documents, tokens] or [tokens]"));
  }
  if (rank == 2 && !offsets.shape.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("offsets beside an array ", Quoted(name), " of two axes"));
  }
  if (!mask.shape.empty() && mask.shape != ids.shape) {
    return absl::InvalidArgumentError(absl::StrCat("attention_mask has another shape than ", Quoted(name)));
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> starts, Starts(ids, offsets));
  TokenDataset dataset;
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    std::vector<int32_t> document;
    for (int64_t i = starts[d]; i < starts[d + 1]; ++i) {
      const auto at = static_cast<size_t>(i);
      if (!mask.shape.empty() && mask.values[at] == 0) continue;
      const int64_t id = ids.values[at];
      if (id < 0 || id >= vocab_size) {
        return absl::InvalidArgumentError(absl::StrCat("token ", i - starts[d], " of document ", d, " is ", id,
                                                       ", outside the model's vocabulary of ", vocab_size));
      }
      document.push_back(static_cast<int32_t>(id));
    }
    if (!document.empty()) dataset.documents.push_back(std::move(document));
  }
  return dataset;
}

absl::StatusOr<TokenDataset> Open(const fs::path& path, const Tokenizer* tokenizer, int64_t vocab_size,
                                  const TokenDatasetOptions& options) {
  std::vector<fs::path> files{path};
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    return absl::NotFoundError(absl::StrCat("no file or folder ", Quoted(path.filename().string())));
  const bool folder = fs::is_directory(status);
  if (folder) {
    ASSIGN_OR_RETURN(files, ListFiles(path));
  }
  TokenDataset dataset;
  ASSIGN_OR_RETURN(Arrays arrays, ReadArrays(files));
  if (!arrays.empty()) {
    ASSIGN_OR_RETURN(dataset, FromArrays(std::move(arrays), vocab_size, options));
  } else {
    std::erase_if(files, [&](const fs::path& file) { return folder && file.extension() != ".txt"; });
    if (files.empty()) {
      return absl::InvalidArgumentError(
          "no .txt file and no array of token ids (.npy, .npz, .safetensors) for a language model");
    }
    if (tokenizer == nullptr) {
      return absl::FailedPreconditionError(
          "text, but the model has no tokenizer (tokenizer.json or tokenizer.model): add one to the model, or give "
          "token "
          "ids as an array [documents, tokens]");
    }
    dataset.bos = tokenizer->bos();
    int64_t bytes_left = options.max_text_bytes;
    int64_t tokens = 0;
    for (const fs::path& file : files) {
      RETURN_IF_ERROR(ReadTextFile(file, *tokenizer, vocab_size, options, bytes_left, tokens, dataset));
    }
  }
  if (dataset.documents.empty()) return absl::InvalidArgumentError("there is no token in it");
  return dataset;
}

}  // namespace

absl::StatusOr<TokenDataset> OpenTokenDataset(const fs::path& path, const Tokenizer* tokenizer, int64_t vocab_size,
                                              const TokenDatasetOptions& options) {
  absl::StatusOr<TokenDataset> dataset = Open(path, tokenizer, vocab_size, options);
  if (dataset.ok()) return dataset;
  return absl::Status(dataset.status().code(), absl::StrCat("dataset: ", dataset.status().message()));
}

absl::StatusOr<std::vector<std::vector<int32_t>>> MakeWindows(const TokenDataset& dataset,
                                                              const WindowOptions& options) {
  if (options.length < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a window of ", options.length, " tokens predicts nothing; at least 2"));
  }
  const auto length = static_cast<size_t>(options.length);
  std::vector<std::vector<int32_t>> windows;
  const bool stream =
      options.mode == WindowMode::kStream || (options.mode == WindowMode::kDefault && dataset.documents.size() <= 1);
  if (!stream) {
    for (const std::vector<int32_t>& document : dataset.documents) {
      if (document.size() < 2) continue;
      windows.emplace_back(document.begin(),
                           document.begin() + static_cast<ptrdiff_t>(std::min(length, document.size())));
    }
    if (!windows.empty()) return windows;
    return absl::InvalidArgumentError(
        absl::StrCat("none of the ", dataset.documents.size(), " documents has 2 tokens or more"));
  }
  size_t tokens = 0;
  std::vector<int32_t> window;
  for (const std::vector<int32_t>& document : dataset.documents) {
    const bool drop_bos = tokens > 0 && dataset.bos.has_value();
    for (size_t i = drop_bos ? 1 : 0; i < document.size(); ++i) {
      window.push_back(document[i]);
      ++tokens;
      if (window.size() < length) continue;
      windows.push_back(std::move(window));
      window.clear();
    }
  }
  if (!windows.empty()) return windows;
  return absl::InvalidArgumentError(absl::StrCat("the text has ", tokens, " tokens, a window has ", options.length,
                                                 ": give more text or a shorter window"));
}

}  // namespace quant

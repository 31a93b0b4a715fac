// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFile = size_t{128} << 20;
constexpr int kMaxDepth = 64;
enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

absl::Status Malformed(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", AbslView(why)));
}

bool HasFile(const Checkpoint& checkpoint, std::string_view name) {
  const std::vector<std::string>& files = checkpoint.other_files();
  return std::find(files.begin(), files.end(), name) != files.end();
}

absl::StatusOr<Json> ReadJson(const Checkpoint& checkpoint, const std::string& name) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::OpenBeneath(checkpoint.folder(), name));
  if (file->bytes().size() > kMaxFile) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has more than ", kMaxFile, " bytes"));
  }
  bool deep = false;
  Json json = Json::parse(
      file->text(),
      [&](int depth, Json::parse_event_t /*event*/, Json& /*value*/) {
        deep = deep || depth > kMaxDepth;
        return !deep;
      },
      /*allow_exceptions=*/false);
  if (deep || !json.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, " is not a JSON object"));
  return json;
}

const Json& Member(const Json& json, const char* key) {
  static const Json kNull;
  const auto it = json.is_object() ? json.find(key) : json.end();
  return it == json.end() ? kNull : *it;
}

// Whether `json` (a normalizer, pre-tokenizer or decoder, or a sequence of them) has a step of the type.
bool HasStep(const Json& json, std::string_view type) {
  if (json.is_array()) return std::any_of(json.begin(), json.end(), [&](const Json& j) { return HasStep(j, type); });
  if (!json.is_object()) return false;
  const Json& own = Member(json, "type");
  if (own.is_string() && own.get_ref<const std::string&>() == type) return true;
  for (const char* list : {"normalizers", "pretokenizers", "decoders"}) {
    if (HasStep(Member(json, list), type)) return true;
  }
  return false;
}

// The regular expression of the first Split step, or "".
std::string SplitPattern(const Json& json) {
  if (json.is_array()) {
    for (const Json& j : json) {
      if (std::string p = SplitPattern(j); !p.empty()) return p;
    }
    return "";
  }
  const Json& type = Member(json, "type");
  if (type.is_string() && type.get_ref<const std::string&>() == "Split") {
    const Json& regex = Member(Member(json, "pattern"), "Regex");
    if (regex.is_string()) return regex.get<std::string>();
  }
  return json.is_object() ? SplitPattern(Member(json, "pretokenizers")) : "";
}

// llama.cpp's names of ways to split, by the expressions of the tokenizers they were made for.
std::string PreTokenizerName(const Json& pre_tokenizer, std::vector<std::string>* notes) {
  static const std::pair<const char*, const char*> kKnown[] = {
      {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
       "llama-bpe"},
      {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
       "qwen2"}};
  const std::string pattern = SplitPattern(pre_tokenizer);
  for (const auto& [known, name] : kKnown) {
    if (pattern == known) return name;
  }
  if (pattern.empty() && HasStep(pre_tokenizer, "ByteLevel")) {
    return HasStep(pre_tokenizer, "Digits") ? "smollm" : "gpt-2";
  }
  notes->push_back(absl::StrCat("gguf: llama.cpp has no name for this tokenizer's way to split text (", Quoted(pattern),
                                "); its default is used, and it may find other tokens"));
  return "default";
}

bool IsTrue(const Json& json) { return json.is_boolean() && json.get<bool>(); }

// Whether `json` is this string.
bool Is(const Json& json, std::string_view text) {
  return json.is_string() && json.get_ref<const std::string&>() == text;
}

bool IsByteToken(std::string_view s) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return s.size() == 6 && s.starts_with("<0x") && s[5] == '>' && hex(s[3]) && hex(s[4]);
}

// Tokens by id from the model's vocabulary and the added tokens; gaps stay empty.
absl::Status ReadTokens(const Json& json, int64_t vocab_size, GgufVocabulary* out) {
  const Json& vocab = Member(Member(json, "model"), "vocab");
  if (!vocab.is_object()) return Malformed("model.vocab is not an object");
  out->tokens.assign(static_cast<size_t>(vocab_size), "");
  out->types.assign(static_cast<size_t>(vocab_size), kUnused);
  const auto put = [&](const std::string& text, const Json& id, int32_t type) -> absl::Status {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
      return Malformed(absl::StrCat("token ", Quoted(text), " has id ", id.dump(),
                                    ", but config.json has a vocabulary of ", vocab_size));
    }
    const auto at = static_cast<size_t>(id.get<uint64_t>());
    if (out->types[at] != kUnused && out->tokens[at] != text) {
      return Malformed(absl::StrCat("two tokens have id ", at));
    }
    out->tokens[at] = text;
    out->types[at] = type;
    return absl::OkStatus();
  };
  const Json& unknown = Member(Member(json, "model"), "unk_token");
  const bool fallback = IsTrue(Member(Member(json, "model"), "byte_fallback"));
  for (const auto& [text, id] : vocab.items()) {
    const int32_t type = Is(unknown, text) ? kUnknown : fallback && IsByteToken(text) ? kByte : kNormal;
    RETURN_IF_ERROR(put(text, id, type));
  }
  for (const Json& added : Member(json, "added_tokens")) {
    const Json& content = Member(added, "content");
    if (!content.is_string()) return Malformed("an added token has no content");
    const int32_t type = IsTrue(Member(added, "special")) ? kControl : kUserDefined;
    RETURN_IF_ERROR(put(content.get<std::string>(), Member(added, "id"),
                        Is(unknown, content.get_ref<const std::string&>()) ? kUnknown : type));
  }
  for (size_t i = 0; i < out->tokens.size(); ++i) {
    if (out->types[i] == kUnused) out->tokens[i] = absl::StrCat("[PAD", i, "]");
  }
  return absl::OkStatus();
}

// Merges as pairs: "a b", or ["a", "b"] in newer files.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ReadMerges(const Json& json) {
  const Json& list = Member(Member(json, "model"), "merges");
  if (!list.is_array()) return Malformed("model.merges is not an array");
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(list.size());
  for (const Json& m : list) {
    if (m.is_string()) {
      const auto& text = m.get_ref<const std::string&>();
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos) return Malformed(absl::StrCat("merge ", Quoted(text), " has no two parts"));
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
      merges.emplace_back(m[0].get<std::string>(), m[1].get<std::string>());
    } else {
      return Malformed("a merge has no two parts");
    }
  }
  return merges;
}

// Scores by rank of merge, and how many tokens can also be made of a pair that no merge names.
void ScoreByMerges(const std::vector<std::pair<std::string, std::string>>& merges, GgufVocabulary* out) {
  std::unordered_map<std::string, float> score;
  std::unordered_set<std::string> pairs;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    score.emplace(merges[rank].first + merges[rank].second, -static_cast<float>(rank));
    pairs.insert(absl::StrCat(merges[rank].first, " ", merges[rank].second));
  }
  std::unordered_set<std::string> known;
  for (size_t i = 0; i < out->tokens.size(); ++i) {
    if (out->types[i] == kNormal) known.insert(out->tokens[i]);
  }
  out->scores.assign(out->tokens.size(), 0);
  constexpr size_t kLongest = 64;
  int64_t ambiguous = 0;
  for (size_t i = 0; i < out->tokens.size(); ++i) {
    const std::string& token = out->tokens[i];
    if (out->types[i] != kNormal) continue;
    const auto it = score.find(token);
    out->scores[i] = it != score.end() ? it->second : -static_cast<float>(merges.size() + i);
    if (it == score.end() || token.size() > kLongest) continue;
    bool other = false;
    for (size_t cut = 1; cut < token.size() && !other; ++cut) {
      const std::string a = token.substr(0, cut), b = token.substr(cut);
      other = known.contains(a) && known.contains(b) && !pairs.contains(absl::StrCat(a, " ", b));
    }
    ambiguous += other ? 1 : 0;
  }
  if (ambiguous > 0) {
    out->notes.push_back(absl::StrCat("gguf: ", ambiguous, " of ", out->tokens.size(),
                                      " tokens can be made of two pieces that the tokenizer never merges; llama.cpp, "
                                      "which merges by score, may split "
                                      "such text otherwise"));
  }
}

absl::Status FromTokenizerJson(const Json& json, int64_t vocab_size, GgufVocabulary* out) {
  const Json& model = Member(json, "model");
  const Json& type = Member(model, "type");
  if (!Is(type, "BPE") && !type.is_null()) {
    return absl::UnimplementedError(absl::StrCat("a tokenizer.json of type ", type.dump(),
                                                 " cannot be put into a GGUF file; BPE and SentencePiece models can"));
  }
  RETURN_IF_ERROR(ReadTokens(json, vocab_size, out));
  ASSIGN_OR_RETURN(auto merges, ReadMerges(json));
  const Json& pre = Member(json, "pre_tokenizer");
  if (HasStep(pre, "ByteLevel") || HasStep(Member(json, "decoder"), "ByteLevel")) {
    out->model = "gpt2";
    out->pre = PreTokenizerName(pre, &out->notes);
    for (const auto& [a, b] : merges) out->merges.push_back(absl::StrCat(a, " ", b));
    return absl::OkStatus();
  }
  out->model = "llama";
  out->add_space_prefix = HasStep(Member(json, "normalizer"), "Prepend") || HasStep(pre, "Metaspace");
  ScoreByMerges(merges, out);
  return absl::OkStatus();
}

absl::Status FromSentencePiece(std::string_view bytes, int64_t vocab_size, GgufVocabulary* out) {
  ASSIGN_OR_RETURN(SentencePieceModel model, ParseSentencePieceModel(bytes));
  if (static_cast<int64_t>(model.pieces.size()) > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.model has ", model.pieces.size(),
                                                   " pieces, but config.json has a vocabulary of ", vocab_size));
  }
  out->model = "llama";
  out->add_space_prefix = model.add_dummy_prefix;
  for (SentencePiece& p : model.pieces) {
    out->tokens.push_back(std::move(p.text));
    out->scores.push_back(p.score);
    out->types.push_back(p.type);
  }
  constexpr float kLow = -10000;  // never merged
  for (int64_t i = static_cast<int64_t>(out->tokens.size()); i < vocab_size; ++i) {
    out->tokens.push_back(absl::StrCat("[PAD", i, "]"));
    out->scores.push_back(kLow);
    out->types.push_back(kUnused);
  }
  return absl::OkStatus();
}

// What a "llama" tokenizer cannot spell it writes as bytes; llama.cpp (v0.5.0) ends with an exception when the byte has
// no token (llama_vocab::byte_to_token), where the checkpoint's own tokenizer gives the unknown token.
void NoteMissingBytes(GgufVocabulary* out) {
  const std::unordered_set<std::string_view> known(out->tokens.begin(), out->tokens.end());
  int missing = 0;
  for (int b = 0; b < 256; ++b) {
    const char as_text[] = {static_cast<char>(b), '\0'};
    missing += known.contains(absl::StrFormat("<0x%02X>", b)) || known.contains(as_text) ? 0 : 1;
  }
  if (missing == 0) return;
  out->notes.push_back(absl::StrCat("gguf: the tokenizer has no token for ", missing,
                                    " of the 256 bytes; llama.cpp fails on text with a character that is not in the "
                                    "vocabulary"));
}

// bos_token and the like: a string, or an object with content.
std::string TokenText(const Json& config, const char* key) {
  const Json& value = Member(config, key);
  if (value.is_string()) return value.get<std::string>();
  const Json& content = Member(value, "content");
  return content.is_string() ? content.get<std::string>() : std::string();
}

// Special tokens: tokenizer_config.json names them by text, config.json by id.
absl::Status ReadSpecial(const Checkpoint& checkpoint, const Json& tokenizer, const Json& config, GgufVocabulary* out) {
  std::unordered_map<std::string, uint32_t> id_of;
  for (size_t i = 0; i < out->tokens.size(); ++i) id_of.emplace(out->tokens[i], static_cast<uint32_t>(i));
  // Added tokens of a SentencePiece model stand only here.
  for (const auto& [key, added] : Member(config, "added_tokens_decoder").items()) {
    const Json& content = Member(added, "content");
    if (!content.is_string() || key.empty() || key.size() > 9 ||
        key.find_first_not_of("0123456789") != std::string::npos)
      continue;
    const size_t id = std::stoul(key);
    if (id >= out->tokens.size() || (out->types[id] != kUnused && !Is(content, out->tokens[id]))) continue;
    out->tokens[id] = content.get<std::string>();
    if (out->types[id] != kUnknown) out->types[id] = IsTrue(Member(added, "special")) ? kControl : kUserDefined;
    id_of[out->tokens[id]] = static_cast<uint32_t>(id);
  }
  const auto find = [&](const char* name) -> std::optional<uint32_t> {
    const auto it = id_of.find(TokenText(config, name));
    if (it != id_of.end()) return it->second;
    const Json* id = &Member(checkpoint.config(), absl::StrCat(name, "_id").c_str());
    if (id->is_array() && !id->empty()) id = &(*id)[0];
    if (id->is_number_unsigned() && id->get<uint64_t>() < out->tokens.size()) return id->get<uint32_t>();
    return std::nullopt;
  };
  out->bos = find("bos_token");
  out->eos = find("eos_token");
  out->padding = find("pad_token");
  out->unknown = find("unk_token");
  // The post-processor says what the fast tokenizer really does; otherwise SentencePiece models begin with BOS.
  bool by_template = false;
  for (const Json& piece : Member(Member(tokenizer, "post_processor"), "single")) {
    const Json& special = Member(Member(piece, "SpecialToken"), "id");
    if (out->bos.has_value() && Is(special, out->tokens[*out->bos])) by_template = true;
  }
  const Json& add_bos = Member(config, "add_bos_token");
  const Json& add_eos = Member(config, "add_eos_token");
  out->add_bos =
      add_bos.is_boolean() ? add_bos.get<bool>() : by_template || (out->model == "llama" && tokenizer.is_null());
  out->add_eos = add_eos.is_boolean() && add_eos.get<bool>();
  const Json& chat = Member(config, "chat_template");
  if (chat.is_string()) out->chat_template = chat.get<std::string>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufVocabulary> ReadGgufVocabulary(const Checkpoint& checkpoint, int64_t vocab_size) {
  GgufVocabulary out;
  Json tokenizer, config;
  if (HasFile(checkpoint, "tokenizer_config.json")) {
    ASSIGN_OR_RETURN(config, ReadJson(checkpoint, "tokenizer_config.json"));
  }
  const bool has_json = HasFile(checkpoint, "tokenizer.json");
  bool by_pieces = false;
  if (HasFile(checkpoint, "tokenizer.model")) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file,
                     MappedFile::OpenBeneath(checkpoint.folder(), "tokenizer.model"));
    absl::Status read = FromSentencePiece(file->text(), vocab_size, &out);
    if (!read.ok() && !has_json) return read;
    by_pieces = read.ok();  // some models have another kind of file of this name
  }
  if (!by_pieces) {
    if (!has_json) {
      return absl::NotFoundError(
          "a GGUF file holds the tokenizer, but the checkpoint has neither tokenizer.json nor tokenizer.model");
    }
    ASSIGN_OR_RETURN(tokenizer, ReadJson(checkpoint, "tokenizer.json"));
    RETURN_IF_ERROR(FromTokenizerJson(tokenizer, vocab_size, &out));
  }
  RETURN_IF_ERROR(ReadSpecial(checkpoint, tokenizer, config, &out));
  if (out.model == "llama") NoteMissingBytes(&out);
  return out;
}

GgufKeys VocabularyKeys(const GgufVocabulary& v) {
  GgufKeys keys = {{"tokenizer.ggml.model", v.model}};
  if (!v.pre.empty()) keys.emplace_back("tokenizer.ggml.pre", v.pre);
  keys.emplace_back("tokenizer.ggml.tokens", v.tokens);
  if (!v.scores.empty()) keys.emplace_back("tokenizer.ggml.scores", v.scores);
  keys.emplace_back("tokenizer.ggml.token_type", v.types);
  if (!v.merges.empty()) keys.emplace_back("tokenizer.ggml.merges", v.merges);
  const std::pair<const char*, const std::optional<uint32_t>*> ids[] = {
      {"bos", &v.bos}, {"eos", &v.eos}, {"unknown", &v.unknown}, {"padding", &v.padding}};
  for (const auto& [name, id] : ids) {
    if (id->has_value()) keys.emplace_back(absl::StrCat("tokenizer.ggml.", name, "_token_id"), **id);
  }
  keys.emplace_back("tokenizer.ggml.add_bos_token", v.add_bos);
  keys.emplace_back("tokenizer.ggml.add_eos_token", v.add_eos);
  if (v.add_space_prefix.has_value()) keys.emplace_back("tokenizer.ggml.add_space_prefix", *v.add_space_prefix);
  if (!v.chat_template.empty()) keys.emplace_back("tokenizer.chat_template", v.chat_template);
  return keys;
}

}  // namespace quant

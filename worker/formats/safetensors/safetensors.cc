// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/safetensors/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "nlohmann/json.hpp"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference reader
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxName = 4096;
constexpr std::string_view kMetadataKey = "__metadata__";

struct Entry {
  std::string name;
  std::string dtype;
  Shape shape;
  std::vector<uint64_t> offsets;
  std::set<std::string> fields;
};

bool PlainText(const std::string& s) {
  return std::none_of(s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

// Builds the entries while the JSON streams by; a value in a place where the format has none ends the parse. The depth
// is at most three, so nesting costs nothing.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string problem;

  bool null() override { return Unexpected("null"); }
  bool boolean(bool /*v*/) override { return Unexpected("a boolean"); }
  bool number_float(double /*v*/, const std::string& text) override {
    return Fail(absl::StrCat(text, " is not an integer"));
  }
  bool number_integer(int64_t v) override {
    return v < 0 ? Fail(absl::StrCat(v, " is negative")) : number_unsigned(static_cast<uint64_t>(v));
  }
  bool number_unsigned(uint64_t v) override {
    if (place_ == Place::kShape) {
      if (entries.back().shape.size() >= kMaxRank) return Fail(absl::StrCat("more than ", kMaxRank, " dimensions"));
      if (v > static_cast<uint64_t>(kMaxElements)) return Fail(absl::StrCat("dimension ", v, " is too large"));
      entries.back().shape.push_back(static_cast<int64_t>(v));
      return true;
    }
    if (place_ == Place::kOffsets && entries.back().offsets.size() < 2) {
      entries.back().offsets.push_back(v);
      return true;
    }
    return Unexpected("a number");
  }
  bool string(std::string& v) override {
    if (place_ == Place::kMetadata && !key_.empty()) {
      if (!metadata.emplace(std::exchange(key_, ""), v).second) return Fail("a metadata key repeats");
      return true;
    }
    if (place_ == Place::kEntry && key_ == "dtype") {
      entries.back().dtype = v;
      key_.clear();
      return true;
    }
    return Unexpected("a string");
  }
  bool binary(nlohmann::json::binary_t& /*v*/) override { return false; }
  bool start_object(size_t /*n*/) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && key_ == kMetadataKey) {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      if (entries.size() >= kMaxTensors) return Fail("too many tensors");
      entries.push_back({.name = key_});
      place_ = Place::kEntry;
    } else {
      return Unexpected("an object");
    }
    key_.clear();
    return true;
  }
  bool key(std::string& v) override {
    if (v.size() > kMaxName || !PlainText(v)) return Fail("a name is too long or has control characters");
    if (v.empty()) return Fail("a name is empty");
    const bool fresh = place_ == Place::kTop        ? names_.insert(v).second
                       : place_ == Place::kMetadata ? !metadata.contains(v)
                                                    : entries.back().fields.insert(v).second;
    if (!fresh) return Fail(absl::StrCat("key ", Quoted(v), " repeats"));
    if (place_ == Place::kEntry && v != "dtype" && v != "shape" && v != "data_offsets") {
      return Fail(absl::StrCat("unknown field ", Quoted(v)));
    }
    key_ = v;
    return true;
  }
  bool end_object() override {
    if (place_ == Place::kEntry && entries.back().fields.size() != 3)
      return Fail("dtype, shape or data_offsets is missing");
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }
  bool start_array(size_t /*n*/) override {
    if (place_ != Place::kEntry || (key_ != "shape" && key_ != "data_offsets")) return Unexpected("an array");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    key_.clear();
    return true;
  }
  bool end_array() override {
    if (place_ == Place::kOffsets && entries.back().offsets.size() != 2) return Fail("data_offsets wants two numbers");
    place_ = Place::kEntry;
    return true;
  }
  bool parse_error(size_t position, const std::string& /*token*/, const nlohmann::json::exception& /*e*/) override {
    return Fail(absl::StrCat("not JSON at byte ", position));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kEntry, kShape, kOffsets, kEnd };

  bool Unexpected(std::string_view what) { return Fail(absl::StrCat(AbslView(what), " where none belongs")); }
  bool Fail(std::string_view why) {
    const bool in_entry = place_ == Place::kEntry || place_ == Place::kShape || place_ == Place::kOffsets;
    problem = in_entry ? absl::StrCat("tensor ", Quoted(entries.back().name), ": ", AbslView(why)) : std::string(why);
    return false;
  }

  Place place_ = Place::kStart;
  std::string key_;  // whose value comes next
  std::set<std::string> names_;
};

// In the order of the reference implementation's enumeration.
constexpr std::pair<std::string_view, DType> kTypes[] = {
    {"BOOL", DType::kBool},  {"U8", DType::kUInt8},    {"I8", DType::kInt8},       {"I16", DType::kInt16},
    {"U16", DType::kUInt16}, {"F16", DType::kFloat16}, {"BF16", DType::kBFloat16}, {"I32", DType::kInt32},
    {"U32", DType::kUInt32}, {"F32", DType::kFloat32}, {"F64", DType::kFloat64},   {"I64", DType::kInt64},
    {"U64", DType::kUInt64}};

absl::StatusOr<DType> DTypeOfName(std::string_view name) {
  for (const auto& [known, dtype] : kTypes) {
    if (name == known) return dtype;
  }
  constexpr std::string_view kOthers[] = {"F4",      "F6_E2M3", "F6_E3M2",     "F8_E5M2",    "F8_E4M3",
                                          "F8_E8M0", "C64",     "F8_E4M3FNUZ", "F8_E5M2FNUZ"};
  if (std::find(std::begin(kOthers), std::end(kOthers), name) != std::end(kOthers)) {
    return absl::UnimplementedError(absl::StrCat("dtype ", AbslView(name), " is not supported"));
  }
  return absl::InvalidArgumentError(absl::StrCat("dtype ", Quoted(name), " is unknown"));
}

absl::Status Named(const Entry& e, const absl::Status& s) {
  return absl::Status(s.code(), absl::StrCat("tensor ", Quoted(e.name), ": ", s.message()));
}

}  // namespace

int SafetensorsTypeRank(DType dtype) {
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (kTypes[i].second == dtype) return static_cast<int>(i);
  }
  return -1;
}

const char* SafetensorsTypeName(DType dtype) {
  const int rank = SafetensorsTypeRank(dtype);
  return rank < 0 ? nullptr : kTypes[static_cast<size_t>(rank)].first.data();
}

absl::StatusOr<SafetensorsFile> ParseSafetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  if (bytes.size() < 8) return absl::InvalidArgumentError("not a safetensors file: shorter than 8 bytes");
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < 8; ++i) header_bytes |= static_cast<uint64_t>(std::to_integer<uint8_t>(bytes[i])) << (8 * i);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    return absl::InvalidArgumentError(absl::StrCat("the header claims ", header_bytes, " bytes; the file has ",
                                                   bytes.size(), ", and at most ", kMaxHeaderBytes, " are read"));
  }
  const std::string_view json(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<size_t>(header_bytes));
  const std::span<const std::byte> data = bytes.subspan(8 + static_cast<size_t>(header_bytes));
  // The JSON parser takes NUL for the end of its input.
  if (!json.starts_with('{') || !IsValidUtf8(json) || json.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("the header is not a JSON object in UTF-8");
  }

  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return absl::InvalidArgumentError(absl::StrCat("malformed header: ", handler.problem));
  }
  std::vector<Entry>& entries = handler.entries;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.offsets[0], a.offsets[1]) < std::pair(b.offsets[0], b.offsets[1]);
  });
  SafetensorsFile file;
  file.metadata = std::move(handler.metadata);
  uint64_t at = 0;
  for (Entry& e : entries) {
    const uint64_t begin = e.offsets[0];
    const uint64_t end = e.offsets[1];
    if (begin != at || end < begin || end > data.size()) {
      return Named(e, absl::InvalidArgumentError(absl::StrCat("bytes ", begin, " to ", end, " do not follow byte ", at,
                                                              " within the data of ", data.size(), " bytes")));
    }
    at = end;
    const absl::StatusOr<DType> dtype = DTypeOfName(e.dtype);
    if (!dtype.ok()) return Named(e, dtype.status());
    absl::StatusOr<Tensor> tensor = Tensor::Borrow(
        *dtype, std::move(e.shape), data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), owner);
    if (!tensor.ok()) return Named(e, tensor.status());
    file.tensors.emplace(std::move(e.name), *std::move(tensor));
  }
  if (at != data.size()) {
    return absl::InvalidArgumentError(absl::StrCat(data.size() - at, " bytes after the last tensor"));
  }
  return file;
}

absl::StatusOr<SafetensorsFile> ReadSafetensors(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  absl::StatusOr<SafetensorsFile> parsed = ParseSafetensors(mapped->bytes(), mapped);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(),
                      absl::StrCat(Quoted(file.filename().string()), ": ", parsed.status().message()));
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/gguf_model.h"

#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

constexpr uint64_t kMaxCount = 1'000'000;  // tensors, keys
constexpr uint64_t kMaxString = uint64_t{1} << 30;
constexpr uint32_t kMaxAlignment = 1 << 16;
constexpr uint32_t kUInt32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9;

absl::Status Bad(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a sound GGUF file: ", AbslView(why)));
}

// Bytes of a scalar type; 0 for strings, arrays and unknown ones.
size_t ScalarBytes(uint32_t type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }

  template <typename T>
  absl::StatusOr<T> Take() {
    if (left() < sizeof(T)) return Bad("it ends within its header");
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  absl::StatusOr<std::string> String() {
    ASSIGN_OR_RETURN(const uint64_t size, Take<uint64_t>());
    if (size > kMaxString || size > left()) return Bad(absl::StrCat("a string of ", size, " bytes"));
    std::string s(reinterpret_cast<const char*>(bytes_.data() + at_), size);
    at_ += size;
    return s;
  }
  // `count` values of `size` bytes each.
  absl::StatusOr<std::span<const std::byte>> Values(uint64_t count, size_t size) {
    if (count > left() / size) return Bad(absl::StrCat("an array of ", count, " values"));
    const std::span<const std::byte> out = bytes_.subspan(at_, count * size);
    at_ += out.size();
    return out;
  }

 private:
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

template <typename T>
std::vector<T> Copied(std::span<const std::byte> bytes) {
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// nullopt for a type that GgufValue does not have.
absl::StatusOr<std::optional<GgufValue>> ReadArray(Cursor& in) {
  ASSIGN_OR_RETURN(const uint32_t type, in.Take<uint32_t>());
  ASSIGN_OR_RETURN(const uint64_t count, in.Take<uint64_t>());
  if (type == kString) {
    if (count > in.left() / sizeof(uint64_t)) return Bad(absl::StrCat("an array of ", count, " strings"));
    std::vector<std::string> strings;
    for (uint64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(std::string s, in.String());
      strings.push_back(std::move(s));
    }
    return GgufValue(std::move(strings));
  }
  const size_t size = ScalarBytes(type);
  if (size == 0) return Bad(absl::StrCat("an array of type ", type));
  ASSIGN_OR_RETURN(const std::span<const std::byte> values, in.Values(count, size));
  if (type == kFloat32) return GgufValue(Copied<float>(values));
  if (type == kInt32) return GgufValue(Copied<int32_t>(values));
  return std::nullopt;
}

absl::StatusOr<std::optional<GgufValue>> ReadValue(Cursor& in) {
  ASSIGN_OR_RETURN(const uint32_t type, in.Take<uint32_t>());
  switch (type) {
    case kUInt32: {
      ASSIGN_OR_RETURN(const uint32_t v, in.Take<uint32_t>());
      return GgufValue(v);
    }
    case kFloat32: {
      ASSIGN_OR_RETURN(const float v, in.Take<float>());
      return GgufValue(v);
    }
    case kBool: {
      ASSIGN_OR_RETURN(const uint8_t v, in.Take<uint8_t>());
      if (v > 1) return Bad(absl::StrCat("a truth value of ", v));
      return GgufValue(v == 1);
    }
    case kString: {
      ASSIGN_OR_RETURN(std::string v, in.String());
      return GgufValue(std::move(v));
    }
    case kArray:
      return ReadArray(in);
    default:
      break;
  }
  if (ScalarBytes(type) == 0) return Bad(absl::StrCat("a value of type ", type));
  RETURN_IF_ERROR(in.Values(1, ScalarBytes(type)).status());
  return std::nullopt;
}

bool IsKnown(uint32_t type) {
  for (const GgufType t :
       {GgufType::kF32, GgufType::kF16, GgufType::kQ4_0, GgufType::kQ4_1, GgufType::kQ8_0, GgufType::kBF16}) {
    if (static_cast<uint32_t>(t) == type) return true;
  }
  return false;
}

struct Info {
  std::string name;
  Shape shape;
  uint32_t type = 0;
  uint64_t offset = 0;
};

absl::StatusOr<Info> ReadInfo(Cursor& in) {
  Info info;
  ASSIGN_OR_RETURN(info.name, in.String());
  ASSIGN_OR_RETURN(const uint32_t rank, in.Take<uint32_t>());
  if (rank < 1 || rank > 4) return Bad(absl::StrCat("tensor ", Quoted(info.name), " has ", rank, " dimensions"));
  info.shape.resize(rank);
  for (size_t i = rank; i-- > 0;) {
    ASSIGN_OR_RETURN(const uint64_t dim, in.Take<uint64_t>());
    if (dim > static_cast<uint64_t>(kMaxElements)) return Bad(absl::StrCat("a dimension of ", dim));
    info.shape[i] = static_cast<int64_t>(dim);
  }
  ASSIGN_OR_RETURN(info.type, in.Take<uint32_t>());
  ASSIGN_OR_RETURN(info.offset, in.Take<uint64_t>());
  if (!IsKnown(info.type)) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", Quoted(info.name), " has ggml type ", info.type, ", which is not read"));
  }
  return info;
}

float Half(const std::byte* at) {
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof(bits));
  return Float16ToFloat(bits);
}

}  // namespace

void DequantizeGgufRow(GgufType type, std::span<const std::byte> bytes, std::span<float> dst) {
  const std::byte* at = bytes.data();
  if (type == GgufType::kF32) {
    if (!dst.empty()) std::memcpy(dst.data(), at, dst.size_bytes());
    return;
  }
  if (type == GgufType::kF16 || type == GgufType::kBF16) {
    for (float& v : dst) {
      uint16_t bits = 0;
      std::memcpy(&bits, at, sizeof(bits));
      v = type == GgufType::kF16 ? Float16ToFloat(bits) : BFloat16ToFloat(bits);
      at += sizeof(bits);
    }
    return;
  }
  for (size_t begin = 0; begin < dst.size(); begin += kGgufBlock) {
    const float d = Half(at);
    at += 2;
    if (type == GgufType::kQ8_0) {
      for (size_t i = 0; i < kGgufBlock; ++i) {
        dst[begin + i] = d * static_cast<float>(static_cast<int8_t>(std::to_integer<uint8_t>(*at++)));
      }
      continue;
    }
    float m = 0;
    if (type == GgufType::kQ4_1) {
      m = Half(at);
      at += 2;
    }
    const auto value = [&](int q) {
      return type == GgufType::kQ4_1 ? d * static_cast<float>(q) + m : d * static_cast<float>(q - 8);
    };
    for (size_t j = 0; j < kGgufBlock / 2; ++j, ++at) {
      dst[begin + j] = value(std::to_integer<int>(*at) & 15);
      dst[begin + j + kGgufBlock / 2] = value(std::to_integer<int>(*at) >> 4);
    }
  }
}

absl::StatusOr<std::shared_ptr<const GgufModel>> GgufModel::Open(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  return Parse(mapped->bytes(), mapped);
}

absl::StatusOr<std::shared_ptr<const GgufModel>> GgufModel::Parse(std::span<const std::byte> bytes,
                                                                  std::shared_ptr<const void> owner) {
  auto model = std::make_shared<GgufModel>();
  model->owner_ = std::move(owner);
  Cursor in(bytes);
  ASSIGN_OR_RETURN(const uint32_t magic, in.Take<uint32_t>());
  if (magic != 0x46554747) return Bad("it does not begin with GGUF");
  ASSIGN_OR_RETURN(const uint32_t version, in.Take<uint32_t>());
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(absl::StrCat("GGUF version ", version, " is not read; 2 and 3 are"));
  }
  ASSIGN_OR_RETURN(const uint64_t tensors, in.Take<uint64_t>());
  ASSIGN_OR_RETURN(const uint64_t keys, in.Take<uint64_t>());
  if (tensors > kMaxCount || keys > kMaxCount) return Bad(absl::StrCat(tensors, " tensors and ", keys, " keys"));
  std::set<std::string> seen;
  for (uint64_t i = 0; i < keys; ++i) {
    ASSIGN_OR_RETURN(std::string key, in.String());
    if (key.empty() || !seen.insert(key).second) return Bad(absl::StrCat("key ", Quoted(key), " repeats or is empty"));
    ASSIGN_OR_RETURN(std::optional<GgufValue> value, ReadValue(in));
    if (value.has_value()) model->keys_.emplace(std::move(key), *std::move(value));
  }
  const auto number = [&](std::string_view key, uint32_t otherwise) {
    const auto it = model->keys_.find(key);
    const auto* v = it == model->keys_.end() ? nullptr : std::get_if<uint32_t>(&it->second);
    return v == nullptr ? otherwise : *v;
  };
  const uint32_t alignment = number("general.alignment", kGgufBlock);
  if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    return Bad(absl::StrCat("an alignment of ", alignment));
  }
  std::vector<Info> infos;
  for (uint64_t i = 0; i < tensors; ++i) {
    ASSIGN_OR_RETURN(Info info, ReadInfo(in));
    infos.push_back(std::move(info));
  }
  const auto padded = [&](uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
  const uint64_t data = padded(in.at());
  uint64_t offset = 0;
  for (Info& info : infos) {
    const auto type = static_cast<GgufType>(info.type);
    ASSIGN_OR_RETURN(const int64_t elements, ElementCount(info.shape));
    const int64_t cols = info.shape.back();
    const bool blocks = type == GgufType::kQ4_0 || type == GgufType::kQ4_1 || type == GgufType::kQ8_0;
    if (cols == 0 || (blocks && cols % kGgufBlock != 0)) {
      return Bad(absl::StrCat("tensor ", Quoted(info.name), " of type ", GgufTypeName(type), " has rows of ", cols));
    }
    const auto size = static_cast<uint64_t>(elements / cols * GgufRowBytes(type, cols));
    if (info.offset != offset || data > bytes.size() || padded(size) > bytes.size() - data - offset) {
      return Bad(absl::StrCat("tensor ", Quoted(info.name), " at ", info.offset, " does not follow the one before, at ",
                              offset, ", within the file, padded to ", alignment));
    }
    if (!model->tensors_
             .emplace(info.name,
                      Entry{.type = type, .shape = std::move(info.shape), .bytes = bytes.subspan(data + offset, size)})
             .second) {
      return Bad(absl::StrCat("tensor ", Quoted(info.name), " repeats"));
    }
    offset += padded(size);
  }
  if (const auto it = model->keys_.find("general.architecture"); it != model->keys_.end()) {
    if (const auto* name = std::get_if<std::string>(&it->second)) model->architecture_.name = *name;
  }
  GgufArchitecture& a = model->architecture_;
  a.head_dim = number(absl::StrCat(a.name, ".rope.dimension_count"), 0);
  a.permutes = a.name == "llama" && a.head_dim > 0 && a.head_dim % 2 == 0;
  return model;
}

const GgufModel::Entry* GgufModel::Find(std::string_view name) const {
  const std::optional<std::string> as = GgufTensorName(name);
  const auto it = as.has_value() ? tensors_.find(*as) : tensors_.end();
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::StatusOr<std::vector<float>> GgufModel::Rows(std::string_view name, int64_t begin, int64_t end) const {
  const Entry* entry = Find(name);
  if (entry == nullptr) return absl::NotFoundError(absl::StrCat("the file has no tensor for ", Quoted(name)));
  const int64_t cols = entry->shape.size() == 1 ? 1 : entry->shape.back();
  const int64_t rows = entry->shape.size() == 1 ? entry->shape[0] : *ElementCount(entry->shape) / cols;
  if (begin < 0 || end > rows || begin > end) {
    return absl::InvalidArgumentError(absl::StrCat("rows ", begin, " to ", end, " of ", rows));
  }
  if (GgufRowBytes(entry->type, cols) == 0) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", Quoted(name), " is a vector of type ", GgufTypeName(entry->type)));
  }
  std::vector<float> out(static_cast<size_t>((end - begin) * cols));
  const auto row_bytes = static_cast<size_t>(GgufRowBytes(entry->type, cols));
  for (int64_t r = begin; r < end; ++r) {
    const auto at = static_cast<size_t>(GgufRowOf(architecture_, name, r));
    if (at >= static_cast<size_t>(rows)) return Bad(absl::StrCat("tensor ", Quoted(name), " has no whole heads"));
    DequantizeGgufRow(entry->type, entry->bytes.subspan(at * row_bytes, row_bytes),
                      std::span(out).subspan(static_cast<size_t>((r - begin) * cols), static_cast<size_t>(cols)));
  }
  return out;
}

}  // namespace quant

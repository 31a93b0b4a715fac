// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/gguf_file.h"

#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr int64_t kAlignment = 32;  // general.alignment when there is no such key
constexpr size_t kMaxName = 63;
constexpr int kMaxDims = 4;
// Types of values.
constexpr uint32_t kInt32 = 5, kUInt32 = 4, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9;

template <typename T>
void Put(T value, std::string* out) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

void PutString(std::string_view s, std::string* out) {
  Put<uint64_t>(s.size(), out);
  out->append(s);
}

template <typename T>
void PutArray(uint32_t type, const std::vector<T>& values, std::string* out) {
  Put(kArray, out);
  Put(type, out);
  Put<uint64_t>(values.size(), out);
  if constexpr (std::is_same_v<T, std::string>) {
    for (const std::string& s : values) PutString(s, out);
  } else {
    out->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
}

struct PutValue {
  std::string* out;
  void operator()(uint32_t v) const {
    Put(kUInt32, out);
    Put(v, out);
  }
  void operator()(float v) const {
    Put(kFloat32, out);
    Put(v, out);
  }
  void operator()(bool v) const {
    Put(kBool, out);
    out->push_back(v ? 1 : 0);
  }
  void operator()(const std::string& v) const {
    Put(kString, out);
    PutString(v, out);
  }
  void operator()(const std::vector<std::string>& v) const { PutArray(kString, v, out); }
  void operator()(const std::vector<float>& v) const { PutArray(kFloat32, v, out); }
  void operator()(const std::vector<int32_t>& v) const { PutArray(kInt32, v, out); }
};

int64_t Padded(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Create(const std::filesystem::path& path, GgufKeys keys,
                                          std::vector<std::pair<std::string, int>> tensors) {
  std::set<std::string> names;
  for (const auto& [key, value] : keys) {
    if (key.empty() || !names.insert(key).second) {
      return absl::InvalidArgumentError(absl::StrCat("metadata key ", Quoted(key), " is empty or repeats"));
    }
  }
  ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::Create(path));
  GgufFile file(std::move(out));
  file.keys_ = std::move(keys);
  int64_t infos = 0;
  for (auto& [name, rank] : tensors) {
    if (name.empty() || name.size() > kMaxName || rank < 1 || rank > kMaxDims) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " of rank ", rank,
                                                     " cannot be in a GGUF file: names have 1 to ", kMaxName,
                                                     " bytes, tensors 1 to ", kMaxDims, " dimensions"));
    }
    infos += 8 + static_cast<int64_t>(name.size()) + 4 + 8 * rank + 4 + 8;
    if (!file.awaited_.emplace(name, rank).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " repeats"));
    }
  }
  file.header_bytes_ = static_cast<int64_t>(file.Header().size()) + infos;
  file.data_begin_ = Padded(file.header_bytes_);
  RETURN_IF_ERROR(file.file_.Write(std::string(static_cast<size_t>(file.data_begin_), '\0')));
  return file;
}

void GgufFile::Set(std::string_view key, uint32_t value) {
  for (auto& [name, old] : keys_) {
    if (name == key && std::holds_alternative<uint32_t>(old)) old = value;
  }
}

std::string GgufFile::Header() const {
  std::string out = "GGUF";
  Put<uint32_t>(3, &out);
  Put<uint64_t>(infos_.size(), &out);
  Put<uint64_t>(keys_.size(), &out);
  for (const auto& [key, value] : keys_) {
    PutString(key, &out);
    std::visit(PutValue{&out}, value);
  }
  for (const Info& info : infos_) {
    PutString(info.name, &out);
    Put(static_cast<uint32_t>(info.shape.size()), &out);
    for (auto d = info.shape.rbegin(); d != info.shape.rend(); ++d) Put(static_cast<uint64_t>(*d), &out);
    Put(static_cast<uint32_t>(info.type), &out);
    Put(static_cast<uint64_t>(info.offset), &out);
  }
  return out;
}

absl::Status GgufFile::Begin(std::string_view name, const Shape& shape, GgufType type) {
  if (left_ != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", infos_.back().name, " lacks ", left_, " bytes"));
  }
  const auto it = awaited_.find(name);
  if (it == awaited_.end() || it->second != static_cast<int>(shape.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Quoted(name), " of shape ", ShapeString(shape),
        it == awaited_.end() ? " is not awaited, or was given before" : " was announced with another rank"));
  }
  const bool blocks = type == GgufType::kQ4_0 || type == GgufType::kQ4_1 || type == GgufType::kQ8_0;
  if (blocks && shape.back() % kGgufBlock != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " has rows of ", shape.back(), "; ",
                                                   GgufTypeName(type), " has blocks of ", kGgufBlock));
  }
  RETURN_IF_ERROR(file_.Pad(kAlignment));
  awaited_.erase(it);
  infos_.push_back({.name = std::string(name), .shape = shape, .type = type, .offset = file_.size() - data_begin_});
  ASSIGN_OR_RETURN(const int64_t elements, ElementCount(shape));
  left_ = shape.back() == 0 ? 0 : elements / shape.back() * GgufRowBytes(type, shape.back());
  return absl::OkStatus();
}

absl::Status GgufFile::Write(std::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > left_) {
    return absl::InvalidArgumentError(absl::StrCat(bytes.size(), " bytes where ", left_, " are left of the tensor"));
  }
  left_ -= static_cast<int64_t>(bytes.size());
  return file_.Write(bytes);
}

absl::Status GgufFile::Finish() {
  if (!awaited_.empty() || left_ != 0) {
    return absl::FailedPreconditionError(
        awaited_.empty() ? absl::StrCat("tensor ", infos_.back().name, " lacks ", left_, " bytes")
                         : absl::StrCat("tensor ", Quoted(awaited_.begin()->first), " was never written"));
  }
  RETURN_IF_ERROR(file_.Pad(kAlignment));
  const std::string header = Header();
  if (static_cast<int64_t>(header.size()) != header_bytes_) return absl::InternalError("the GGUF header changed size");
  RETURN_IF_ERROR(file_.WriteAt(0, header));
  return file_.Commit();
}

}  // namespace quant

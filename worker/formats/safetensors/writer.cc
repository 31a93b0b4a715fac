// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/safetensors/writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/safetensors/safetensors.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxName = 4096;           // as our reader
constexpr int64_t kMaxHeader = 50'000'000;  // half of what readers accept
constexpr int64_t kMaxDeferred = int64_t{64} << 20;
// An entry beside its name: braces, keys, two offsets of at most 20 digits and a shape.
constexpr int64_t kEntryBytes = 120;
constexpr int64_t kDimBytes = 21;

std::string Json(const std::string& s) { return nlohmann::json(s).dump(); }

int64_t EntryBound(const NamedTensor& t) {
  return static_cast<int64_t>(Json(t.name).size()) + kEntryBytes + kDimBytes * t.tensor.rank();
}

int64_t Bytes(const NamedTensor& t) { return static_cast<int64_t>(t.tensor.bytes().size()); }

bool IsPlain(std::string_view s) {
  return IsValidUtf8(s) &&
         std::none_of(s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

// The length of a header and its text, padded with spaces to `size` bytes, or to a multiple of 8 when size is 0.
std::string Framed(std::string header, size_t size) {
  header.resize(size == 0 ? (header.size() + 7) / 8 * 8 : size, ' ');
  std::string framed(8, '\0');
  for (size_t i = 0; i < 8; ++i) framed[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return framed + header;
}

}  // namespace

struct SafetensorsWriter::File {
  AtomicFile file;
  int64_t header_size = 0;  // reserved, without the 8 bytes of its length
  int64_t header_used = 0;  // upper bound
  std::vector<Entry> entries;
  std::vector<NamedTensor> deferred;
  int64_t deferred_bytes = 0;

  int64_t data_bytes() const { return file.size() - 8 - header_size + deferred_bytes; }
};

SafetensorsWriter::SafetensorsWriter(fs::path folder, SafetensorsWriterOptions options)
    : folder_(std::move(folder)), options_(std::move(options)) {}

SafetensorsWriter::~SafetensorsWriter() = default;

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(fs::path folder,
                                                                             SafetensorsWriterOptions options) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    return absl::NotFoundError(absl::StrCat("there is no folder ", Quoted(folder.string())));
  }
  return std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(std::move(folder), std::move(options)));
}

std::string SafetensorsWriter::Header(const std::vector<Entry>& entries) const {
  std::string out = "{";
  if (!options_.metadata.empty()) {
    out += "\"__metadata__\":{";
    bool first = true;
    for (const auto& [key, value] : options_.metadata) {
      absl::StrAppend(&out, first ? "" : ",", Json(key), ":", Json(value));
      first = false;
    }
    out += "}";
  }
  for (const Entry& e : entries) {
    absl::StrAppend(&out, out.size() > 1 ? "," : "", Json(e.name), ":{\"dtype\":\"", SafetensorsTypeName(e.dtype),
                    "\",\"shape\":[", absl::StrJoin(e.shape, ","), "],\"data_offsets\":[", e.begin, ",", e.end, "]}");
  }
  return out + "}";
}

absl::StatusOr<AtomicFile> SafetensorsWriter::NewFile() {
  return AtomicFile::Create(folder_ / absl::StrFormat("model-%05d.safetensors", complete_.size() + 1));
}

absl::Status SafetensorsWriter::Add(std::string_view name, const Tensor& tensor) {
  const NamedTensor one{.name = std::string(name), .tensor = tensor};
  return AddTogether({&one, 1});
}

absl::Status SafetensorsWriter::AddTogether(std::span<const NamedTensor> tensors) {
  if (finished_) return absl::FailedPreconditionError("the safetensors files are finished");
  int64_t bytes = 0;
  int64_t header = 0;
  for (const NamedTensor& t : tensors) {
    if (t.name.empty() || t.name.size() > kMaxName || t.name == "__metadata__" || !IsPlain(t.name)) {
      return absl::InvalidArgumentError(absl::StrCat("a tensor cannot be named ", Quoted(t.name)));
    }
    if (SafetensorsTypeName(t.tensor.dtype()) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(t.name), ": safetensors files hold no ",
                                                     DTypeName(t.tensor.dtype()), "; pack it into bytes"));
    }
    if (!names_.insert(t.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(t.name), " is added twice"));
    }
    bytes += Bytes(t);
    header += EntryBound(t);
  }
  total_bytes_ += bytes;
  if (open_ != nullptr) {
    const bool full = open_->data_bytes() + bytes > options_.max_file_bytes ||
                      open_->header_used + header > open_->header_size || open_->deferred_bytes > kMaxDeferred;
    if (full) RETURN_IF_ERROR(EndFile());
  } else if (!buffered_.empty() && buffered_bytes_ + bytes > options_.max_file_bytes) {
    RETURN_IF_ERROR(EndFile());
  }
  if (open_ == nullptr) {
    buffered_.insert(buffered_.end(), tensors.begin(), tensors.end());
    buffered_bytes_ += bytes;
    return buffered_bytes_ <= options_.buffer_bytes ? absl::OkStatus() : BeginFile();
  }
  for (const NamedTensor& t : tensors) RETURN_IF_ERROR(Append(t));
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::BeginFile() {
  ASSIGN_OR_RETURN(AtomicFile file, NewFile());
  open_.reset(new File{.file = std::move(file)});
  int64_t need = static_cast<int64_t>(Header({}).size());
  open_->header_used = need;
  for (const NamedTensor& t : buffered_) need += EntryBound(t);
  const int64_t each = need / static_cast<int64_t>(buffered_.size()) + kEntryBytes / 2;
  need = std::max(need, std::min(kMaxHeader, each * options_.expected_tensors));
  open_->header_size = (need + 7) / 8 * 8;
  RETURN_IF_ERROR(open_->file.Write(Framed("{}", static_cast<size_t>(open_->header_size))));
  const std::vector<NamedTensor> tensors = std::exchange(buffered_, {});
  buffered_bytes_ = 0;
  for (const NamedTensor& t : tensors) RETURN_IF_ERROR(Append(t));
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(const NamedTensor& tensor) {
  open_->header_used += EntryBound(tensor);
  if (Bytes(tensor) % 8 == 0) return Put(tensor);
  open_->deferred.push_back(tensor);
  open_->deferred_bytes += Bytes(tensor);
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Put(const NamedTensor& tensor) {
  const std::span<const std::byte> bytes = tensor.tensor.bytes();
  const int64_t begin = open_->file.size() - 8 - open_->header_size;
  open_->entries.push_back({.name = tensor.name,
                            .dtype = tensor.tensor.dtype(),
                            .shape = tensor.tensor.shape(),
                            .begin = begin,
                            .end = begin + static_cast<int64_t>(bytes.size())});
  return open_->file.Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

absl::Status SafetensorsWriter::EndFile() {
  if (open_ == nullptr) {
    // All of the file is at hand: the reference writer's order, and no more header than needed.
    std::stable_sort(buffered_.begin(), buffered_.end(), [](const NamedTensor& a, const NamedTensor& b) {
      const int ra = SafetensorsTypeRank(a.tensor.dtype()), rb = SafetensorsTypeRank(b.tensor.dtype());
      return ra != rb ? ra > rb : a.name < b.name;
    });
    ASSIGN_OR_RETURN(AtomicFile file, NewFile());
    open_.reset(new File{.file = std::move(file)});
    int64_t at = 0;
    for (const NamedTensor& t : buffered_) {
      open_->entries.push_back(
          {.name = t.name, .dtype = t.tensor.dtype(), .shape = t.tensor.shape(), .begin = at, .end = at + Bytes(t)});
      at += Bytes(t);
    }
    RETURN_IF_ERROR(open_->file.Write(Framed(Header(open_->entries), 0)));
    for (const NamedTensor& t : std::exchange(buffered_, {})) {
      RETURN_IF_ERROR(
          open_->file.Write({reinterpret_cast<const char*>(t.tensor.bytes().data()), t.tensor.bytes().size()}));
    }
    buffered_bytes_ = 0;
  } else {
    std::stable_sort(open_->deferred.begin(), open_->deferred.end(), [](const NamedTensor& a, const NamedTensor& b) {
      return DTypeBits(a.tensor.dtype()) > DTypeBits(b.tensor.dtype());
    });
    for (const NamedTensor& t : std::exchange(open_->deferred, {})) {
      open_->deferred_bytes -= Bytes(t);
      RETURN_IF_ERROR(Put(t));
    }
    const std::string header = Header(open_->entries);
    if (static_cast<int64_t>(header.size()) > open_->header_size) {
      return absl::InternalError(absl::StrCat("a header of ", header.size(), " bytes for ", open_->header_size));
    }
    RETURN_IF_ERROR(open_->file.WriteAt(0, Framed(header, static_cast<size_t>(open_->header_size))));
  }
  std::vector<std::string> names;
  names.reserve(open_->entries.size());
  for (const Entry& e : open_->entries) names.push_back(e.name);
  names_in_.push_back(std::move(names));
  complete_.push_back(std::move(open_->file));
  open_.reset();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (finished_) return absl::FailedPreconditionError("the safetensors files are finished");
  finished_ = true;
  if (open_ != nullptr || !buffered_.empty() || complete_.empty()) RETURN_IF_ERROR(EndFile());
  nlohmann::json map = nlohmann::json::object();
  const size_t count = complete_.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string name =
        count == 1 ? "model.safetensors" : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, count);
    for (const std::string& tensor : names_in_[i]) map[tensor] = name;
    RETURN_IF_ERROR(complete_[i].CommitAs(folder_ / name));
    files_.push_back(name);
  }
  complete_.clear();
  if (count == 1) return absl::OkStatus();
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", std::move(map)}};
  files_.push_back("model.safetensors.index.json");
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(folder_ / files_.back()));
  RETURN_IF_ERROR(file.Write(index.dump(2) + "\n"));
  return file.Commit();
}

}  // namespace quant

// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/npy/npz.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/npy/npy.h"

namespace quant {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr size_t kLocalBytes = 30;
constexpr size_t kCentralBytes = 46;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64Bytes = 56;
constexpr size_t kLocator64Bytes = 20;
constexpr uint64_t k32 = 0xffffffff;  // "see the zip64 field"
constexpr size_t kMaxName = 1024;

// Little-endian numbers at checked places.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint64_t size() const { return bytes_.size(); }
  // The sub-range, or nullopt when any of it is outside.
  std::optional<std::span<const std::byte>> At(uint64_t offset, uint64_t length) const {
    if (offset > bytes_.size() || length > bytes_.size() - offset) return std::nullopt;
    return bytes_.subspan(static_cast<size_t>(offset), static_cast<size_t>(length));
  }

 private:
  std::span<const std::byte> bytes_;
};

uint64_t Number(std::span<const std::byte> bytes, size_t offset, size_t width) {
  uint64_t v = 0;
  for (size_t i = 0; i < width; ++i) v |= static_cast<uint64_t>(std::to_integer<uint8_t>(bytes[offset + i])) << (8 * i);
  return v;
}

absl::Status Bad(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a sound .npz: ", AbslView(why)));
}

struct Directory {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t members = 0;
};

struct Member {
  std::string name;  // with .npy
  uint64_t method = 0;
  uint64_t crc = 0;
  uint64_t packed = 0;
  uint64_t size = 0;
  uint64_t offset = 0;  // of the local header
};

absl::StatusOr<Directory> FindDirectory(const Reader& zip) {
  // The end record stands before a comment of at most 65,535 bytes.
  const uint64_t lowest = zip.size() < kEndBytes + 0xffff ? 0 : zip.size() - kEndBytes - 0xffff;
  for (uint64_t at = zip.size() < kEndBytes ? 0 : zip.size() - kEndBytes + 1; at-- > lowest;) {
    const auto end = *zip.At(at, kEndBytes);
    if (Number(end, 0, 4) != kEndSignature || at + kEndBytes + Number(end, 20, 2) != zip.size()) continue;
    Directory d{.offset = Number(end, 16, 4), .size = Number(end, 12, 4), .members = Number(end, 10, 2)};
    if (Number(end, 4, 2) != 0 || Number(end, 6, 2) != 0) return Bad("split over several disks");
    const auto locator = at >= kLocator64Bytes ? zip.At(at - kLocator64Bytes, kLocator64Bytes) : std::nullopt;
    if (locator && Number(*locator, 0, 4) == kLocator64Signature) {
      const auto end64 = zip.At(Number(*locator, 8, 8), kEnd64Bytes);
      if (!end64 || Number(*end64, 0, 4) != kEnd64Signature) return Bad("no zip64 end record where it should be");
      d = {.offset = Number(*end64, 48, 8), .size = Number(*end64, 40, 8), .members = Number(*end64, 32, 8)};
    }
    return d;
  }
  return Bad("no end of central directory; the file is truncated or of another format");
}

// Replaces what says "see zip64" by the values of the 0x0001 extra field, which stand in a fixed order.
absl::Status ApplyZip64(std::span<const std::byte> extra, std::initializer_list<uint64_t*> values) {
  if (std::none_of(values.begin(), values.end(), [](const uint64_t* v) { return *v == k32; })) return absl::OkStatus();
  while (extra.size() >= 4) {
    const size_t length = static_cast<size_t>(Number(extra, 2, 2));
    if (length > extra.size() - 4) return Bad("malformed extra field");
    if (Number(extra, 0, 2) != 1) {
      extra = extra.subspan(4 + length);
      continue;
    }
    std::span<const std::byte> field = extra.subspan(4, length);
    for (uint64_t* v : values) {
      if (*v != k32) continue;
      if (field.size() < 8) return Bad("malformed zip64 field");
      *v = Number(field, 0, 8);
      field = field.subspan(8);
    }
    return absl::OkStatus();
  }
  return Bad("no zip64 field where sizes need one");
}

absl::Status CheckName(std::string_view name) {
  const bool plain = !name.empty() && name.size() <= kMaxName && IsValidUtf8(name) && name.front() != '/' &&
                     name.find('\0') == std::string_view::npos && name.find('\\') == std::string_view::npos;
  if (!plain || name == ".." || name.starts_with("../") || name.find("/../") != std::string_view::npos ||
      name.ends_with("/..")) {
    return Bad(absl::StrCat("member name ", Quoted(name), " is not a plain name"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Member>> ReadDirectory(const Reader& zip, const NpzOptions& options) {
  ASSIGN_OR_RETURN(const Directory d, FindDirectory(zip));
  if (d.members > static_cast<uint64_t>(options.max_members)) {
    return Bad(absl::StrCat(d.members, " members; at most ", options.max_members));
  }
  const auto all = zip.At(d.offset, d.size);
  if (!all) return Bad("the central directory is outside the file");
  std::span<const std::byte> rest = *all;
  std::vector<Member> members;
  for (uint64_t i = 0; i < d.members; ++i) {
    if (rest.size() < kCentralBytes || Number(rest, 0, 4) != kCentralSignature)
      return Bad("malformed central directory");
    const size_t name_size = static_cast<size_t>(Number(rest, 28, 2));
    const size_t extra_size = static_cast<size_t>(Number(rest, 30, 2));
    const size_t whole = kCentralBytes + name_size + extra_size + static_cast<size_t>(Number(rest, 32, 2));
    if (rest.size() < whole) return Bad("malformed central directory");
    Member m{.name = std::string(reinterpret_cast<const char*>(rest.data()) + kCentralBytes, name_size),
             .method = Number(rest, 10, 2),
             .crc = Number(rest, 16, 4),
             .packed = Number(rest, 20, 4),
             .size = Number(rest, 24, 4),
             .offset = Number(rest, 42, 4)};
    RETURN_IF_ERROR(CheckName(m.name));
    if ((Number(rest, 8, 2) & 1) != 0) return Bad(absl::StrCat("member ", Quoted(m.name), " is encrypted"));
    RETURN_IF_ERROR(ApplyZip64(rest.subspan(kCentralBytes + name_size, extra_size), {&m.size, &m.packed, &m.offset}));
    members.push_back(std::move(m));
    rest = rest.subspan(whole);
  }
  return members;
}

// The packed bytes of a member, after checking its local header.
absl::StatusOr<std::span<const std::byte>> PackedBytes(const Reader& zip, const Member& m) {
  const std::string label = Quoted(m.name);
  const auto local = zip.At(m.offset, kLocalBytes);
  if (!local || Number(*local, 0, 4) != kLocalSignature) return Bad(absl::StrCat("no local header of ", label));
  const uint64_t name_size = Number(*local, 26, 2);
  const uint64_t extra_size = Number(*local, 28, 2);
  const auto tail = zip.At(m.offset + kLocalBytes, name_size + extra_size);
  if (!tail || name_size != m.name.size() || std::memcmp(tail->data(), m.name.data(), m.name.size()) != 0 ||
      Number(*local, 8, 2) != m.method) {
    return Bad(absl::StrCat("the local header of ", label, " disagrees with the directory"));
  }
  // With bit 3 the local header has no sizes: they follow the data, and the directory has them.
  if ((Number(*local, 6, 2) & 8) == 0) {
    uint64_t packed = Number(*local, 18, 4);
    uint64_t size = Number(*local, 22, 4);
    RETURN_IF_ERROR(ApplyZip64(tail->subspan(static_cast<size_t>(name_size)), {&size, &packed}));
    if (packed != m.packed || size != m.size) return Bad(absl::StrCat("sizes of ", label, " disagree"));
  }
  const auto data = zip.At(m.offset + kLocalBytes + name_size + extra_size, m.packed);
  if (!data) return Bad(absl::StrCat("the data of ", label, " is outside the file"));
  return *data;
}

uint32_t Crc(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

absl::Status Inflate(std::span<const std::byte> packed, std::span<std::byte> out) {
  z_stream z = {};
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return absl::ResourceExhaustedError("no memory to inflate");
  constexpr size_t kStep = std::numeric_limits<uInt>::max();
  size_t in_done = 0;
  size_t out_done = 0;
  int result = Z_OK;
  while (result == Z_OK) {
    if (z.avail_in == 0) {
      z.avail_in = static_cast<uInt>(std::min(kStep, packed.size() - in_done));
      z.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data() + in_done));
      in_done += z.avail_in;
    }
    if (z.avail_out == 0) {
      z.avail_out = static_cast<uInt>(std::min(kStep, out.size() - out_done));
      z.next_out = reinterpret_cast<Bytef*>(out.data() + out_done);
      out_done += z.avail_out;
    }
    result = inflate(&z, Z_NO_FLUSH);  // Z_BUF_ERROR when there is neither input nor room left
  }
  const bool whole = result == Z_STREAM_END && z.avail_out == 0 && out_done == out.size();
  inflateEnd(&z);
  return whole ? absl::OkStatus() : Bad("deflated data is damaged or of another size than declared");
}

absl::StatusOr<Tensor> ReadMember(const Reader& zip, const Member& m, const std::shared_ptr<const MappedFile>& file,
                                  int64_t& inflate_budget) {
  ASSIGN_OR_RETURN(const std::span<const std::byte> packed, PackedBytes(zip, m));
  if (m.method == 0) {
    if (m.packed != m.size || Crc(packed) != m.crc) return Bad("wrong size or checksum; the file is damaged");
    return ParseNpy(packed, file);
  }
  if (m.method != Z_DEFLATED)
    return Bad(absl::StrCat("compression method ", m.method, "; only stored and deflated are read"));
  // Deflate cannot shrink by more than about 1032 to 1: a larger claim is a trap.
  if (m.size > static_cast<uint64_t>(std::max<int64_t>(inflate_budget, 0)) || m.size / 1100 > m.packed) {
    return absl::ResourceExhaustedError(
        absl::StrCat("inflates to ", m.size, " bytes, ", inflate_budget,
                     " are left of the limit; save with numpy.savez (uncompressed) or as .npy"));
  }
  inflate_budget -= static_cast<int64_t>(m.size);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(m.size));
  RETURN_IF_ERROR(Inflate(packed, *bytes));
  if (Crc(*bytes) != m.crc) return Bad("wrong checksum; the file is damaged");
  return ParseNpy(*bytes, bytes);
}

}  // namespace

absl::StatusOr<std::map<std::string, Tensor>> ReadNpz(const std::filesystem::path& file, const NpzOptions& options) {
  const auto in_file = [&](const absl::Status& s, std::string_view member) {
    const std::string where = member.empty() ? "" : absl::StrCat(" member ", Quoted(member));
    return absl::Status(s.code(), absl::StrCat(Quoted(file.filename().string()), where, ": ", s.message()));
  };
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  const Reader zip(mapped->bytes());
  const absl::StatusOr<std::vector<Member>> members = ReadDirectory(zip, options);
  if (!members.ok()) return in_file(members.status(), "");
  int64_t inflate_budget = options.max_inflated_bytes;
  uint64_t total = 0;
  std::map<std::string, Tensor> arrays;
  for (const Member& m : *members) {
    // Members must not overlap, or a small file could claim any number of large arrays.
    total += std::min<uint64_t>(m.packed, zip.size() + 1);
    if (total > zip.size()) return in_file(Bad("members overlap"), m.name);
    if (!m.name.ends_with(".npy")) return in_file(Bad("only .npy members are expected"), m.name);
    absl::StatusOr<Tensor> array = ReadMember(zip, m, mapped, inflate_budget);
    if (!array.ok()) return in_file(array.status(), m.name);
    if (!arrays.emplace(m.name.substr(0, m.name.size() - 4), *std::move(array)).second) {
      return in_file(Bad("the name repeats"), m.name);
    }
  }
  return arrays;
}

}  // namespace quant

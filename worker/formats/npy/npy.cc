// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/npy/npy.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxHeader = 10'000;  // NumPy's own limit for files it does not trust

struct Header {
  std::string descr;
  bool fortran_order = false;
  Shape shape;
};

absl::Status Malformed(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("malformed .npy header: ", AbslView(why)));
}

// dict  := '{' (key ':' value (',' key ':' value)* ','?)? '}'     key := string
// value := string | 'True' | 'False' | tuple                      tuple := '(' (int (',' int)* ','?)? ')'
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : rest_(text) {}

  absl::StatusOr<Header> Parse() {
    Header header;
    bool descr = false;
    bool order = false;
    bool shape = false;
    if (!Take('{')) return Malformed("no dictionary");
    while (!Take('}')) {
      ASSIGN_OR_RETURN(const std::string key, String());
      if (!Take(':')) return Malformed("no ':' after a key");
      if (key == "descr" && !std::exchange(descr, true)) {
        if (Peek('[')) return absl::InvalidArgumentError("the array is of structures: save plain numbers");
        ASSIGN_OR_RETURN(header.descr, String());
      } else if (key == "fortran_order" && !std::exchange(order, true)) {
        ASSIGN_OR_RETURN(header.fortran_order, Bool());
      } else if (key == "shape" && !std::exchange(shape, true)) {
        ASSIGN_OR_RETURN(header.shape, Tuple());
      } else {
        return Malformed(absl::StrCat("key ", Quoted(key), " is unknown or repeats"));
      }
      if (!Take(',') && !Peek('}')) return Malformed("no ',' between entries");
    }
    SkipSpace();
    if (!rest_.empty()) return Malformed("text after the dictionary");
    if (!descr || !order || !shape) return Malformed("descr, fortran_order or shape is missing");
    return header;
  }

 private:
  void SkipSpace() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
  }
  bool Peek(char c) {
    SkipSpace();
    return !rest_.empty() && rest_.front() == c;
  }
  bool Take(char c) {
    if (!Peek(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool TakeWord(std::string_view word) {
    SkipSpace();
    if (!rest_.starts_with(word)) return false;
    rest_.remove_prefix(word.size());
    return true;
  }

  absl::StatusOr<std::string> String() {
    const char quote = Take('\'') ? '\'' : Take('"') ? '"' : '\0';
    const size_t end = quote == '\0' ? std::string_view::npos : rest_.find(quote);
    if (end == std::string_view::npos) return Malformed("a string is expected");
    std::string text(rest_.substr(0, end));
    if (text.find('\\') != std::string::npos) return Malformed("a string has an escape");
    rest_.remove_prefix(end + 1);
    return text;
  }

  absl::StatusOr<bool> Bool() {
    if (TakeWord("True")) return true;
    if (TakeWord("False")) return false;
    return Malformed("True or False is expected");
  }

  absl::StatusOr<Shape> Tuple() {
    Shape shape;
    if (!Take('(')) return Malformed("a shape is expected");
    while (!Take(')')) {
      SkipSpace();
      int64_t value = 0;
      size_t digits = 0;
      while (digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9') {
        if (value > kMaxElements) return Malformed("a dimension is too large");
        value = value * 10 + (rest_[digits++] - '0');
      }
      if (digits == 0) return Malformed("a dimension is not a number");
      rest_.remove_prefix(digits);
      TakeWord("L");  // Python 2
      if (shape.size() == kMaxRank) return Malformed(absl::StrCat("more than ", kMaxRank, " dimensions"));
      shape.push_back(value);
      if (!Take(',') && !Peek(')')) return Malformed("no ',' between dimensions");
    }
    return shape;
  }

  std::string_view rest_;
};

absl::StatusOr<DType> DTypeOfDescr(std::string_view descr) {
  constexpr std::pair<std::string_view, DType> kTypes[] = {
      {"b1", DType::kBool},   {"i1", DType::kInt8},    {"i2", DType::kInt16},   {"i4", DType::kInt32},
      {"i8", DType::kInt64},  {"u1", DType::kUInt8},   {"u2", DType::kUInt16},  {"u4", DType::kUInt32},
      {"u8", DType::kUInt64}, {"f2", DType::kFloat16}, {"f4", DType::kFloat32}, {"f8", DType::kFloat64}};
  const auto refuse = [&](std::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("the array's dtype is ", Quoted(descr), ": ", AbslView(why)));
  };
  if (descr.size() < 2) return refuse("not a dtype");
  const std::string_view kind = descr.substr(1);
  for (const auto& [name, dtype] : kTypes) {
    if (kind != name) continue;
    if (descr[0] == '>' && DTypeBits(dtype) > 8)
      return refuse("big-endian; save it with a.astype(a.dtype.newbyteorder('<'))");
    if (descr[0] != '<' && descr[0] != '|' && descr[0] != '>') return refuse("not a dtype");
    return dtype;
  }
  if (kind.starts_with("O")) return refuse("objects (a pickle) are never read; save plain numbers");
  return refuse("only bool, integers to 64 bits and float16, float32, float64 are read");
}

}  // namespace

absl::StatusOr<Tensor> ParseNpy(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(kMagic) || text.size() < 10)
    return absl::InvalidArgumentError("not a .npy array, or truncated");
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(text[i])); };
  const size_t major = byte(6);
  if (major < 1 || major > 3) return absl::InvalidArgumentError(absl::StrCat(".npy version ", major, " is unknown"));
  const size_t start = major == 1 ? 10 : 12;
  if (text.size() < start) return absl::InvalidArgumentError("truncated .npy header");
  size_t length = byte(8) + (byte(9) << 8);
  if (major > 1) length += (byte(10) << 16) + (byte(11) << 24);
  if (length > kMaxHeader) return Malformed(absl::StrCat("it is ", length, " bytes long, at most ", kMaxHeader));
  if (length > text.size() - start) return absl::InvalidArgumentError("truncated .npy header");

  ASSIGN_OR_RETURN(Header header, HeaderParser(text.substr(start, length)).Parse());
  ASSIGN_OR_RETURN(const DType dtype, DTypeOfDescr(header.descr));
  const auto wide = std::count_if(header.shape.begin(), header.shape.end(), [](int64_t d) { return d != 1; });
  if (header.fortran_order && wide > 1) {
    return absl::InvalidArgumentError("the array is column-major (fortran_order); save np.ascontiguousarray(a)");
  }
  return Tensor::Borrow(dtype, std::move(header.shape), bytes.subspan(start + length), std::move(owner));
}

absl::StatusOr<Tensor> ReadNpy(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  absl::StatusOr<Tensor> tensor = ParseNpy(mapped->bytes(), mapped);
  if (tensor.ok()) return tensor;
  return absl::Status(tensor.status().code(),
                      absl::StrCat(Quoted(file.filename().string()), ": ", tensor.status().message()));
}

}  // namespace quant

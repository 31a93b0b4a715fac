// SPDX-License-Identifier: Apache-2.0
// Writers of .npy and .npz for tests: byte for byte what NumPy and Python's zipfile make of small arrays.
#ifndef QUANT_WORKER_FORMATS_NPY_NPY_TESTING_H_
#define QUANT_WORKER_FORMATS_NPY_NPY_TESTING_H_

#include <zlib.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "worker/tensor/tensor.h"

namespace quant::testing {

// A version 1.0 file with this dictionary text.
inline std::string NpyWithHeader(std::string header, const std::string& data) {
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 255);
  out += static_cast<char>(header.size() >> 8);
  return out + header + data;
}

inline std::string EncodeNpy(const Tensor& t) {
  const char* descr = nullptr;
  switch (t.dtype()) {
    case DType::kFloat32:
      descr = "<f4";
      break;
    case DType::kFloat64:
      descr = "<f8";
      break;
    case DType::kFloat16:
      descr = "<f2";
      break;
    case DType::kInt64:
      descr = "<i8";
      break;
    case DType::kInt32:
      descr = "<i4";
      break;
    case DType::kUInt8:
      descr = "|u1";
      break;
    default:
      LOG(FATAL) << DTypeName(t.dtype());
  }
  std::string shape;
  for (const int64_t d : t.shape()) shape += std::to_string(d) + ", ";
  if (t.rank() > 1) shape.resize(shape.size() - 2);
  if (t.rank() == 1) shape.resize(shape.size() - 1);
  return NpyWithHeader(std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }",
                       {reinterpret_cast<const char*>(t.bytes().data()), t.bytes().size()});
}

inline std::string Little(uint64_t v, int width) {
  std::string s;
  for (int i = 0; i < width; ++i) s += static_cast<char>((v >> (8 * i)) & 255);
  return s;
}

inline std::string Deflate(const std::string& in) {
  std::string out(compressBound(in.size()) + 64, '\0');
  z_stream z = {};
  CHECK_EQ(deflateInit2(&z, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  CHECK_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

// An archive of (name, content); with `zip64`, local headers carry their sizes in the zip64 field as NumPy forces.
inline std::string EncodeZip(const std::vector<std::pair<std::string, std::string>>& files, bool deflated, bool zip64) {
  std::string out;
  std::string central;
  for (const auto& [name, content] : files) {
    const std::string data = deflated ? Deflate(content) : content;
    const uLong crc = crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size()));
    const std::string common = Little(0, 2) + Little(deflated ? 8 : 0, 2) + Little(0, 4) + Little(crc, 4);
    const std::string sizes = Little(data.size(), 4) + Little(content.size(), 4);
    const size_t offset = out.size();
    const std::string extra =
        zip64 ? Little(1, 2) + Little(16, 2) + Little(content.size(), 8) + Little(data.size(), 8) : "";
    absl::StrAppend(&out, Little(0x04034b50, 4), Little(zip64 ? 45 : 20, 2), common,
                    zip64 ? std::string(8, '\xff') : sizes, Little(name.size(), 2), Little(extra.size(), 2), name,
                    extra, data);
    absl::StrAppend(&central, Little(0x02014b50, 4), Little(45, 2), Little(45, 2), common, sizes,
                    Little(name.size(), 2), std::string(12, '\0'), Little(offset, 4), name);
  }
  const size_t start = out.size();
  return out + central + Little(0x06054b50, 4) + Little(0, 4) + Little(files.size(), 2) + Little(files.size(), 2) +
         Little(central.size(), 4) + Little(start, 4) + Little(0, 2);
}

}  // namespace quant::testing

#endif  // QUANT_WORKER_FORMATS_NPY_NPY_TESTING_H_

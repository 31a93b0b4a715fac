// SPDX-License-Identifier: Apache-2.0
// Writers of small JPEG and PNG files for tests.
#ifndef QUANT_WORKER_FORMATS_DATASET_IMAGE_TESTING_H_
#define QUANT_WORKER_FORMATS_DATASET_IMAGE_TESTING_H_

#include <zlib.h>

#include <cstdint>
#include <cstdio>  // jpeglib.h needs FILE
#include <cstdlib>
#include <string>

// clang-format off
#include <jpeglib.h>
// clang-format on

#include "absl/log/check.h"
#include "worker/formats/dataset/image.h"

namespace quant::testing {

inline std::string EncodeJpeg(const Image& image) {
  jpeg_compress_struct info = {};
  jpeg_error_mgr errors = {};
  info.err = jpeg_std_error(&errors);  // ends the test program on an error
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = image.channels;
  info.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row =
        const_cast<JSAMPROW>(image.pixels.data()) + size_t{info.next_scanline} * image.width * image.channels;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string out(reinterpret_cast<char*>(buffer), size);
  std::free(buffer);
  return out;
}

inline std::string BigEndian(uint32_t v) {
  std::string s;
  for (const int shift : {24, 16, 8, 0}) s += static_cast<char>((v >> shift) & 255);
  return s;
}

inline std::string PngChunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const uLong crc = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return BigEndian(static_cast<uint32_t>(data.size())) + body + BigEndian(static_cast<uint32_t>(crc));
}

// Eight bits, no filter, one IDAT (RFC 2083).
inline std::string EncodePng(const Image& image) {
  const size_t row = static_cast<size_t>(image.width) * static_cast<size_t>(image.channels);
  std::string raw;
  for (int y = 0; y < image.height; ++y) {
    raw += '\0';
    raw.append(reinterpret_cast<const char*>(image.pixels.data()) + static_cast<size_t>(y) * row, row);
  }
  uLongf size = compressBound(raw.size());
  std::string packed(size, '\0');
  CHECK_EQ(
      compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(raw.data()), raw.size()),
      Z_OK);
  packed.resize(size);
  const std::string kind =
      std::string("\x08", 1) + static_cast<char>(image.channels == 1 ? 0 : 2) + std::string(3, '\0');
  return "\x89PNG\r\n\x1a\n" +
         PngChunk("IHDR", BigEndian(static_cast<uint32_t>(image.width)) +
                              BigEndian(static_cast<uint32_t>(image.height)) + kind) +
         PngChunk("IDAT", packed) + PngChunk("IEND", "");
}

// Rewrites the header of a file made by EncodePng.
inline void SetPngSize(std::string& png, uint32_t width, uint32_t height) {
  const std::string kind = png.substr(24, 5);
  png.replace(8, 25, PngChunk("IHDR", BigEndian(width) + BigEndian(height) + kind));
}

}  // namespace quant::testing

#endif  // QUANT_WORKER_FORMATS_DATASET_IMAGE_TESTING_H_

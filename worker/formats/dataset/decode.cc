// SPDX-License-Identifier: Apache-2.0
// libjpeg and libpng, which report errors by longjmp: a function that calls setjmp has no local object that owns memory
// across the jump; what it fills belongs to its caller.
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs FILE
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

// clang-format off
#include <jpeglib.h>
#include <jerror.h>
#include <png.h>
// clang-format on

#include "absl/strings/str_cat.h"
#include "worker/formats/dataset/image.h"

namespace quant {
namespace {

absl::Status Damaged(std::string_view format, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat("damaged ", std::string(format), ": ", why));
}

absl::Status TooLarge(int64_t width, int64_t height) {
  return absl::InvalidArgumentError(
      absl::StrCat("the image is ", width, "x", height, " pixels; at most ", kMaxPixels, " in all are read"));
}

// ---- JPEG

struct JpegErrors {
  jpeg_error_mgr base;  // first: libjpeg hands back a pointer to it
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void JpegExit(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  info->err->format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}

// Most warnings are harmless oddities; these two mean that pixels are made up.
void JpegMessage(j_common_ptr info, int level) {
  if (level < 0 && (info->err->msg_code == JWRN_JPEG_EOF || info->err->msg_code == JWRN_HIT_MARKER)) JpegExit(info);
}

// False after a longjmp, with errors.message set; `refused` tells why decoding was not begun, if so.
bool RunJpeg(std::span<const std::byte> bytes, jpeg_decompress_struct& info, JpegErrors& errors, Image& image,
             absl::Status& refused) {
  if (setjmp(errors.jump) != 0) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&info, TRUE);
  if (int64_t{info.image_width} * info.image_height > kMaxPixels) {
    refused = TooLarge(info.image_width, info.image_height);
    return true;
  }
  if (info.num_components == 4) {
    refused = absl::InvalidArgumentError("the JPEG is CMYK; convert it to RGB");
    return true;
  }
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  image.height = static_cast<int>(info.output_height);
  image.width = static_cast<int>(info.output_width);
  image.channels = 3;
  image.pixels.resize(static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.pixels.data() + size_t{info.output_scanline} * size_t{info.output_width} * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

absl::StatusOr<Image> DecodeJpeg(std::span<const std::byte> bytes) {
  Image image;
  absl::Status refused;
  jpeg_decompress_struct info = {};
  JpegErrors errors = {};
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = JpegExit;
  errors.base.emit_message = JpegMessage;
  const bool whole = RunJpeg(bytes, info, errors, image, refused);
  jpeg_destroy_decompress(&info);
  if (!whole) return Damaged("JPEG", errors.message);
  if (!refused.ok()) return refused;
  return image;
}

// ---- PNG

struct PngInput {
  std::span<const std::byte> rest;
  char message[128] = {};
};

[[noreturn]] void PngExit(png_structp png, png_const_charp text) {
  auto* input = static_cast<PngInput*>(png_get_error_ptr(png));
  std::snprintf(input->message, sizeof(input->message), "%s", text);
  png_longjmp(png, 1);
}

void PngWarning(png_structp /*png*/, png_const_charp /*text*/) {}

void PngRead(png_structp png, png_bytep out, size_t size) {
  auto* input = static_cast<PngInput*>(png_get_io_ptr(png));
  if (size > input->rest.size()) png_error(png, "truncated");
  std::memcpy(out, input->rest.data(), size);
  input->rest = input->rest.subspan(size);
}

// As RunJpeg; `rows` is room for the row pointers libpng wants.
bool RunPng(png_structp png, png_infop info, PngInput& input, Image& image, std::vector<png_bytep>& rows,
            absl::Status& refused) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_read_fn(png, &input, PngRead);
  png_set_user_limits(png, 1 << 20, 1 << 20);
  png_set_chunk_cache_max(png, 128);
  png_set_chunk_malloc_max(png, 8'000'000);
  png_read_info(png, info);
  image.height = static_cast<int>(png_get_image_height(png, info));
  image.width = static_cast<int>(png_get_image_width(png, info));
  image.channels = 3;
  if (int64_t{image.width} * image.height > kMaxPixels) {
    refused = TooLarge(image.width, image.height);
    return true;
  }
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (png_get_rowbytes(png, info) != static_cast<size_t>(image.width) * 3) png_error(png, "unexpected pixel format");
  image.pixels.resize(static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3);
  rows.resize(static_cast<size_t>(image.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = image.pixels.data() + y * static_cast<size_t>(image.width) * 3;
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  return true;
}

absl::StatusOr<Image> DecodePng(std::span<const std::byte> bytes) {
  Image image;
  absl::Status refused;
  std::vector<png_bytep> rows;
  PngInput input{.rest = bytes};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input, PngExit, PngWarning);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  if (info == nullptr) {
    png_destroy_read_struct(&png, nullptr, nullptr);
    return absl::ResourceExhaustedError("no memory to decode a PNG");
  }
  const bool whole = RunPng(png, info, input, image, rows, refused);
  png_destroy_read_struct(&png, &info, nullptr);
  if (!whole) return Damaged("PNG", input.message);
  if (!refused.ok()) return refused;
  return image;
}

}  // namespace

absl::StatusOr<Image> DecodeImage(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("\xff\xd8\xff")) return DecodeJpeg(bytes);
  if (text.starts_with("\x89PNG\r\n\x1a\n")) return DecodePng(bytes);
  return absl::InvalidArgumentError("neither a JPEG nor a PNG");
}

}  // namespace quant

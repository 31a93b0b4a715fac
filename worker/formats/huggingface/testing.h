// SPDX-License-Identifier: Apache-2.0
// Small checkpoints for tests: a config.json and zero-filled tensors of given shapes.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_TESTING_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_TESTING_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/formats/testing.h"

namespace quant::testing {

using Shapes = std::map<std::string, std::vector<int64_t>>;

// A safetensors file of zeros, two bytes each (or one, for "U8").
inline std::string ZeroTensors(const Shapes& shapes, const std::string& dtype = "BF16") {
  nlohmann::json header = nlohmann::json::object();
  int64_t at = 0;
  for (const auto& [name, shape] : shapes) {
    int64_t bytes = dtype == "U8" ? 1 : 2;
    for (const int64_t dim : shape) bytes *= dim;
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  const std::string text = header.dump();
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>((text.size() >> (8 * i)) & 255);
  return file + text + std::string(static_cast<size_t>(at), '\0');
}

inline void WriteCheckpoint(const std::filesystem::path& folder, const nlohmann::json& config, const Shapes& shapes) {
  WriteFile(folder / "config.json", config.dump());
  WriteFile(folder / "model.safetensors", ZeroTensors(shapes));
}

}  // namespace quant::testing

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_TESTING_H_

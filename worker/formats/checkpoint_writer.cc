// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/checkpoint_writer.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/atomic_file.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// What stands beside a quantized layer's codes.
bool IsPart(std::string_view name) {
  static constexpr std::string_view kParts[] = {
      ".qzeros",       ".scales",        ".g_idx",        ".weight.absmax",     ".weight.quant_map",
      ".SCB",          ".weight_format", ".weight_scale", ".weight_zero_point", ".weight.nested_absmax",
      ".weight_shape", ".weight_g_idx",  ".input_scale",  ".input_zero_point",  ".weight.nested_quant_map"};
  return std::any_of(std::begin(kParts), std::end(kParts), [&](std::string_view p) { return name.ends_with(p); }) ||
         name.find(".weight.quant_state.bitsandbytes__") != std::string_view::npos;
}

}  // namespace

std::vector<std::string> FloatTensorNames(const Checkpoint& source) {
  std::vector<std::string> names;
  const bool quantized = !source.QuantMethod().empty();
  for (const auto& [name, tensor] : source.tensors()) {
    if (quantized && IsPart(name)) continue;
    std::string_view stem = name;
    for (const std::string_view codes : {".qweight", ".weight_packed"}) {
      if (quantized && stem.ends_with(codes)) stem.remove_suffix(codes.size());
    }
    names.push_back(stem.size() == name.size() ? name : absl::StrCat(AbslView(stem), ".weight"));
  }
  return names;
}

absl::Status PrepareFolder(const Checkpoint& source, const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot create ", Quoted(folder.string())));
  const fs::path from = fs::canonical(source.folder(), error);
  const fs::path to = fs::canonical(folder, error);
  for (fs::path p = to; !p.empty(); p = p.parent_path()) {
    if (p == from) return absl::InvalidArgumentError("the output folder is, or lies in, the source checkpoint's");
    if (p == p.root_path()) break;
  }
  std::vector<fs::path> stale;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::end(it); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("model") && name.find(".safetensors") != std::string::npos) stale.push_back(it->path());
  }
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read ", Quoted(folder.string())));
  for (const fs::path& p : stale) {
    if (!fs::remove(p, error)) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot remove ", p.string()));
  }
  return absl::OkStatus();
}

absl::Status CopyOtherFiles(const Checkpoint& source, const fs::path& folder, const std::vector<std::string>& except) {
  for (const std::string& name : source.other_files()) {
    if (std::find(except.begin(), except.end(), name) != except.end()) continue;
    ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> from, MappedFile::OpenBeneath(source.folder(), name));
    ASSIGN_OR_RETURN(AtomicFile to, AtomicFile::Create(folder / name));
    RETURN_IF_ERROR(to.Write(from->text()));
    RETURN_IF_ERROR(to.Commit());
  }
  return absl::OkStatus();
}

}  // namespace quant

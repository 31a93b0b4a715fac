// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/dataset.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/dataset/arrays.h"
#include "worker/formats/dataset/preprocess.h"
#include "worker/formats/dataset/source.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

constexpr char kLabels[] = "labels";

absl::StatusOr<std::vector<int64_t>> ReadLabels(const Tensor& array) {
  const bool column = array.rank() == 2 && array.dim(1) == 1;
  if ((array.rank() != 1 && !column) || IsFloat(array.dtype())) {
    return absl::InvalidArgumentError(absl::StrCat("labels are ", DTypeName(array.dtype()), " ",
                                                   ShapeString(array.shape()), "; want one integer per sample"));
  }
  ASSIGN_OR_RETURN(std::vector<int64_t> labels, ToInt64(array));
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0)
      return absl::InvalidArgumentError(absl::StrCat("label ", labels[i], " of sample ", i, " is negative"));
  }
  return labels;
}

class SourceDataset : public Dataset {
 public:
  SourceDataset(std::vector<std::unique_ptr<Source>> sources, std::vector<int64_t> labels)
      : sources_(std::move(sources)), labels_(std::move(labels)) {}

  int64_t size() const override { return sources_.front()->size(); }

  absl::StatusOr<std::vector<Tensor>> Read(int64_t begin, int64_t count) override {
    if (begin < 0 || count < 1 || begin > size() || count > size() - begin) {
      return absl::OutOfRangeError(absl::StrCat(count, " samples from ", begin, " on; the dataset has ", size()));
    }
    std::vector<Tensor> batch;
    for (const std::unique_ptr<Source>& source : sources_) {
      ASSIGN_OR_RETURN(Tensor t, source->Read(begin, count));
      batch.push_back(std::move(t));
    }
    return batch;
  }

  std::span<const int64_t> labels() const override { return labels_; }

 private:
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<int64_t> labels_;
};

absl::StatusOr<std::unique_ptr<Dataset>> Finish(std::vector<std::unique_ptr<Source>> sources,
                                                std::vector<int64_t> labels, std::span<const ValueInfo> inputs) {
  const int64_t size = sources.front()->size();
  for (size_t i = 1; i < sources.size(); ++i) {
    if (sources[i]->size() != size) {
      return absl::InvalidArgumentError(absl::StrCat("input ", Quoted(inputs[i].name), " has ", sources[i]->size(),
                                                     " samples, input ", Quoted(inputs[0].name), " has ", size));
    }
  }
  if (size == 0) return absl::InvalidArgumentError("the dataset has no samples");
  if (!labels.empty() && static_cast<int64_t>(labels.size()) != size) {
    return absl::InvalidArgumentError(absl::StrCat(labels.size(), " labels for ", size, " samples"));
  }
  return std::make_unique<SourceDataset>(std::move(sources), std::move(labels));
}

// The array to use for the only input of a model: the one of its name, else the only one there is.
absl::StatusOr<Arrays::iterator> OnlyArray(Arrays& arrays, const std::string& name) {
  if (const auto it = arrays.find(name); it != arrays.end()) return it;
  if (arrays.size() == 1) return arrays.begin();
  return absl::InvalidArgumentError(absl::StrCat(
      "no array called ", Quoted(name), " as the model's input, and not just one: there are ", ArrayNames(arrays)));
}

absl::StatusOr<std::unique_ptr<Dataset>> OpenImages(const fs::path& folder, const fs::path& preprocess, Arrays arrays,
                                                    std::vector<int64_t> labels, std::span<const ValueInfo> inputs) {
  ASSIGN_OR_RETURN(const PreprocessSpec spec, ReadPreprocess(preprocess));
  if (inputs.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("preprocess.json is for models of one input, this one has ",
                                                   inputs.size(), ": store arrays that are ready for the model"));
  }
  std::vector<std::unique_ptr<Source>> sources(1);
  if (arrays.empty() && spec.array.empty()) {
    ASSIGN_OR_RETURN(ImageFolder images, FindImages(folder));
    if (images.files.empty())
      return absl::InvalidArgumentError("preprocess.json, but neither arrays nor JPEG or PNG files");
    if (labels.empty()) labels = std::move(images.labels);
    ASSIGN_OR_RETURN(sources[0], MakeImageFileSource(folder, std::move(images.files), spec, inputs[0]));
  } else {
    std::string wanted = spec.array.empty() ? inputs[0].name : spec.array;
    if (wanted.ends_with(".npy")) wanted.resize(wanted.size() - 4);
    const auto named = arrays.find(wanted);
    if (named == arrays.end() && !spec.array.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("preprocess.json names array ", Quoted(spec.array), "; there are ", ArrayNames(arrays)));
    }
    ASSIGN_OR_RETURN(const Arrays::iterator it, OnlyArray(arrays, wanted));
    ASSIGN_OR_RETURN(sources[0], MakeImageArraySource(it->first, it->second, spec, inputs[0]));
  }
  return Finish(std::move(sources), std::move(labels), inputs);
}

absl::StatusOr<std::unique_ptr<Dataset>> OpenArrays(Arrays arrays, std::vector<int64_t> labels,
                                                    std::span<const ValueInfo> inputs) {
  std::vector<std::unique_ptr<Source>> sources;
  if (inputs.size() == 1) {
    ASSIGN_OR_RETURN(const Arrays::iterator it, OnlyArray(arrays, inputs[0].name));
    ASSIGN_OR_RETURN(std::unique_ptr<Source> source, MakeArraySource(it->first, it->second, inputs[0]));
    sources.push_back(std::move(source));
    return Finish(std::move(sources), std::move(labels), inputs);
  }
  std::vector<std::string> missing;
  for (const ValueInfo& input : inputs) {
    if (!arrays.contains(input.name)) missing.push_back(Quoted(input.name));
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("no array for input ", absl::StrJoin(missing, ", "),
                                                   "; arrays are named after the model's inputs, there are ",
                                                   ArrayNames(arrays)));
  }
  for (const ValueInfo& input : inputs) {
    ASSIGN_OR_RETURN(std::unique_ptr<Source> source, MakeArraySource(input.name, arrays.at(input.name), input));
    sources.push_back(std::move(source));
  }
  return Finish(std::move(sources), std::move(labels), inputs);
}

absl::StatusOr<std::unique_ptr<Dataset>> Open(const fs::path& folder, std::span<const ValueInfo> inputs) {
  if (inputs.empty()) return absl::InvalidArgumentError("the model has no inputs");
  ASSIGN_OR_RETURN(const std::vector<fs::path> files, ListFiles(folder));
  ASSIGN_OR_RETURN(Arrays arrays, ReadArrays(files));
  std::vector<int64_t> labels;
  const bool input_is_labels =
      std::any_of(inputs.begin(), inputs.end(), [](const ValueInfo& v) { return v.name == kLabels; });
  if (const auto it = arrays.find(kLabels); it != arrays.end() && !input_is_labels) {
    ASSIGN_OR_RETURN(labels, ReadLabels(it->second));
    arrays.erase(it);
  }
  const fs::path preprocess = folder / "preprocess.json";
  if (fs::exists(preprocess)) return OpenImages(folder, preprocess, std::move(arrays), std::move(labels), inputs);
  if (!arrays.empty()) return OpenArrays(std::move(arrays), std::move(labels), inputs);
  ASSIGN_OR_RETURN(const ImageFolder images, FindImages(folder));
  if (!images.files.empty()) {
    return absl::InvalidArgumentError(
        "images without a preprocess.json, which must say how to scale and normalise them");
  }
  return absl::InvalidArgumentError("no .npy, .npz, .safetensors, JPEG or PNG files");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Dataset>> OpenDataset(const fs::path& folder, std::span<const ValueInfo> inputs) {
  absl::StatusOr<std::unique_ptr<Dataset>> dataset = Open(folder, inputs);
  if (dataset.ok()) return dataset;
  return absl::Status(dataset.status().code(), absl::StrCat("dataset: ", dataset.status().message()));
}

}  // namespace quant

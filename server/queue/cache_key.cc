// SPDX-License-Identifier: Apache-2.0
#include "server/queue/cache_key.h"

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "common/view/job_inputs.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace quant {

std::string CanonicalBytes(const google::protobuf::MessageLite& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

namespace {

// Of a QuantizeSpec or TuneSpec: digests for ids, and no name for the result.
template <typename Spec>
absl::Status NameByContent(Spec* spec, ArtifactCatalog* catalog) {
  spec->clear_output_name();
  ASSIGN_OR_RETURN(const v1::Model model, catalog->GetModel(OpenPrincipal(), spec->model_id()));
  spec->set_model_id(model.digest());
  for (std::string* id : {spec->mutable_calibration_dataset_id(), spec->mutable_evaluation_dataset_id()}) {
    if (id->empty()) continue;
    ASSIGN_OR_RETURN(const v1::Dataset dataset, catalog->GetDataset(OpenPrincipal(), *id));
    *id = dataset.digest();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CacheKey(std::string_view tenant, std::string_view salt, const v1::JobSpec& spec,
                                     ArtifactCatalog* catalog) {
  if (!MakesModel(spec)) return std::string();
  v1::JobSpec content;
  if (spec.has_quantize()) {
    *content.mutable_quantize() = spec.quantize();
    RETURN_IF_ERROR(NameByContent(content.mutable_quantize(), catalog));
  } else {
    *content.mutable_tune() = spec.tune();
    RETURN_IF_ERROR(NameByContent(content.mutable_tune(), catalog));
  }
  return Sha256Hex(absl::StrCat(Sha256Hex(tenant), Sha256Hex(salt), CanonicalBytes(content)));
}

}  // namespace quant

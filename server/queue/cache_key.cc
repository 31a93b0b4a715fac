// SPDX-License-Identifier: Apache-2.0
#include "server/queue/cache_key.h"

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/status_macros.h"
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

absl::StatusOr<std::string> CacheKey(std::string_view tenant, std::string_view salt, const v1::JobSpec& spec,
                                     ArtifactCatalog* catalog) {
  if (!spec.has_quantize()) return std::string();
  v1::JobSpec content;
  v1::QuantizeSpec& quantize = *content.mutable_quantize();
  quantize = spec.quantize();
  quantize.clear_output_name();
  ASSIGN_OR_RETURN(const v1::Model model, catalog->GetModel(OpenPrincipal(), quantize.model_id()));
  quantize.set_model_id(model.digest());
  for (std::string* id : {quantize.mutable_calibration_dataset_id(), quantize.mutable_evaluation_dataset_id()}) {
    if (id->empty()) continue;
    ASSIGN_OR_RETURN(const v1::Dataset dataset, catalog->GetDataset(OpenPrincipal(), *id));
    *id = dataset.digest();
  }
  return Sha256Hex(absl::StrCat(Sha256Hex(tenant), Sha256Hex(salt), CanonicalBytes(content)));
}

}  // namespace quant

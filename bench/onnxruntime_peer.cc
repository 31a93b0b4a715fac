// SPDX-License-Identifier: Apache-2.0
#include "bench/onnxruntime_peer.h"

#if !__has_include(<onnxruntime_c_api.h>)

namespace quant {
absl::StatusOr<std::unique_ptr<OnnxRuntimePeer>> OnnxRuntimePeer::Load(const std::string&,
                                                                       const std::vector<std::string>&,
                                                                       const std::vector<std::string>&,
                                                                       std::span<const Tensor>, int) {
  return absl::UnimplementedError("built without ONNX Runtime's C header (Debian's libonnxruntime-dev)");
}
}  // namespace quant

#else

#include <dlfcn.h>
#include <fcntl.h>
#include <onnxruntime_c_api.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace quant {
namespace {

// Hides what its libraries print to standard error as they are loaded: a thousand lines of double registration.
class QuietStandardError {
 public:
  QuietStandardError() : saved_(dup(2)) {
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, 2);
    close(null);
  }
  ~QuietStandardError() {
    dup2(saved_, 2);
    close(saved_);
  }
  QuietStandardError(const QuietStandardError&) = delete;
  QuietStandardError& operator=(const QuietStandardError&) = delete;

 private:
  int saved_;
};

struct Api {
  const OrtApi* ort = nullptr;
  OrtEnv* env = nullptr;
};

absl::Status ToStatus(const OrtApi& ort, OrtStatus* status) {
  if (status == nullptr) return absl::OkStatus();
  const absl::Status result = absl::InvalidArgumentError(absl::StrCat("ONNX Runtime: ", ort.GetErrorMessage(status)));
  ort.ReleaseStatus(status);
  return result;
}

// Loaded once, for the life of the program.
absl::StatusOr<Api> GetApi() {
  static const absl::StatusOr<Api> api = []() -> absl::StatusOr<Api> {
    void* const library = dlmopen(LM_ID_NEWLM, "libonnxruntime.so.1.21", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return absl::UnimplementedError(absl::StrCat("no ONNX Runtime: ", dlerror()));
    const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (base == nullptr) return absl::UnimplementedError("libonnxruntime.so has no OrtGetApiBase");
    Api a{.ort = base()->GetApi(ORT_API_VERSION)};
    if (a.ort == nullptr) return absl::UnimplementedError("libonnxruntime.so is older than its header");
    RETURN_IF_ERROR(ToStatus(*a.ort, a.ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bench", &a.env)));
    return a;
  }();
  return api;
}

ONNXTensorElementDataType TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::kInt32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    default:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  }
}

class Peer : public OnnxRuntimePeer {
 public:
  Peer(const OrtApi& ort, std::vector<std::string> inputs, std::vector<std::string> outputs)
      : ort_(ort), input_names_(std::move(inputs)), output_names_(std::move(outputs)) {}
  ~Peer() override {
    for (OrtValue* v : inputs_) ort_.ReleaseValue(v);
    if (session_ != nullptr) ort_.ReleaseSession(session_);
  }

  absl::Status Open(OrtEnv* env, const std::string& file, std::span<const Tensor> inputs, int threads) {
    OrtSessionOptions* options = nullptr;
    RETURN_IF_ERROR(ToStatus(ort_, ort_.CreateSessionOptions(&options)));
    absl::Status status = ToStatus(ort_, ort_.SetIntraOpNumThreads(options, threads));
    if (status.ok()) status = ToStatus(ort_, ort_.CreateSession(env, file.c_str(), options, &session_));
    ort_.ReleaseSessionOptions(options);
    RETURN_IF_ERROR(status);
    OrtMemoryInfo* memory = nullptr;
    RETURN_IF_ERROR(ToStatus(ort_, ort_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory)));
    for (const Tensor& t : inputs) {
      OrtValue* value = nullptr;
      status = ToStatus(
          ort_, ort_.CreateTensorWithDataAsOrtValue(memory, const_cast<std::byte*>(t.bytes().data()), t.bytes().size(),
                                                    t.shape().data(), t.shape().size(), TypeOf(t.dtype()), &value));
      if (!status.ok()) break;
      inputs_.push_back(value);
    }
    ort_.ReleaseMemoryInfo(memory);
    for (const std::string& n : input_names_) input_pointers_.push_back(n.c_str());
    for (const std::string& n : output_names_) output_pointers_.push_back(n.c_str());
    return status;
  }

  absl::Status Run() override {
    std::vector<OrtValue*> outputs(output_pointers_.size());
    RETURN_IF_ERROR(ToStatus(ort_, ort_.Run(session_, nullptr, input_pointers_.data(), inputs_.data(), inputs_.size(),
                                            output_pointers_.data(), outputs.size(), outputs.data())));
    for (OrtValue* v : outputs) ort_.ReleaseValue(v);
    return absl::OkStatus();
  }

 private:
  const OrtApi& ort_;
  std::vector<std::string> input_names_, output_names_;
  std::vector<const char*> input_pointers_, output_pointers_;
  std::vector<OrtValue*> inputs_;
  OrtSession* session_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OnnxRuntimePeer>> OnnxRuntimePeer::Load(const std::string& file,
                                                                       const std::vector<std::string>& input_names,
                                                                       const std::vector<std::string>& output_names,
                                                                       std::span<const Tensor> inputs, int threads) {
  const QuietStandardError quiet;
  ASSIGN_OR_RETURN(const Api api, GetApi());
  auto peer = std::make_unique<Peer>(*api.ort, input_names, output_names);
  RETURN_IF_ERROR(peer->Open(api.env, file, inputs, threads));
  return peer;
}

}  // namespace quant

#endif

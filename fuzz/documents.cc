// SPDX-License-Identifier: Apache-2.0
// Text and messages: recipes, reports, preprocess.json, resume points, and what a job's process tells its agent.
#include <string>
#include <string_view>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "client/recipe_file.h"
#include "client/report_text.h"
#include "common/proto_time.h"
#include "common/trace_context.h"
#include "common/view/html.h"
#include "common/view/json.h"
#include "common/view/report_view.h"
#include "fuzz/fuzz_target.h"
#include "quant/v1/jobs.pb.h"
#include "quant/v1/recipe.pb.h"
#include "quant/v1/report.pb.h"
#include "server/blobs/s3_upload_state.h"
#include "server/blobs/s3_xml.h"
#include "server/pages/page_html.h"
#include "worker/agent/child_output.h"
#include "worker/formats/dataset/dataset.h"
#include "worker/job/resume.h"

namespace quant::fuzz {

FUZZ_TARGET(recipe, input) {
  const auto recipe = ParseRecipe(input, "recipe");
  if (!recipe.ok()) return;
  // What is written is read back as the same.
  const auto again = ParseRecipe(MessageToJson(*recipe), "again");
  CHECK_OK(again.status());
  CHECK_EQ(MessageToJson(*again), MessageToJson(*recipe));
}

// JSON, or else a serialized message: both end in pages for people.
FUZZ_TARGET(report, input) {
  v1::Report report;
  if (!JsonToMessage(input, report).ok() && !report.ParseFromArray(input.data(), static_cast<int>(input.size())))
    return;
  v1::Job job;
  job.set_id("j-1");
  ReportText(report, job);
  ReportHtml(report, job);
  MessageToJson(report);
}

FUZZ_TARGET(traceparent, input) {
  const std::string parsed = ParseTraceparent(input);
  if (parsed.empty()) return;
  CHECK_EQ(parsed.size(), 55u);
  CHECK_EQ(ParseTraceparent(parsed), parsed);
  CHECK_EQ(TraceId(parsed), input.substr(3, 32));
}

// What S3 answers, and what it keeps for us: a listing, then the state of an upload.
FUZZ_TARGET(s3, input) {
  const auto parts = Parts(input, 2);
  for (const char* record : {"Contents", "Part", "Upload", "Error"}) {
    for (const std::string_view element : XmlElements(parts[0], record)) {
      CHECK_LE(element.size(), parts[0].size());
      for (const char* name : {"Key", "Size", "LastModified", "UploadId", "ETag", "Code"}) XmlText(element, name);
    }
  }
  CHECK_EQ(XmlText(absl::StrCat("<A>", XmlEscape(parts[0]), "</A>"), "A"), parts[0]);
  const auto state = S3UploadState::Decode(parts[1]);
  if (!state.has_value()) return;
  CHECK_GE(state->committed(), 0);
  const auto again = S3UploadState::Decode(state->Encode());
  CHECK(again.has_value());
  CHECK_EQ(again->Encode(), state->Encode());
}

// What a browser is sent of text from outside, and what one sends.
FUZZ_TARGET(html, input) {
  CHECK_EQ(HtmlEscape(input).find_first_of("<>\"'"), std::string::npos);
  CHECK_EQ(FormValue(absl::StrCat("a=1&next=", UrlEncode(input)), "next"), input);
  FormValue(input, "token");
}

// preprocess.json, for one image of 4 x 5 pixels.
FUZZ_TARGET(preprocess, input) {
  const auto& folder = EmptyFolder();
  WriteTo(folder / "preprocess.json", input);
  std::string images = "\x93NUMPY\x01";
  images += '\0';
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 5, 3), }";
  header.resize(117, ' ');
  header += '\n';
  images += std::string("\x76\0", 2) + header + std::string(60, '\7');
  WriteTo(folder / "images.npy", images);
  ValueInfo wanted;
  wanted.name = "input";
  wanted.dtype = DType::kFloat32;
  wanted.has_shape = true;
  for (const int64_t size : {1, 3, 4, 5}) wanted.shape.push_back(Dim{.value = size});
  const auto dataset = OpenDataset(folder, {&wanted, 1});
  if (dataset.ok()) (*dataset)->Read(0, (*dataset)->size()).IgnoreError();
}

// The results of block 0, then the state before block 1.
FUZZ_TARGET(resume, input) {
  const std::vector<std::string_view> parts = Parts(input, 2);
  const auto& folder = EmptyFolder();
  std::filesystem::create_directories(folder / "block-0000");
  std::filesystem::create_directories(folder / "state-0001");
  WriteTo(folder / "block-0000" / "model.safetensors", parts[0]);
  WriteTo(folder / "state-0001" / "model.safetensors", parts[1]);
  ResumePoints(folder, "fingerprint").Load();
}

// The pipe of a job's process: frames of Progress, in pieces as the first byte says; and its output.
FUZZ_TARGET(child_output, input) {
  const size_t piece = input.empty() ? 1 : 1 + static_cast<unsigned char>(input[0]);
  FrameSplitter splitter;
  OutputTail tail(64);
  for (size_t at = std::min<size_t>(1, input.size()); at < input.size(); at += piece) {
    const std::string_view bytes = input.substr(at, piece);
    tail.Append(bytes);
    CHECK_LE(tail.Get().size(), 64U);
    const absl::Status status = splitter.Append(bytes, [](std::string_view payload) {
      v1::Progress progress;
      if (!progress.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
        return absl::InvalidArgumentError("no Progress");
      }
      if (progress.has_update_time()) FromProto(progress.update_time());
      return absl::OkStatus();
    });
    if (!status.ok()) return;
  }
}

}  // namespace quant::fuzz

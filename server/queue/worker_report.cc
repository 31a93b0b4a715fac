// SPDX-License-Identifier: Apache-2.0
#include "server/queue/worker_report.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/proto_time.h"

namespace quant {
namespace {

constexpr size_t kMaxPhaseBytes = 32;
constexpr size_t kMaxProgressBytes = 256;
constexpr size_t kMaxUnitBytes = 16;
constexpr absl::Duration kMaxRemaining = absl::Hours(24 * 366);
constexpr size_t kMaxErrorBytes = 4096;
constexpr size_t kMaxReasonBytes = 63;

bool IsReason(std::string_view reason) {
  return !reason.empty() && reason.size() <= kMaxReasonBytes && std::all_of(reason.begin(), reason.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

std::string Cut(std::string_view text, size_t max) {
  if (text.size() <= max) return std::string(text);
  while (max > 0 && (static_cast<unsigned char>(text[max]) & 0xc0) == 0x80) --max;
  return std::string(text.substr(0, max));
}

v1::Progress CleanProgress(const v1::Progress& in, absl::Time now) {
  v1::Progress out;
  out.set_phase(Cut(in.phase(), kMaxPhaseBytes));
  out.set_fraction(std::isfinite(in.fraction()) ? std::clamp(in.fraction(), 0.0, 1.0) : 0.0);
  out.set_message(Cut(in.message(), kMaxProgressBytes));
  SetProto(in.has_update_time() ? FromProto(in.update_time()) : now, out.mutable_update_time());
  if (in.has_phase_start_time()) SetProto(FromProto(in.phase_start_time()), out.mutable_phase_start_time());
  out.set_total(std::max<int64_t>(in.total(), 0));
  out.set_done(std::clamp<int64_t>(in.done(), 0, out.total()));
  out.set_unit(Cut(in.unit(), kMaxUnitBytes));
  out.set_rate(std::isfinite(in.rate()) && in.rate() > 0 ? in.rate() : 0.0);
  const absl::Duration remaining = in.has_remaining() ? FromProto(in.remaining()) : absl::InfiniteDuration();
  if (remaining >= absl::ZeroDuration() && remaining <= kMaxRemaining) SetProto(remaining, out.mutable_remaining());
  return out;
}

bool SameProgress(const v1::Progress& a, const v1::Progress& b) {
  return a.phase() == b.phase() && a.fraction() == b.fraction() && a.message() == b.message() && a.done() == b.done();
}

v1::JobError CleanError(const v1::JobError& in, const v1::Progress& progress) {
  v1::JobError out;
  const bool known = v1::ErrorClass_IsValid(in.error_class()) && in.error_class() != v1::ERROR_CLASS_UNSPECIFIED;
  out.set_error_class(known ? in.error_class() : v1::ERROR_CLASS_RETRYABLE);
  out.set_reason(IsReason(in.reason()) ? in.reason() : "INTERNAL");
  out.set_message(Cut(in.message(), kMaxErrorBytes));
  out.set_phase(Cut(in.phase().empty() ? progress.phase() : in.phase(), kMaxPhaseBytes));
  return out;
}

}  // namespace quant

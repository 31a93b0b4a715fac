// SPDX-License-Identifier: Apache-2.0
// W3C Trace Context (www.w3.org/TR/trace-context-1, section 3.2): the header `traceparent`, by which the calls and log
// lines of all programs that worked on one thing find together.
//
//   00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//   version, trace id (16 bytes), parent id (8 bytes), flags, in lower-case hex
#ifndef QUANT_COMMON_TRACE_CONTEXT_H_
#define QUANT_COMMON_TRACE_CONTEXT_H_

#include <string>
#include <string_view>

namespace quant {

// The header of gRPC calls, and (in capitals) the variable of the environment.
inline constexpr char kTraceparentHeader[] = "traceparent";

// `text` in the form of version 00; "" when it is not well-formed: 55 characters, lower-case hex, neither id all zeros,
// version not ff. Of a higher version what comes after the 55 is dropped, if it begins with "-", and so are flags that
// version 00 does not know.
std::string ParseTraceparent(std::string_view text);

// A new trace, with random ids, not marked as sampled.
std::string NewTraceparent();

// The trace id of a parsed one; "" of "".
std::string_view TraceId(std::string_view traceparent);

}  // namespace quant

#endif  // QUANT_COMMON_TRACE_CONTEXT_H_

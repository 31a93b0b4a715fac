// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_COMMON_VIEW_HTML_H_
#define QUANT_COMMON_VIEW_HTML_H_

#include <string>
#include <string_view>

namespace quant {

// Text from outside, safe between tags and inside quoted attributes: made Printable, and & < > " ' as entities. Not for
// the inside of <style>, <script>, comments or the names of tags and attributes: nothing from outside belongs there.
std::string HtmlEscape(std::string_view text);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_HTML_H_

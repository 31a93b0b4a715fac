// SPDX-License-Identifier: Apache-2.0
// Enough of XML to read what S3 answers: flat records of elements with text, no comments, no CDATA.
#ifndef QUANT_SERVER_BLOBS_S3_XML_H_
#define QUANT_SERVER_BLOBS_S3_XML_H_

#include <string>
#include <string_view>
#include <vector>

namespace quant {

// The content of each element `name` of `xml`, wherever it is, in order; views into `xml`. Elements of one name are not
// nested in S3's answers. One without an end is left out.
std::vector<std::string_view> XmlElements(std::string_view xml, std::string_view name);
// The text of the first element `name`, with its entities replaced; "" when there is none.
std::string XmlText(std::string_view xml, std::string_view name);
// `text` with what means something in XML replaced.
std::string XmlEscape(std::string_view text);

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_S3_XML_H_

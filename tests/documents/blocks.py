# SPDX-License-Identifier: Apache-2.0
"""The commands of the documents: fenced blocks marked `sh`, in their order.

A block whose fence says `sh no-test REASON` is shown to readers and not run here.
"""
import pathlib
import re
from typing import NamedTuple

TOP = pathlib.Path(__file__).resolve().parents[2]


class Block(NamedTuple):
    line: int      # of its first command
    text: str
    reason: str    # why it is not run; "" when it is


def documents():
    """Every document whose commands are promised to work, with its blocks."""
    paths = [TOP / "README.md", TOP / "client/python/README.md", TOP / "deploy/README.md", *sorted((TOP / "docs").rglob("*.md"))]
    return {p.relative_to(TOP).as_posix(): blocks(p.read_text()) for p in paths if p.exists()}


def blocks(text):
    """The sh blocks of a document; ValueError for a fence that is not closed or gives no reason."""
    found, current, fence = [], None, None
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"^\s*(`{3,})(.*)$", line)
        if fence is None and match:
            fence, info = match[1], match[2].strip()
            words = info.split(None, 2)
            if words[:1] == ["sh"]:
                if len(words) > 1 and (words[1] != "no-test" or len(words) < 3):
                    raise ValueError(f"line {number}: write ```sh or ```sh no-test REASON, not ```{info}")
                current = [number + 1, [], words[2] if len(words) > 1 else ""]
        elif fence is not None and match and match[1] == fence and not match[2].strip():
            if current:
                found.append(Block(current[0], "\n".join(current[1]) + "\n", current[2]))
            current = fence = None
        elif current:
            current[1].append(line)
    if fence is not None:
        raise ValueError("a fence is not closed")
    return found

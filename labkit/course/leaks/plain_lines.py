"""Lines of text without spaces and comments, so that layout does not hide equal lines."""

from __future__ import annotations

import re

_COMMENT = re.compile(r"(^|\s)#.*$")


def close_up(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def lines_of(text: str) -> list[str]:
    """The lines of a text of code without spaces and comments. Lines with nothing else are left out."""
    closed = (close_up(_COMMENT.sub("", line)) for line in text.splitlines())
    return [line for line in closed if line]

"""Removes spaces and comments from lines of text, so that lines that differ only in layout become equal."""

from __future__ import annotations

import re

_COMMENT = re.compile(r"(^|\s)#.*$")


def close_up(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def lines_of(text: str) -> list[str]:
    """The lines of some code without spaces and comments. Lines that are then empty are left out."""
    closed = (close_up(_COMMENT.sub("", line)) for line in text.splitlines())
    return [line for line in closed if line]

"""Writes a count and its noun for messages.

`counted` forms regular plurals; the caller passes an irregular plural as an argument.
"""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """The number and the noun in the right form: "1 token", "0 tokens", "2 copies" for `counted(2, "copy", "copies")`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"

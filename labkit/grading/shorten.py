"""Texts of others, cut to a length that a person reads: an exception's message can have megabytes."""

from __future__ import annotations

MOST_CHARACTERS = 300
"""The most that a message quotes of a text that it did not write itself."""


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text if it has at most `most` characters, else its beginning with "..." at the end; `most` is at least 3."""
    return text if len(text) <= most else f"{text[: most - 3]}..."

"""Shortens texts that labkit did not write. For example, the message of an exception may have megabytes."""

from __future__ import annotations

MOST_CHARACTERS = 300
"""The largest number of characters that a message quotes from such a text."""


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text. If it has more than `most` characters, only its beginning and "..." are returned; `most` is at least 3."""
    return text if len(text) <= most else f"{text[: most - 3]}..."

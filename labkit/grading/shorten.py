"""Shortens texts that labkit did not write. For example, the message of an exception can be megabytes long."""

from __future__ import annotations

MOST_CHARACTERS = 300
"""The largest number of characters that a message quotes from such a text."""


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return the text, or its beginning and "..." if it has more than `most` characters. `most` is at least 3."""
    return text if len(text) <= most else f"{text[: most - 3]}..."

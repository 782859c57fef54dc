"""Cuts texts that labkit did not write to a readable length: an exception's message can have megabytes."""

from __future__ import annotations

MOST_CHARACTERS = 300
"""The most characters that a message quotes of such a text."""


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text, or its beginning and "..." if it has more than `most` characters; `most` is at least 3."""
    return text if len(text) <= most else f"{text[: most - 3]}..."

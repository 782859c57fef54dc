"""Stop words: sequences of token ids that end a text."""

from __future__ import annotations

from collections.abc import Sequence

Word = tuple[int, ...]


class StopWords:
    """Finds stop words, each of one or more tokens, at the end of a growing list of tokens."""

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.words: list[Word] = [tuple(word) for word in words]

    def found(self, tokens: Sequence[int]) -> Word | None:
        """The longest word with which `tokens` ends, or None."""
        ends = [word for word in self.words if tuple(tokens[-len(word) :]) == word]
        return max(ends, key=len, default=None)

    def begun(self, tokens: Sequence[int]) -> int:
        """The largest number of tokens at the end of `tokens` that could be the beginning of a word."""
        lengths = [n for word in self.words for n in range(1, len(word)) if tuple(tokens[-n:]) == word[:n]]
        return max(lengths, default=0)

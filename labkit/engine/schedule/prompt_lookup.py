"""Guesses the next tokens (prompt lookup decoding, Saxena 2023).

The last tokens of the text are searched for in the earlier text. The guesses are the tokens that follow the earlier
occurrence.

This module knows nothing about the model. A wrong guess costs a few rows of a forward pass, but never changes a token.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 3
"""The most tokens at the end of the text that are searched for in the earlier text.

If they are not found, fewer tokens are searched for.
"""


class PromptLookup:
    """A text's tokens, and an index that maps each n-gram to the place after its last occurrence. Adding a token is O(1)."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST)]  # one index for each length of n-gram
        self._match: int | None = None  # the place after the last earlier occurrence of the longest ending that occurred before
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the end of the text."""
        for token in tokens:
            self._tokens.append(token)
            self._match = None
            for after, length in zip(self._after, range(1, LONGEST + 1), strict=True):
                if len(self._tokens) < length:
                    break
                ending = tuple(self._tokens[-length:])
                self._match = after.get(ending, self._match)
                after[ending] = len(self._tokens)

    def propose(self, count: int) -> list[int]:
        """Guess `count` tokens: the tokens after the earlier occurrence, repeated if there are too few.

        Returns [] if there is no earlier occurrence.
        """
        if self._match is None or count < 1:
            return []
        again = self._tokens[self._match :]  # not empty, because the earlier occurrence ends before the text does
        return [again[place % len(again)] for place in range(count)]

"""Guesses of the next tokens from what stood behind the same words before (prompt lookup decoding, Saxena 2023).

Knows nothing of the model: a guess that is wrong costs a few rows of a forward pass, never a token.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 3
"""Tokens of the longest ending that is looked up; then shorter ones."""


class PromptLookup:
    """A text's tokens, with the place behind the last earlier occurrence of each ending; a token is added in O(1)."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._behind: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST)]  # by length of the n-gram
        self._match: int | None = None  # behind the last earlier occurrence of the longest ending that occurred before
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The text goes on."""
        for token in tokens:
            self._tokens.append(token)
            self._match = None
            for behind, length in zip(self._behind, range(1, LONGEST + 1), strict=True):
                if len(self._tokens) < length:
                    break
                ending = tuple(self._tokens[-length:])
                self._match = behind.get(ending, self._match)
                behind[ending] = len(self._tokens)

    def propose(self, count: int) -> list[int]:
        """Up to `count` tokens that may come next: those that came then, over and over where they reach the end."""
        if self._match is None or count < 1:
            return []
        again = self._tokens[self._match :]  # not empty: the earlier occurrence ends before the text does
        return [again[place % len(again)] for place in range(count)]

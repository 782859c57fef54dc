"""Bans sequences of two or more tokens.

The tokens that would complete a banned sequence are found on the device, for all rows together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_ANY, _NONE, _NEVER = -1, -2, -3  # _ANY matches any token, _NONE stands for a missing token, _NEVER matches no token


class BadWords:
    """The bad words of each row, and the latest tokens of its text.

    `beginnings` `[rows, words, width]` holds the words without their last tokens, `lasts` `[rows, words]` these last tokens,
    and `recent` `[rows, width]` the latest tokens of each row's text; all are int64. `width` grows with the longest word, and
    `words` with the largest number of words of any row.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.beginnings = torch.full((rows, 1, 1), _NEVER, dtype=torch.int64, device=device)
        self.lasts = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self.recent = torch.full((rows, 1), _NONE, dtype=torch.int64, device=device)

    @property
    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors that hold the state; the first dimension of each is the row."""
        return self.beginnings, self.lasts, self.recent

    def join(self, row: int, words: Sequence[Sequence[int]], tokens: Sequence[int]) -> None:
        """Set the bad words of a row, and the tokens of its text so far. An empty list of words clears the row."""
        width = max((len(word) - 1 for word in words), default=1)
        self._grow(len(words), width)
        count, width = self.beginnings.shape[1:]
        beginnings = torch.full((count, width), _NEVER, dtype=torch.int64, device="cpu")
        lasts = torch.zeros(count, dtype=torch.int64, device="cpu")
        for line, word in enumerate(words):
            beginning = [_ANY] * (width + 1 - len(word)) + list(word[:-1])
            beginnings[line] = torch.tensor(beginning, dtype=torch.int64, device="cpu")
            lasts[line] = word[-1]
        held = [_NONE] * width + list(tokens[-width:])
        self.beginnings[row].copy_(beginnings)
        self.lasts[row].copy_(lasts)
        self.recent[row].copy_(torch.tensor(held[-width:], dtype=torch.int64, device="cpu"))

    def ban(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Set the logits `[n, vocab_size]` of these rows, in place, to minus infinity for tokens that would complete a word."""
        beginnings = self.beginnings[rows]
        met = ((beginnings == _ANY) | (beginnings == self.recent[rows][:, None])).all(-1)
        return logits.scatter_reduce_(1, self.lasts[rows], torch.where(met, -math.inf, math.inf).to(logits.dtype), "amin")

    def advance(self, rows: Tensor, tokens: Tensor, going: Tensor) -> None:
        """Append the next token to each of these rows where `going` (`[n]` bool) is true."""
        recent = self.recent[rows]
        self.recent[rows] = torch.where(going[:, None], torch.cat((recent[:, 1:], tokens[:, None]), dim=1), recent)

    def _grow(self, count: int, width: int) -> None:
        rows, had, had_width = self.beginnings.shape
        count, width = max(count, had), max(width, had_width)
        if (count, width) == (had, had_width):
            return
        beginnings = self.beginnings.new_full((rows, count, width), _NEVER)
        beginnings[:, :had, width - had_width :] = self.beginnings
        beginnings[:, :had, : width - had_width] = _ANY
        self.beginnings = beginnings
        self.lasts = torch.nn.functional.pad(self.lasts, (0, count - had))
        # Every word of an existing row is shorter than the new width, so the row's older tokens are never compared.
        self.recent = torch.nn.functional.pad(self.recent, (width - had_width, 0), value=_NONE)

"""Finds the tokens that would complete a forbidden text, given the last bytes of the text so far.

Texts are compared as bytes, so it does not matter how they are cut into tokens: a text can begin inside one token and end
inside another, and a token can hold part of a character. This module does not depend on the model.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NO_UTF8 = b"\xff"  # a byte that never occurs in UTF-8
_MOST_KEPT = 2**22
"""The largest number of token ids that the states of one `BadTextAutomaton` keep in memory."""


class TokenTexts:
    """The bytes of every token in a vocabulary (`texts[token]`), sorted and joined so that they can be searched fast."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        order = sorted((token for token, text in enumerate(texts) if text), key=lambda token: texts[token])
        self.of = texts
        self._ids = np.array(order, np.int64)
        self._sorted = [texts[token] for token in order]
        self._longest = max(map(len, self._sorted), default=0)
        self._joined = _NO_UTF8.join(self._sorted)
        self._begins = np.cumsum([0, *(len(text) + 1 for text in self._sorted)])

    def beginning_with(self, text: bytes) -> NDArray[np.int64]:
        """The tokens whose bytes begin with `text`. `text` must be the last bytes of a UTF-8 string."""
        after = text[:-1] + bytes([text[-1] + 1])  # cannot overflow: no byte of UTF-8 is 255
        return self._ids[bisect_left(self._sorted, text) : bisect_left(self._sorted, after)]

    def holding(self, text: bytes) -> NDArray[np.int64]:
        """The tokens whose bytes contain the whole UTF-8 string `text`."""
        places: list[int] = []
        if len(text) <= self._longest and (count := self._joined.count(text)):
            if count > 1000:  # a regular expression is slow to start, but faster for many matches
                places = [found.start() for found in re.finditer(re.escape(text), self._joined)]
            else:
                place = -len(text)
                places = [place := self._joined.find(text, place + len(text)) for _ in range(count)]
        return self._ids[np.unique(np.searchsorted(self._begins, places, side="right") - 1)]


class BadTextAutomaton:
    """An Aho-Corasick automaton (1975) over bytes. Each state of the automaton bans certain tokens.

    A state stands for the longest end of the text so far that is also the beginning of a bad word. State 0 means that no end
    of the text is the beginning of a word. The banned tokens of a state are computed when they are first needed, and kept.
    All sequences with the same words share one automaton. `words` are UTF-8 strings of at least one byte.
    """

    def __init__(self, words: Iterable[bytes], tokens: TokenTexts) -> None:
        self._words = sorted(set(words))
        self._tokens = tokens
        self.longest = max(map(len, self._words))
        self._next: dict[tuple[int, int], int] = {}
        self._depth, self._parents, self._bytes = [0], [0], [0]
        self._first, self._last = [0], [len(self._words)]  # the range of words that begin with the state's text
        for place, word in enumerate(self._words):
            self._add(place, word)
        self._fall = self._falls()
        self._holding = torch.from_numpy(_union(map(tokens.holding, self._words)))
        self._kept: dict[int, Tensor] = {}
        self._num_kept = 0

    def advance(self, state: int, text: bytes) -> int:
        """The state that follows `state` after these bytes."""
        for byte in text:
            while (following := self._next.get((state, byte))) is None and state:
                state = self._fall[state]
            state = following or 0
        return state

    def after_token(self, state: int, token: int) -> int:
        """The state that follows `state` after this token."""
        return self.advance(state, self._tokens.of[token]) if token < len(self._tokens.of) else state

    def after(self, tokens: Sequence[int]) -> int:
        """The state after a whole text, given as tokens; only the end of the text matters."""
        end: list[bytes] = []
        length = 0
        for token in reversed(tokens):
            if length >= self.longest:
                break
            end.append(self._tokens.of[token] if token < len(self._tokens.of) else b"")
            length += len(end[-1])
        return self.advance(0, b"".join(reversed(end)))

    def banned(self, state: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Two sorted int64 tensors: the tokens that contain a whole word, and the tokens that complete a word in this state."""
        self._holding = self._holding.to(device)  # copied to the device only the first time
        if state not in self._kept:
            tokens = torch.from_numpy(_union(self._completing(state))).to(device)
            if self._num_kept + len(tokens) > _MOST_KEPT:
                self._kept.clear()
                self._num_kept = 0
            self._kept[state] = tokens
            self._num_kept += len(tokens)
        return self._holding, self._kept[state]

    def _completing(self, state: int) -> Iterable[NDArray[np.int64]]:
        """For each word that the end of the text begins, yield the tokens that begin with the rest of the word."""
        while state:
            depth = self._depth[state]
            rests = {word[depth:] for word in self._words[self._first[state] : self._last[state]]}
            yield from (self._tokens.beginning_with(rest) for rest in rests if rest)
            state = self._fall[state]

    def _add(self, place: int, word: bytes) -> None:
        state = 0
        for byte in word:
            following = self._next.get((state, byte))
            if following is None:
                following = self._next[state, byte] = len(self._depth)
                self._depth.append(self._depth[state] + 1)
                self._parents.append(state)
                self._bytes.append(byte)
                self._first.append(place)
                self._last.append(place)
            state = following
            self._last[state] = place + 1

    def _falls(self) -> list[int]:
        """For each state, find the state of the longest proper suffix of its text that is also the beginning of a word."""
        falls = [0] * len(self._depth)
        for state in sorted(range(1, len(self._depth)), key=self._depth.__getitem__):
            if self._depth[state] > 1:
                fall = falls[self._parents[state]]
                while (following := self._next.get((fall, self._bytes[state]))) is None and fall:
                    fall = falls[fall]
                falls[state] = following or 0
        return falls


def _union(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    found = list(parts)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

"""Bad and stop words in the form that FasterTransformer passes them in: `[2, n]` int32.

Row 0 holds the token ids of all words one behind another, row 1 where each word ends (the number of tokens up to and with
it), both padded, with 0 and with -1. Multi-token words and any number of words have room.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest

MOST_WORDS = 1024
"""Of one list, and 16 times as many tokens: more would slow down everybody's steps."""


def words_of_csv(line: str, name: str) -> list[str]:
    """The words of one line of CSV, `"a, b",c` being two; empty ones are left out. Raises `InvalidRequest`."""
    if len(line) > 64 * MOST_WORDS:
        raise InvalidRequest(f"{name} has {len(line)} characters; at most {64 * MOST_WORDS} are accepted")
    try:
        return [word for row in csv.reader([line], strict=True) for word in row if word]
    except csv.Error as error:
        raise InvalidRequest(
            f"{name} is {line[:80]!r}, which is not a line of CSV ({error}); quote words with commas"
        ) from None


def word_forms(words: Iterable[str]) -> list[str]:
    """Each word as it stands and, unless it begins with white space, after a space: these are different tokens."""
    return list(dict.fromkeys(form for word in words for form in ((word,) if word[:1].isspace() else (word, " " + word))))


def to_word_lists(words: Sequence[Sequence[int]], width: int | None = None) -> NDArray[np.int32]:
    """`[2, width]` of words as token ids; as wide as they need if `width` is left out, and at least 1."""
    tokens = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words], dtype=np.int32)
    lists = np.empty((2, max(1, len(tokens)) if width is None else width), np.int32)
    lists[0], lists[1] = 0, -1
    lists[0, : len(tokens)] = tokens
    lists[1, : len(ends)] = ends
    return lists


def from_word_lists(lists: NDArray[Any], name: str) -> list[tuple[int, ...]]:
    """The words of `[2, n]` as token ids. Raises `InvalidRequest` for what is no such list."""
    if lists.ndim != 2 or lists.shape[0] != 2:
        raise InvalidRequest(f"{name} has shape {list(lists.shape)}; [2, n] is accepted: token ids, and where each word ends")
    ends = [int(end) for end in lists[1] if end != -1]
    if len(ends) > MOST_WORDS or (ends and max(ends) > 16 * MOST_WORDS):
        raise InvalidRequest(
            f"{name} holds {len(ends)} words; at most {MOST_WORDS}, of {16 * MOST_WORDS} tokens in all, are accepted"
        )
    words, begin = [], 0
    for end in ends:
        if not begin < end <= lists.shape[1]:
            raise InvalidRequest(
                f"{name} has ends {ends[:8]} for {lists.shape[1]} token ids; each is the number of tokens up to the end of a "
                "word, so they rise, and -1 stands behind the last"
            )
        words.append(tuple(int(token) for token in lists[0, begin:end]))
        begin = end
    return words

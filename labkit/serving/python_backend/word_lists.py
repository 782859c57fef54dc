"""Converts bad and stop words to and from FasterTransformer's form, which is an int32 array `[2, n]`.

Row 0 holds the token ids of all words, one word after another, padded with 0. Row 1 holds where each word ends, as the number
of tokens up to its end, padded with -1. A word can have several tokens.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.plurals import counted

MOST_WORDS = 1024
"""The largest number of words in one list. All words of a list together can have at most 16 * `MOST_WORDS` tokens.

Longer lists would slow down every step.
"""


def words_of_csv(line: str, name: str) -> list[str]:
    """The words in one line of CSV, without empty words: `"a, b",c` has two words. Raises `InvalidRequest` for a bad line."""
    if len(line) > 64 * MOST_WORDS:
        raise InvalidRequest(f"{name} has {len(line)} characters; at most {64 * MOST_WORDS} are accepted")
    try:
        return [word for row in csv.reader([line], strict=True) for word in row if word]
    except csv.Error as error:
        raise InvalidRequest(
            f"{name} is {line[:80]!r}, which is not a line of CSV ({error}); put words that contain commas in quotes"
        ) from None


def word_forms(words: Iterable[str]) -> list[str]:
    """Return each word unchanged, and each word that does not begin with white space also with a leading space.

    The two forms of a word are encoded as different tokens.
    """
    return list(dict.fromkeys(form for word in words for form in ((word,) if word[:1].isspace() else (word, " " + word))))


def to_word_lists(words: Sequence[Sequence[int]], width: int | None = None) -> NDArray[np.int32]:
    """Encode words, given as token ids, as an array `[2, width]`. width: if left out, as small as possible, but at least 1."""
    tokens = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words], dtype=np.int32)
    lists = np.empty((2, max(1, len(tokens)) if width is None else width), np.int32)
    lists[0], lists[1] = 0, -1
    lists[0, : len(tokens)] = tokens
    lists[1, : len(ends)] = ends
    return lists


def from_word_lists(lists: NDArray[Any], name: str) -> list[tuple[int, ...]]:
    """Decode an array `[2, n]`: returns the token ids of each word.

    Raises `InvalidRequest` if the array does not have this form.
    """
    if lists.ndim != 2 or lists.shape[0] != 2:
        raise InvalidRequest(f"{name} has shape {list(lists.shape)}; [2, n] is accepted: a row of token ids and a row of ends")
    ends = [int(end) for end in lists[1] if end != -1]
    if len(ends) > MOST_WORDS or (ends and max(ends) > 16 * MOST_WORDS):
        raise InvalidRequest(
            f"{name} has {counted(len(ends), 'word')}; at most {MOST_WORDS} words with at most {16 * MOST_WORDS} tokens "
            "in total are accepted"
        )
    words, begin = [], 0
    for end in ends:
        if not begin < end <= lists.shape[1]:
            raise InvalidRequest(
                f"{name} has ends {ends[:8]} for {lists.shape[1]} token ids; an end is the number of tokens up to the end of a "
                "word, so the ends must rise, and -1 must follow the last end"
            )
        words.append(tuple(int(token) for token in lists[0, begin:end]))
        begin = end
    return words

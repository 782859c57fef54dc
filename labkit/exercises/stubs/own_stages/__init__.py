"""labkit's own functions for lab 04's stages: the references of exercises 4.2, 4.3, 4.4 and 4.7.

Exercise 4.5 needs these functions in the server that runs a learner's ensemble, so they are not in `labkit.answers`. They are
in a separate package, because the sandbox hides the package's folder from the functions of all other exercises. In such a
sandbox, the package is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.exercises.stubs.stages import Decode, Encode, Job
from labkit.serving.python_backend.word_lists import to_word_lists


def pad_prompts(texts: list[str], encode: Encode, pad: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Encode the texts. Returns the token ids [batch, longest], padded at the end of each row, and the lengths [batch, 1]."""
    rows = [encode(text) for text in texts]
    ids = np.full((len(rows), max(1, *map(len, rows))), pad, np.uint32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids, np.array([[len(tokens)] for tokens in rows], np.uint32)


def word_lists(words: list[list[str]], encode: Encode) -> NDArray[Any]:
    """The words of each prompt in FasterTransformer's format, [batch, 2, n]."""
    rows = [[encode(word) for word in own] for own in words]
    width = max(1, *(sum(map(len, row)) for row in rows))
    return np.stack([to_word_lists(row, width) for row in rows])


def postprocess(token_ids: NDArray[Any], lengths: NDArray[Any], decode: Decode) -> list[list[str]]:
    """The text of each beam, up to the length of the beam. The result is a list of lists, [batch][beam]."""
    rows = zip(token_ids, lengths, strict=True)
    return [[decode(ids[:length].tolist()) for ids, length in zip(*row, strict=True)] for row in rows]


def answer_together(requests: list[list[Job]], generate: Callable[[list[Job]], list[str]]) -> list[list[str]]:
    """Return the texts of the jobs of each request. All jobs are computed in one batch."""
    texts = iter(generate([job for request in requests for job in request]))
    return [[next(texts) for _ in request] for request in requests]

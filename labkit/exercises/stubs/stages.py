"""What lab 04's stages compute around a learner's function, the same in the server and on paper, and how it is done rightly.

A learner's answer that is not of the right form is passed on as an error in words, since Triton hands it on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.serving.python_backend.word_lists import from_word_lists, to_word_lists, word_forms, words_of_csv

PAD = 3
"""The token that fills short rows. Any would do, since nobody reads behind the lengths; 0 would hide a `pad` not used."""

Arrays = dict[str, NDArray[Any]]
Encode = Callable[[str], list[int]]
Decode = Callable[[Sequence[int]], str]
Job = tuple[str, int]


# The exercises' references ---------------------------------------------------------------------------------------------
def pad_prompts(texts: list[str], encode: Encode, pad: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Token ids [batch, longest] and lengths [batch, 1] of texts, padded behind."""
    rows = [encode(text) for text in texts]
    ids = np.full((len(rows), max(1, *map(len, rows))), pad, np.uint32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids, np.array([[len(tokens)] for tokens in rows], np.uint32)


def word_lists(words: list[list[str]], encode: Encode) -> NDArray[Any]:
    """FasterTransformer's word lists [batch, 2, n] of each prompt's words."""
    rows = [[encode(word) for word in own] for own in words]
    width = max(1, *(sum(map(len, row)) for row in rows))
    return np.stack([to_word_lists(row, width) for row in rows])


def postprocess(token_ids: NDArray[Any], lengths: NDArray[Any], decode: Decode) -> list[list[str]]:
    """The text of each beam [batch][beam], up to its length."""
    rows = zip(token_ids, lengths, strict=True)
    return [[decode(ids[:length].tolist()) for ids, length in zip(*row, strict=True)] for row in rows]


def answer_together(requests: list[list[Job]], generate: Callable[[list[Job]], list[str]]) -> list[list[str]]:
    """The texts of each request's jobs, made in one batch."""
    texts = iter(generate([job for request in requests for job in request]))
    return [[next(texts) for _ in request] for request in requests]


# What the models compute ------------------------------------------------------------------------------------------------
def preprocessing(given: Arrays, encode: Encode, pad: Callable[..., Any], lists: Callable[..., Any]) -> Arrays:
    """The stage's outputs of its inputs, but for REQUEST_OUTPUT_LEN."""
    texts = [row[0].decode() for row in given["QUERY"]]
    ids, lengths = pad(texts, encode, PAD)
    outputs = {"INPUT_ID": of_type(ids, np.uint32, "ids"), "REQUEST_INPUT_LEN": of_type(lengths, np.uint32, "lengths")}
    for name, output in (("BAD_WORDS_DICT", "BAD_WORDS_IDS"), ("STOP_WORDS_DICT", "STOP_WORDS_IDS")):
        lines = given.get(name)
        words = [[] if lines is None else word_forms(words_of_csv(lines[row][0].decode(), name)) for row in range(len(texts))]
        outputs[output] = of_type(lists(words, encode), np.int32, "word lists")
    return outputs


def postprocessing(tokens: NDArray[Any], lengths: NDArray[Any], decode: Decode, function: Callable[..., Any]) -> NDArray[Any]:
    """The stage's output [batch, beam]: UTF-8."""
    texts = function(tokens, lengths, decode)
    if not isinstance(texts, list) or not all(isinstance(row, list) and all(isinstance(t, str) for t in row) for row in texts):
        raise TypeError("the texts are no list of lists of strings: a list a prompt, and in it a text a beam")
    found = np.empty(tokens.shape[:2], np.object_)
    if [len(row) for row in texts] != [tokens.shape[1]] * len(tokens):
        raise ValueError(f"texts of {[len(row) for row in texts]} beams for TOKENS_BATCH {list(tokens.shape)}")
    for place, row in enumerate(texts):
        found[place] = [text.encode() for text in row]
    return found


def check_form(found: Any, jobs: list[list[Job]]) -> None:
    """Raises `TypeError` or `ValueError` unless there is a list of texts for each request."""
    if not isinstance(found, list) or not all(isinstance(texts, list) for texts in found):
        raise TypeError("the answer is no list of lists: a list a request, and in it a text a job")
    if len(found) != len(jobs):
        raise ValueError(f"answers to {len(found)} requests, where {len(jobs)} were joined")
    for texts, own in zip(found, jobs, strict=True):
        if len(texts) != len(own) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{len(texts)} texts for a request of {len(own)} jobs, each a string")


def toy_engine(given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A `fastertransformer` without weights: the prompt's tokens again, backwards, as many as are asked for.

    It obeys what a real one does: lengths, bad words (left out), stop words (end the text), so a wire that is wrong shows.
    `output_ids` and `sequence_length` are [batch, 1, ...]; behind the end there are tokens that are no padding.
    """
    rows, lengths = [], []
    for row, ids in enumerate(given["input_ids"]):
        prompt = ids[: int(given["input_lengths"][row, 0])].tolist()
        bad, stop = (_words(given, name, row) for name in ("bad_words_list", "stop_words_list"))
        made: list[int] = []
        for token in (prompt[::-1] * 64)[: int(given["request_output_len"][row, 0])]:
            if (token,) in bad:
                continue
            made.append(token)
            if any(tuple(made[-len(word) :]) == word for word in stop):
                break
        rows.append(prompt + made)
        lengths.append(len(prompt) + len(made))
    width = max(map(len, rows)) + 2
    ids = np.full((len(rows), 1, width), 300, np.uint32)  # what lies behind the end of a text may be anything
    for place, tokens in enumerate(rows):
        ids[place, 0, : len(tokens)] = tokens
    return {"output_ids": ids, "sequence_length": np.array(lengths, np.uint32)[:, None]}


def _words(given: dict[str, NDArray[Any]], name: str, row: int) -> list[tuple[int, ...]]:
    return from_word_lists(given[name][row], name) if name in given else []


def of_type(array: Any, dtype: Any, what: str) -> NDArray[Any]:
    """The array, if it is one of this type. Raises `TypeError` in words."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"the {what} are a {type(array).__name__}, a numpy array is asked for")
    if array.dtype != dtype:
        name = np.dtype(dtype).name
        raise TypeError(f"the {what} are {array.dtype}, config.pbtxt says {name}: np.full(..., np.{name})")
    return array

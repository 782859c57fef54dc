"""The code of lab 04's stages that runs before and after a learner's function is called.

The same code runs in the server and in the notebook's process. If a learner's function returns a value of the wrong type or
shape, this code raises an error that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.plurals import counted
from labkit.serving.python_backend.word_lists import from_word_lists, word_forms, words_of_csv

PAD = 3
"""The token with which short rows are filled.

Tokens beyond the length of a row are not read, so the model would work with any padding token. But 0 would hide a mistake: a
function that ignores `pad` and fills rows with 0 would be right.
"""

Arrays = dict[str, NDArray[Any]]
Encode = Callable[[str], list[int]]
Decode = Callable[[Sequence[int]], str]
Job = tuple[str, int]


# Functions that replace a learner's function if the exercise does not check it -------------------------------------------
def no_ids(texts: list[str], encode: Encode, pad: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Takes the place of `pad_prompts`. Turns each text into one padding token, and returns the length 0 for it."""
    return np.full((len(texts), 1), pad, np.uint32), np.zeros((len(texts), 1), np.uint32)


def no_words(words: list[list[str]], encode: Encode) -> NDArray[Any]:
    """Takes the place of `word_lists`. Returns an empty list of words for each prompt."""
    return np.zeros((len(words), 2, 1), np.int32)


def no_batch(requests: list[list[Job]], generate: Callable[[list[Job]], list[str]]) -> list[list[str]]:
    """Takes the place of `answer_together`. Computes each request as a separate batch."""
    return [generate(request) for request in requests]


# The computations of the models -----------------------------------------------------------------------------------------
def preprocessing(given: Arrays, encode: Encode, pad: Callable[..., Any], lists: Callable[..., Any]) -> Arrays:
    """The outputs of the stage `preprocessing`, except REQUEST_OUTPUT_LEN."""
    texts = [row[0].decode() for row in given["QUERY"]]
    ids, lengths = pad(texts, encode, PAD)
    outputs = {"INPUT_ID": of_type(ids, np.uint32, "ids"), "REQUEST_INPUT_LEN": of_type(lengths, np.uint32, "lengths")}
    for name, output in (("BAD_WORDS_DICT", "BAD_WORDS_IDS"), ("STOP_WORDS_DICT", "STOP_WORDS_IDS")):
        lines = given.get(name)
        words = [[] if lines is None else word_forms(words_of_csv(lines[row][0].decode(), name)) for row in range(len(texts))]
        outputs[output] = of_type(lists(words, encode), np.int32, "word lists")
    return outputs


def postprocessing(tokens: NDArray[Any], lengths: NDArray[Any], decode: Decode, function: Callable[..., Any]) -> NDArray[Any]:
    """The output of the stage `postprocessing`: texts in UTF-8, `[batch, beam]`."""
    texts = function(tokens, lengths, decode)
    if not isinstance(texts, list) or not all(isinstance(row, list) and all(isinstance(t, str) for t in row) for row in texts):
        raise TypeError(
            "the texts are not a list of lists of strings: return one list for each prompt, with one text for each beam"
        )
    found = np.empty(tokens.shape[:2], np.object_)
    if [len(row) for row in texts] != [tokens.shape[1]] * len(tokens):
        beams = [len(row) for row in texts]
        raise ValueError(
            f"the prompts have {beams} texts, but TOKENS_BATCH is {list(tokens.shape)}: return one text for each beam"
        )
    for place, row in enumerate(texts):
        found[place] = [text.encode() for text in row]
    return found


def check_form(found: Any, jobs: list[list[Job]]) -> None:
    """Raise `TypeError` or `ValueError` unless `found` has one list for each request, with one text for each job."""
    if not isinstance(found, list) or not all(isinstance(texts, list) for texts in found):
        raise TypeError("the answer is not a list of lists: return one list for each request, with one text for each job")
    if len(found) != len(jobs):
        raise ValueError(f"the answer has texts for {counted(len(found), 'request')}, but the batch has {len(jobs)} requests")
    for texts, own in zip(found, jobs, strict=True):
        if len(texts) != len(own) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"there are {len(texts)} texts for a request of {len(own)} jobs: return one string for each job")


def toy_engine(given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """An engine without weights: its new tokens are the tokens of the prompt in reverse order, up to the requested number.

    Like a real engine, it uses the lengths, leaves out bad words and ends at stop words, so a wrong wire changes the text.
    `output_ids` and `sequence_length` are [batch, 1, ...]. After the end of a text come arbitrary tokens, not padding.
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
    ids = np.full((len(rows), 1, width), 300, np.uint32)  # Any tokens can follow the end of a text.
    for place, tokens in enumerate(rows):
        ids[place, 0, : len(tokens)] = tokens
    return {"output_ids": ids, "sequence_length": np.array(lengths, np.uint32)[:, None]}


def _words(given: dict[str, NDArray[Any]], name: str, row: int) -> list[tuple[int, ...]]:
    return from_word_lists(given[name][row], name) if name in given else []


def of_type(array: Any, dtype: Any, what: str) -> NDArray[Any]:
    """Return the array if it has this dtype. Otherwise raise `TypeError`. The message calls the array `what`."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"the {what} are a {type(array).__name__}; return a numpy array")
    if array.dtype != dtype:
        name = np.dtype(dtype).name
        raise TypeError(f"the {what} are {array.dtype}, but config.pbtxt says {name}: np.full(..., np.{name})")
    return array

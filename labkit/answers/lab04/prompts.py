"""The answers to exercises 4.2 and 4.3: references, comparisons and known mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.prompts import PAD_PROMPTS, WORD_LISTS
from labkit.exercises.stubs.own_stages import pad_prompts, word_lists
from labkit.exercises.stubs.stages import Encode


def _explain(case: Case, found: Any, right: Any) -> str:
    for name, value in right.items():
        if found[name] != value and name.startswith("shape of "):
            return f"Your {name[9:]} have the shape {found[name]}; the right shape is {value}."
        if found[name] != value:
            row = next(number for number, pair in enumerate(zip(found[name], value, strict=True)) if pair[0] != pair[1])
            return (
                f"Your {name} of prompt {row} are {str(found[name][row])[:160]}, which is wrong for {case.args[0][row][:40]!r}."
            )
    return ""


# 4.2 ------------------------------------------------------------------------------------------------------------------
def _rows(prompts: list[str], encode: Encode) -> list[list[int]]:
    return [encode(text) for text in prompts]


def _padded(rows: list[list[int]], pad: int, dtype: Any = np.uint32, width: int = 0) -> NDArray[Any]:
    ids = np.full((len(rows), max(1, width, *map(len, rows))), pad, dtype)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids


def _lengths(rows: list[list[int]]) -> NDArray[Any]:
    return np.array([[len(tokens)] for tokens in rows], np.uint32)


def _left(prompts: list[str], encode: Encode, pad: int) -> Any:
    rows = _rows(prompts, encode)
    ids = np.full_like(_padded(rows, pad), pad)
    for row, tokens in zip(ids, rows, strict=True):
        row[len(row) - len(tokens) :] = tokens
    return ids, _lengths(rows)


def _cut(prompts: list[str], encode: Encode, pad: int) -> Any:
    rows = _rows(prompts, encode)
    width = max(1, min(map(len, rows)))
    return _padded([row[:width] for row in rows], pad), _lengths(rows)


def _padding_counted(prompts: list[str], encode: Encode, pad: int) -> Any:
    ids = _padded(_rows(prompts, encode), pad)
    return ids, np.full((len(ids), 1), ids.shape[1], np.uint32)


def _by_characters(prompts: list[str], encode: Encode, pad: int) -> Any:
    return _padded(_rows(prompts, encode), pad), np.array([[len(text)] for text in prompts], np.uint32)


def _by_words(prompts: list[str], encode: Encode, pad: int) -> Any:
    return _padded(_rows(prompts, encode), pad), np.array([[len(text.split())] for text in prompts], np.uint32)


def _flat_lengths(prompts: list[str], encode: Encode, pad: int) -> Any:
    rows = _rows(prompts, encode)
    return _padded(rows, pad), _lengths(rows)[:, 0]


def _one_for_all(prompts: list[str], encode: Encode, pad: int) -> Any:
    rows = [encode(prompts[0])] * len(prompts)
    return _padded(rows, pad), _lengths(rows)


def _stripped(prompts: list[str], encode: Encode, pad: int) -> Any:
    return pad_prompts([text.strip().lower() for text in prompts], encode, pad)


def _fixed_width(prompts: list[str], encode: Encode, pad: int) -> Any:
    rows = _rows(prompts, encode)
    return _padded(rows, pad, width=128), _lengths(rows)


def _signed(prompts: list[str], encode: Encode, pad: int) -> Any:
    rows = _rows(prompts, encode)
    return _padded(rows, pad, np.int64), _lengths(rows)


PAD_PROMPTS_ANSWER = Answer(
    exercise=PAD_PROMPTS,
    reference=pad_prompts,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "You pad before the tokens, but FasterTransformer reads the first `length` tokens of a row: put the padding after "
            "the tokens.",
            _left,
        ),
        Mistake(
            "You cut all prompts to the length of the shortest: make the array as wide as the longest prompt, and pad the "
            "others.",
            _cut,
        ),
        Mistake("Your lengths count the padding: count only the tokens of each prompt.", _padding_counted),
        Mistake("Your lengths count characters: count the tokens that encode returns.", _by_characters),
        Mistake("Your lengths count words, but a word may be several tokens: count the tokens that encode returns.", _by_words),
        Mistake(
            "Your lengths have the shape [batch]; return [batch, 1], since REQUEST_INPUT_LEN has dims [ 1 ].", _flat_lengths
        ),
        Mistake("All rows hold the first prompt: encode each prompt.", _one_for_all),
        Mistake(
            "You change the text (its case or its spaces) before you encode it, but the model needs the text as it is.",
            _stripped,
        ),
        Mistake(
            "Your array has a fixed width, but padding costs time: make it as wide as the longest prompt of the batch.",
            _fixed_width,
        ),
        Mistake(
            "Your ids or lengths are not np.uint32. An ensemble passes them on unchanged, and the next stage refuses any "
            "other type.",
            _signed,
        ),
    ),
)


# 4.3 ------------------------------------------------------------------------------------------------------------------
def _encoded(words: list[list[str]], encode: Encode) -> list[list[list[int]]]:
    return [[encode(word) for word in own] for own in words]


def _listed(
    words: list[list[str]],
    encode: Encode,
    ends_of: Callable[[list[list[int]]], list[int]],
    *,
    fill: tuple[int, int] = (0, -1),
    dtype: Any = np.int32,
) -> NDArray[Any]:
    rows = _encoded(words, encode)
    width = max(1, *(sum(map(len, row)) for row in rows))
    lists = np.empty((len(rows), 2, width), dtype)
    for place, row in zip(lists, rows, strict=True):
        place[0], place[1] = fill
        tokens, ends = [token for word in row for token in word], ends_of(row)
        place[0, : len(tokens)] = tokens
        place[1, : len(ends)] = ends
    return lists


def _ends(row: list[list[int]]) -> list[int]:
    return list(np.cumsum([len(word) for word in row], dtype=int))


def _begins(row: list[list[int]]) -> list[int]:
    return [0, *_ends(row)[:-1]] if row else []


def _own_lengths(words: list[list[str]], encode: Encode) -> Any:
    return _listed(words, encode, lambda row: [len(word) for word in row])


def _starts(words: list[list[str]], encode: Encode) -> Any:
    return _listed(words, encode, _begins)


def _last_index(words: list[list[str]], encode: Encode) -> Any:
    return _listed(words, encode, lambda row: [end - 1 for end in _ends(row)])


def _zero_ends(words: list[list[str]], encode: Encode) -> Any:
    return _listed(words, encode, _ends, fill=(0, 0))


def _first_tokens(words: list[list[str]], encode: Encode) -> Any:
    rows = _encoded(words, encode)
    short = {id(row): [word[:1] for word in row] for row in rows}
    width = max(1, *map(len, rows))
    lists = np.zeros((len(rows), 2, width), np.int32)
    lists[:, 1] = -1
    for place, row in zip(lists, rows, strict=True):
        place[0, : len(row)] = [word[0] for word in short[id(row)]]
        place[1, : len(row)] = np.arange(1, len(row) + 1)
    return lists


def _one_list(words: list[list[str]], encode: Encode) -> Any:
    return np.stack([word_lists([words[0]], encode)[0]] * len(words))


def _turned(words: list[list[str]], encode: Encode) -> Any:
    return word_lists(words, encode).transpose(0, 2, 1).copy()


def _all_joined(words: list[list[str]], encode: Encode) -> Any:
    joined = [word for own in words for word in own]
    return np.stack([word_lists([joined], encode)[0]] * len(words))


def _minus_one_ids(words: list[list[str]], encode: Encode) -> Any:
    return _listed(words, encode, _ends, fill=(-1, -1))


def _wide(words: list[list[str]], encode: Encode) -> Any:
    return word_lists(words, encode).astype(np.int64)


WORD_LISTS_ANSWER = Answer(
    exercise=WORD_LISTS,
    reference=word_lists,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "Your row 1 holds the length of each word, but an end counts all tokens from the start of the list: use a running "
            "sum.",
            _own_lengths,
        ),
        Mistake("Your row 1 holds the beginnings of the words; it must hold their ends.", _starts),
        Mistake(
            "Your row 1 holds the index of each word's last token; add 1 to get the number of tokens up to and including that "
            "word.",
            _last_index,
        ),
        Mistake("You fill row 1 with 0, which the engine reads as an end: fill row 1 with -1.", _zero_ends),
        Mistake("You keep only the first token of each word: take all tokens.", _first_tokens),
        Mistake("Every prompt gets the words of the first prompt, but each prompt has its own list.", _one_list),
        Mistake("Your array is [batch, n, 2], but it must be [batch, 2, n]: first all tokens, then all ends.", _turned),
        Mistake("Every prompt gets the words of all prompts, but each prompt has its own list.", _all_joined),
        Mistake("You fill row 0 with -1, which is not a token: fill row 0 with 0, and only row 1 with -1.", _minus_one_ids),
        Mistake("Your array is not of type np.int32, so the engine refuses it.", _wide),
    ),
)

ANSWERS = (PAD_PROMPTS_ANSWER, WORD_LISTS_ANSWER)

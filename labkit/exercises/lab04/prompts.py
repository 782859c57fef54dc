"""Exercises 4.2 and 4.3: the stage `preprocessing` puts prompts and word lists into FasterTransformer's format."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.checkpoints import open_checkpoint
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab04.on_server import MODEL, is_own, lab_server, stage, texts
from labkit.exercises.lab04.words import line, sentence, some_words
from labkit.exercises.stubs import stages
from labkit.exercises.stubs.stages import Encode, pad_prompts, word_lists
from labkit.plurals import counted

STAGE = "preprocessing"
OWN: dict[str, Callable[..., Any]] = {"pad_prompts": pad_prompts, "word_lists": word_lists}


def run_stage(name: str) -> Callable[[Callable[..., Any], Case], dict[str, Any]]:
    """A function for the field `run` of an exercise.

    It runs the stage with the learner's function in place of labkit's `name`; labkit's own functions run without the server.
    """

    def run(function: Callable[..., Any], case: Case) -> dict[str, Any]:
        inputs = _inputs(*case.args)
        if is_own(function):
            encode = open_checkpoint(MODEL).tokenizer().encode
            functions = OWN | {name: function}
            given = {key: values for key, (_, values) in inputs.items()}
            return _seen(stages.preprocessing(given, encode, functions["pad_prompts"], functions["word_lists"]))
        server = lab_server()
        server.load_stub(stage(STAGE), STAGE, tokenizer=True)
        return _seen(server.ask(STAGE, inputs, {name: server.put(STAGE, function, name)}))

    return run


def _inputs(prompts: list[str], bad: list[str], stop: list[str]) -> dict[str, tuple[str, NDArray[Any]]]:
    lengths = "UINT32", np.full((len(prompts), 1), 4, np.uint32)
    words = {"BAD_WORDS_DICT": texts([[line] for line in bad]), "STOP_WORDS_DICT": texts([[line] for line in stop])}
    return {"QUERY": texts([[prompt] for prompt in prompts]), "REQUEST_OUTPUT_LEN": lengths, **words}


def _seen(outputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    names = {"INPUT_ID": "ids", "REQUEST_INPUT_LEN": "lengths", "BAD_WORDS_IDS": "bad words", "STOP_WORDS_IDS": "stop words"}
    found: dict[str, Any] = {}
    for name, words in names.items():
        found |= {f"shape of {words}": str(list(outputs[name].shape)), words: outputs[name].tolist()}
    return found


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


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for count in (1, 2, 5):
        prompts = [sentence(draw, draw.randint(1, 9)) for _ in range(count)]
        bad, stop = ([line(some_words(draw, draw.randint(0, 3))) for _ in prompts] for _ in range(2))
        cases.append(Case(f"{counted(count, 'prompt')}", (prompts, bad, stop)))
    prompts = [sentence(draw, 12), "", sentence(draw, 2) + " naïve – 😀"]
    cases.append(
        Case("an empty prompt among others, characters of several bytes", (prompts, ["", "", ""], ["a,b c", "", "the end"]))
    )
    cases.append(Case("only empty prompts, and no words", (["", ""], ["", ""], ["", ""])))
    return cases


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


PAD_PROMPTS = Exercise(
    name="lab04.pad_prompts",
    lab="04",
    number="4.2",
    title="From text to a batch",
    function="pad_prompts",
    statement=(
        "A batch is one rectangular array, but the prompts differ in length. Return `(ids, lengths)` for `texts`. `ids [batch, "
        "longest]` holds the token ids; fill each row with `pad` **after** its tokens. The array has at least one column. "
        "`lengths [batch, 1]` holds the number of tokens of each prompt. `ids` and `lengths` are numpy arrays of `np.uint32`, "
        "as in the stage's `config.pbtxt`. `encode(text)` returns the token ids of a text as a list. Your function runs in "
        "the stage `preprocessing`."
    ),
    points=10,
    minutes=15,
    difficulty=1,
    requires=("triton_server",),
    cases=_cases,
    reference=pad_prompts,
    run=run_stage("pad_prompts"),
    seconds=60.0,
    ends_at_error=True,
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
    hints=(
        "Encode all texts first, because only then you know how wide the array must be.",
        "np.full makes an array full of padding, of the right type; write the tokens of each prompt to the beginning of its row.",
        "row[: len(tokens)] = tokens for each row; lengths = np.array([[len(tokens)] for tokens in rows], np.uint32).",
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


WORD_LISTS = Exercise(
    name="lab04.word_lists",
    lab="04",
    number="4.3",
    title="FasterTransformer's word lists",
    function="word_lists",
    statement=(
        "The engine reads stop words and bad words from an array `[batch, 2, n]` of `np.int32`. For each prompt, row 0 holds "
        "the tokens of all its words, one word after the other. Row 1 holds the **end** of each word: the number of tokens up "
        "to and including this word. `n` is the largest end, or 1 if there are no words. Fill the rest of row 0 with 0, and "
        "the rest of row 1 with -1. `words` holds one list of words for each prompt."
    ),
    points=12,
    minutes=25,
    difficulty=3,
    requires=("triton_server",),
    cases=_cases,
    reference=word_lists,
    run=run_stage("word_lists"),
    seconds=60.0,
    ends_at_error=True,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "Your row 1 holds the length of each word, but an end counts all tokens from the first token on: use a running "
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
        Mistake("You fill row 0 with -1, which is no token: fill row 0 with 0, and only row 1 with -1.", _minus_one_ids),
        Mistake("Your array is not of type np.int32, so the engine refuses it.", _wide),
    ),
    hints=(
        "First write the code for one prompt with a given width n; a batch is a stack of such arrays.",
        "If each word is a list of tokens, the ends are a running sum (np.cumsum) of the lengths of these lists.",
        "lists = np.zeros((batch, 2, n), np.int32); lists[:, 1] = -1; then lists[row, 0, :len(tokens)] = tokens, and store the "
        "ends in lists[row, 1] in the same way.",
    ),
)

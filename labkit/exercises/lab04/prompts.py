"""Exercises 4.2 and 4.3: the stage `preprocessing` puts prompts and word lists into FasterTransformer's format."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.checkpoints import open_checkpoint
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import MODEL, is_own, lab_server, stage, texts
from labkit.exercises.lab04.words import line, sentence, some_words
from labkit.exercises.stubs import stages
from labkit.plurals import counted

STAGE = "preprocessing"
STAND_INS: dict[str, Callable[..., Any]] = {"pad_prompts": stages.no_ids, "word_lists": stages.no_words}
SEEN = {
    "pad_prompts": {"INPUT_ID": "ids", "REQUEST_INPUT_LEN": "lengths"},
    "word_lists": {"BAD_WORDS_IDS": "bad words", "STOP_WORDS_IDS": "stop words"},
}
"""For each function, `{output: word}`: the stage's outputs that the function makes, and the word for each output in messages.

Other outputs of the stage are not compared.
"""


def run_stage(name: str) -> Callable[[Callable[..., Any], Case], dict[str, Any]]:
    """Return a function for the field `run` of an exercise.

    The returned function runs the stage on the server, where the learner's function takes the place of the function `name`. If
    it gets one of labkit's own functions, it runs the stage without the server.
    """

    def run(function: Callable[..., Any], case: Case) -> dict[str, Any]:
        inputs = _inputs(*case.args)
        if is_own(function):
            encode = open_checkpoint(MODEL).tokenizer().encode
            functions = STAND_INS | {name: function}
            given = {key: values for key, (_, values) in inputs.items()}
            return _seen(name, stages.preprocessing(given, encode, functions["pad_prompts"], functions["word_lists"]))
        server = lab_server()
        server.load_stub(stage(STAGE), STAGE, tokenizer=True)
        return _seen(name, server.ask(STAGE, inputs, {name: server.put(STAGE, function, name)}))

    return run


def _inputs(prompts: list[str], bad: list[str], stop: list[str]) -> dict[str, tuple[str, NDArray[Any]]]:
    lengths = "UINT32", np.full((len(prompts), 1), 4, np.uint32)
    words = {"BAD_WORDS_DICT": texts([[line] for line in bad]), "STOP_WORDS_DICT": texts([[line] for line in stop])}
    return {"QUERY": texts([[prompt] for prompt in prompts]), "REQUEST_OUTPUT_LEN": lengths, **words}


def _seen(function: str, outputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, words in SEEN[function].items():
        found |= {f"shape of {words}": str(list(outputs[name].shape)), words: outputs[name].tolist()}
    return found


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
    run=run_stage("pad_prompts"),
    seconds=60.0,
    ends_at_error=True,
    hints=(
        "Encode all texts first, because only then you know how wide the array must be.",
        "np.full makes an array full of padding, of the right type; write the tokens of each prompt to the beginning of its row.",
        "row[: len(tokens)] = tokens for each row; lengths = np.array([[len(tokens)] for tokens in rows], np.uint32).",
    ),
)


# 4.3 ------------------------------------------------------------------------------------------------------------------
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
    run=run_stage("word_lists"),
    seconds=60.0,
    ends_at_error=True,
    hints=(
        "First write the code for one prompt with a given width n; a batch is a stack of such arrays.",
        "If each word is a list of tokens, the ends are a running sum (np.cumsum) of the lengths of these lists.",
        "lists = np.zeros((batch, 2, n), np.int32); lists[:, 1] = -1; then lists[row, 0, :len(tokens)] = tokens, and store the "
        "ends in lists[row, 1] in the same way.",
    ),
)

"""Exercise 4.4: the stage `postprocessing` turns token ids into texts, up to the end of each text."""

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
from labkit.exercises.lab04.on_server import MODEL, is_own, lab_server, stage
from labkit.exercises.lab04.words import sentence
from labkit.exercises.stubs import stages
from labkit.exercises.stubs.stages import PAD, Decode, postprocess
from labkit.plurals import counted

STAGE = "postprocessing"
Ids = NDArray[Any]


def run_stage(function: Callable[..., Any], case: Case) -> list[list[str]]:
    """The texts that the stage makes with the learner's function. labkit's own functions run without the server."""
    tokens, lengths = (np.array(values, np.uint32) for values in case.args)
    if is_own(function):
        decode = open_checkpoint(MODEL).tokenizer().decode
        found = stages.postprocessing(tokens, lengths, decode, function)
    else:
        server = lab_server()
        server.load_stub(stage(STAGE), STAGE, tokenizer=True)
        inputs = {"TOKENS_BATCH": ("UINT32", tokens), "SEQUENCE_LENGTH": ("UINT32", lengths)}
        found = server.ask(STAGE, inputs, {"postprocess": server.put(STAGE, function, "postprocess")})["OUTPUT"]
    return [[text.decode() for text in row] for row in found]


def _all_of_it(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return [[decode(ids.tolist()) for ids in row] for row in token_ids]


def _to_first_padding(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    def cut(ids: list[int]) -> list[int]:
        return ids[: ids.index(PAD)] if PAD in ids else ids

    return [[decode(cut(ids.tolist())) for ids in row] for row in token_ids]


def _first_beam(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    texts = postprocess(token_ids, lengths, decode)
    return [[row[0]] * len(row) for row in texts]


def _first_length(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return [[decode(ids[: own[0]].tolist()) for ids in row] for row, own in zip(token_ids, lengths, strict=True)]


def _longest(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return [[decode(ids[: lengths.max()].tolist()) for ids in row] for row in token_ids]


def _one_short(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    return postprocess(token_ids, lengths - 1, decode)


def _token_by_token(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    rows = zip(token_ids, lengths, strict=True)
    return [["".join(decode([token]) for token in ids[:n].tolist()) for ids, n in zip(*row, strict=True)] for row in rows]


def _with_spaces(token_ids: Ids, lengths: Ids, decode: Decode) -> Any:
    rows = zip(token_ids, lengths, strict=True)
    return [[" ".join(decode([token]) for token in ids[:n].tolist()) for ids, n in zip(*row, strict=True)] for row in rows]


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    encode = open_checkpoint(MODEL).tokenizer().encode
    cases: list[Case] = []
    for batch, beams in ((1, 1), (3, 1), (2, 3)):
        prompts = [[encode(sentence(draw, draw.randint(2, 9)) + " 😀 …") for _ in range(beams)] for _ in range(batch)]
        width = max(len(ids) for row in prompts for ids in row) + 3
        rows = [[ids + draw.choices((PAD, 300, 411), k=width - len(ids)) for ids in row] for row in prompts]
        label = f"{counted(batch, 'prompt')}, {counted(beams, 'beam')}, other tokens after the end"
        cases.append(Case(label, (rows, [[len(ids) for ids in row] for row in prompts])))
    ids = encode(sentence(draw, 4))
    inside = [[[*ids, PAD, *ids, PAD, PAD]]]
    cases.append(Case("the padding token within a text", (inside, [[2 * len(ids) + 1]])))
    return cases


def _explain(case: Case, found: Any, right: Any) -> str:
    for row, (given, wanted) in enumerate(zip(found, right, strict=True)):
        for beam, (text, asked) in enumerate(zip(given, wanted, strict=True)):
            if text != asked:
                longer = " It goes on after its length." if text.startswith(asked) else ""
                return f"Your text of prompt {row}, beam {beam} is {text[:120]!r}, but its tokens say {asked[:120]!r}.{longer}"
    return ""


POSTPROCESS = Exercise(
    name="lab04.postprocess",
    lab="04",
    number="4.4",
    title="From tokens to text",
    function="postprocess",
    statement=(
        "The engine returns `token_ids [batch, beam, tokens]`, including the prompt. `lengths [batch, beam]` says how many "
        "tokens of each beam belong to the text. Any tokens may stand after the end of a text. (FasterTransformer's own "
        "client decodes these too, so its texts end in garbage.) Return one list for each prompt, with the text of each beam; "
        "`decode(ids)` returns the text of a list of token ids. A padding token **before** the end is part of the text. Your "
        "function runs in the real server."
    ),
    points=8,
    minutes=10,
    difficulty=1,
    requires=("triton_server",),
    cases=_cases,
    reference=postprocess,
    run=run_stage,
    seconds=60.0,
    ends_at_error=True,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "You decode all tokens, also the tokens after the end of the text: take only as many of the first tokens as "
            "lengths says.",
            _all_of_it,
        ),
        Mistake(
            "You stop at the first padding token, but a text may contain padding tokens: lengths says where the end is.",
            _to_first_padding,
        ),
        Mistake("Every beam gets the text of the first beam, but each beam has its own tokens.", _first_beam),
        Mistake("You cut every beam at the length of the first beam, but each beam has its own length.", _first_length),
        Mistake("You cut every beam at the length of the longest beam, but each beam has its own length.", _longest),
        Mistake("The last token of each text is missing: `lengths` counts this token, too.", _one_short),
        Mistake(
            "You decode the tokens one by one, but a character like 😀 may consist of several tokens: decode the whole list at "
            "once.",
            _token_by_token,
        ),
        Mistake(
            "You put spaces between the tokens, but tokens contain their own spaces: decode the whole list at once.",
            _with_spaces,
        ),
    ),
    hints=(
        "Use two loops: one over the prompts, and one over the beams of each prompt.",
        "The text of a beam consists of its first tokens; their number is the length of the beam. .tolist() converts an array "
        "to Python integers.",
        "For one prompt, with its `row` of tokens and its lengths `own`: [decode(ids[:n].tolist()) for ids, n in zip(row, own)].",
    ),
)

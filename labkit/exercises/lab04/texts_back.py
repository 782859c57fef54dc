"""Exercise 4.4: the stage `postprocessing` turns token ids into texts, and drops the tokens after the end of each text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.checkpoints import open_checkpoint
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import MODEL, is_own, lab_server, stage
from labkit.exercises.lab04.words import sentence
from labkit.exercises.stubs import stages
from labkit.exercises.stubs.stages import PAD
from labkit.plurals import counted

STAGE = "postprocessing"


def run_stage(function: Callable[..., Any], case: Case) -> list[list[str]]:
    """Return the texts that the stage makes with the learner's function. labkit's own functions run without the server."""
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


POSTPROCESS = Exercise(
    name="lab04.postprocess",
    lab="04",
    number="4.4",
    title="From tokens to text",
    function="postprocess",
    statement=(
        "The engine returns `token_ids [batch, beam, tokens]`, including the prompt. `lengths [batch, beam]` says how many "
        "tokens of each beam belong to the text. Any tokens can follow the end of a text. (FasterTransformer's own "
        "client decodes these too, so its texts end in garbage.) Return one list for each prompt, with the text of each beam; "
        "`decode(ids)` returns the text of a list of token ids. A padding token **before** the end is part of the text. Your "
        "function runs in the real server."
    ),
    points=8,
    minutes=10,
    difficulty=1,
    requires=("triton_server",),
    cases=_cases,
    run=run_stage,
    seconds=60.0,
    ends_at_error=True,
    hints=(
        "Use two loops: one over the prompts, and one over the beams of each prompt.",
        "The text of a beam consists of its first tokens; their number is the length of the beam. .tolist() converts an array "
        "to Python integers.",
        "For one prompt, with its `row` of tokens and its lengths `own`: [decode(ids[:n].tolist()) for ids, n in zip(row, own)].",
    ),
)

"""Exercise 4.7: dynamic batching. The server combines several requests into one batch, which the model answers as a whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import batched_config, is_own, lab_server, texts
from labkit.exercises.lab04.words import sentence
from labkit.exercises.stubs import stages
from labkit.exercises.stubs.stages import Job

MODEL = "together"

WAIT_SECONDS = 0.15
"""In the check, the server waits this many seconds for more requests that it can add to a batch."""


def run_together(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Return the texts for requests that arrive together, and how often `generate` was called for each batch."""
    (requests,) = case.args
    if is_own(function):
        calls = 0

        def generate(jobs: list[Job]) -> list[str]:
            nonlocal calls
            calls += 1
            return [prompt[::-1][:count] for prompt, count in jobs]

        found = function([list(request) for request in requests], generate)
        stages.check_form(found, requests)
        return {"texts": found, "calls": [calls] * len(requests)}
    server = lab_server()
    server.load_stub(batched_config(MODEL, {"work": "echo"}, largest=64, delay=WAIT_SECONDS), "batched")
    given = {"answer_together": server.put(MODEL, function, "answer_together")}
    answers = server.ask_all(MODEL, [job_inputs(request) for request in requests], given)
    return {
        "texts": [[text[0].decode() for text in answer["TEXT"]] for answer in answers],
        "calls": [int(answer["BATCH"][0, 0]) for answer in answers],
    }


def job_inputs(jobs: list[Job]) -> dict[str, tuple[str, Any]]:
    """The input tensors of a request that consists of these jobs."""
    counts = np.array([[count] for _, count in jobs], np.int32)
    return {"PROMPT": texts([[prompt] for prompt, _ in jobs]), "NEW_TOKENS": ("INT32", counts)}


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)

    def request(count: int) -> list[Job]:
        return [(sentence(draw, draw.randint(2, 6)), draw.randint(3, 11)) for _ in range(count)]

    cases = [Case("one request of one job", ([request(1)],))]
    sizes = {
        "3 requests of one job": (1, 1, 1),
        "requests of 2, 1 and 4 jobs": (2, 1, 4),
        "5 requests, one of 3 jobs": (1, 1, 3, 1, 1),
    }
    return cases + [Case(label, ([request(size) for size in counts],)) for label, counts in sizes.items()]


ANSWER_TOGETHER = Exercise(
    name="lab04.answer_together",
    lab="04",
    number="4.7",
    title="One batch of many requests",
    function="answer_together",
    statement=(
        "With `dynamic_batching`, the server passes the requests of several clients to a model together. The server does not "
        "join their tensors, so a model that answers the requests one after another gains nothing. `requests` holds one list "
        "of jobs `(prompt, new tokens)` for each request. `generate(jobs)` runs one batch and returns one text for each job. "
        "Call `generate` **once** for all jobs of all requests, and return one list of texts for each request, in order. The "
        "check runs in a real server."
    ),
    points=12,
    minutes=15,
    difficulty=2,
    core=True,
    requires=("triton_server",),
    cases=_cases,
    run=run_together,
    seconds=60.0,
    ends_at_error=True,
    hints=(
        "Do three steps: put all jobs into one list, call generate once, and divide the texts among the requests.",
        "A list comprehension with two `for` makes the list of all jobs. Each request then takes as many texts as it has "
        "jobs; an iterator over the texts remembers which text is next.",
        "texts = iter(generate(jobs)), then return [[next(texts) for _ in request] for request in requests].",
    ),
)

"""Exercise 4.7: dynamic batching. The server joins several requests, and the model answers them in one batch."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import Watch
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab04.on_server import batched_config, is_own, lab_server, texts
from labkit.exercises.lab04.words import sentence
from labkit.exercises.stubs import stages
from labkit.exercises.stubs.stages import Job, answer_together

MODEL = "together"
WAIT_SECONDS = 0.15
"""In the check, the server waits this many seconds for requests to join."""

Generate = Callable[[list[Job]], list[str]]
Requests = list[list[Job]]


def run_together(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The texts for requests that arrive together, and how often `generate` was called for each batch."""
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
    """The inputs of one request."""
    counts = np.array([[count] for _, count in jobs], np.int32)
    return {"PROMPT": texts([[prompt] for prompt, _ in jobs]), "NEW_TOKENS": ("INT32", counts)}


@dataclass(frozen=True)
class OneBatch(Watch):
    """A contract: `generate` must be called once for each batch."""

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[OneBatch]:
        """Watch a call."""
        yield self

    def breach(self, value: Any) -> str:
        """A message about a wrong number of calls, as the end of a sentence."""
        most = max(value["calls"])
        return (
            ""
            if most == 1
            else f"you call generate {most} times for one batch: call it once for all jobs, or batching gains nothing"
        )


def _a_request_each(requests: Requests, generate: Generate) -> Any:
    return [generate(request) for request in requests]


def _a_job_each(requests: Requests, generate: Generate) -> Any:
    return [[generate([job])[0] for job in request] for request in requests]


def _first_jobs(requests: Requests, generate: Generate) -> Any:
    made = generate([request[0] for request in requests])
    return [[text] * len(request) for text, request in zip(made, requests, strict=True)]


def _even_split(requests: Requests, generate: Generate) -> Any:
    made = generate([job for request in requests for job in request])
    size = len(requests[0])
    parts = [made[number * size : (number + 1) * size] for number in range(len(requests))]
    return [(part + [""] * len(own))[: len(own)] for part, own in zip(parts, requests, strict=True)]


def _same_count(requests: Requests, generate: Generate) -> Any:
    most = max(count for request in requests for _, count in request)
    made = iter(generate([(prompt, most) for request in requests for prompt, _ in request]))
    return [[next(made) for _ in request] for request in requests]


def _reversed(requests: Requests, generate: Generate) -> Any:
    made = iter(generate([job for request in reversed(requests) for job in request]))
    return [[next(made) for _ in request] for request in requests]


def _sorted(requests: Requests, generate: Generate) -> Any:
    jobs = sorted((job for request in requests for job in request), key=lambda job: job[1])
    made = iter(generate(jobs))
    return [[next(made) for _ in request] for request in requests]


def _flat(requests: Requests, generate: Generate) -> Any:
    return generate([job for request in requests for job in request])


def _only_first(requests: Requests, generate: Generate) -> Any:
    return [generate(requests[0])]


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


def _explain(case: Case, found: Any, right: Any) -> str:
    for number, (own, wanted) in enumerate(zip(found["texts"], right["texts"], strict=True)):
        if own != wanted:
            return f"Request {number} gets texts of other jobs, or in another order: {str(own)[:120]}."
    return OneBatch().breach(found).capitalize() + "."


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
    requires=("triton_server",),
    cases=_cases,
    reference=answer_together,
    run=run_together,
    seconds=60.0,
    ends_at_error=True,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "You call generate once for each request, so each request waits for the previous one: call generate once for all "
            "requests.",
            _a_request_each,
        ),
        Mistake("You call generate once for each job, so there is no batch: pass all jobs of all requests.", _a_job_each),
        Mistake("You generate only the first job of each request, but a request may contain several jobs.", _first_jobs),
        Mistake(
            "You split the texts as if all requests had equally many jobs: use the number of jobs of each request.", _even_split
        ),
        Mistake("You give every job the largest number of new tokens, but each job has its own number.", _same_count),
        Mistake("The texts go to the wrong requests, because the jobs in your batch are in another order.", _reversed),
        Mistake(
            "You sort the jobs, so the texts are not in the order of the requests: do not sort.",
            _sorted,
        ),
        Mistake("You return all texts in one list; return one list for each request.", _flat),
        Mistake("You answer only the first request, so the clients of the other requests would wait for ever.", _only_first),
    ),
    hints=(
        "Do three steps: put all jobs into one list, call generate once, and divide the texts among the requests.",
        "A list comprehension with two `for` makes the list of all jobs. Each request then takes as many texts as it has "
        "jobs; an iterator over the texts remembers which text is next.",
        "texts = iter(generate(jobs)), then return [[next(texts) for _ in request] for request in requests].",
    ),
)

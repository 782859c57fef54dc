"""The answer to exercise 4.7: reference, comparison and known mistakes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import Watch
from labkit.exercises.lab04.together import ANSWER_TOGETHER
from labkit.exercises.stubs.own_stages import answer_together
from labkit.exercises.stubs.stages import Job

Generate = Callable[[list[Job]], list[str]]
Requests = list[list[Job]]


@dataclass(frozen=True)
class OneBatch(Watch):
    """A contract: `generate` must be called once for each batch."""

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[OneBatch]:
        """Watch one call of the learner's function. Nothing is observed meanwhile: `breach` reads the result of the call."""
        yield self

    def breach(self, value: Any) -> str:
        """Return a message about a wrong number of calls, written as the end of a sentence; "" if the number is right."""
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


def _explain(case: Case, found: Any, right: Any) -> str:
    for number, (own, wanted) in enumerate(zip(found["texts"], right["texts"], strict=True)):
        if own != wanted:
            return f"Request {number} gets texts of other jobs, or in another order: {str(own)[:120]}."
    return OneBatch().breach(found).capitalize() + "."


ANSWER_TOGETHER_ANSWER = Answer(
    exercise=ANSWER_TOGETHER,
    reference=answer_together,
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
            "You split the texts as if all requests had the same number of jobs: use the number of jobs of each request.",
            _even_split,
        ),
        Mistake("You give every job the largest number of new tokens, but each job has its own number.", _same_count),
        Mistake("The texts go to the wrong requests, because the jobs in your batch are in a different order.", _reversed),
        Mistake(
            "You sort the jobs, so the texts are not in the order of the requests: do not sort.",
            _sorted,
        ),
        Mistake("You return all texts in one list; return one list for each request.", _flat),
        Mistake("You answer only the first request, so the clients of the other requests would wait forever.", _only_first),
    ),
)

ANSWERS = (ANSWER_TOGETHER_ANSWER,)

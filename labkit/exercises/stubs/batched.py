"""Exercise 4.7 in the server: a model that calls `answer_together` with each batch. Its parameter `work` says how it answers.

- `echo`: return each prompt in reverse, without delay.
- `sleep`: only sleep. The parameters `first` and `more` give the time, so it is the same on every machine.
- `engine`: generate text with labkit's engine. A batch takes as long as its longest text.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from labkit.exercises.stubs import stages
from labkit.exercises.stubs.learner import Functions, refusal
from labkit.exercises.stubs.own_functions import OWN
from labkit.serving.python_backend.config_parameters import parameter


class TritonPythonModel:
    """Answers a batch of requests with one call of the learner's function. The server decides which requests form a batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Triton calls this before the first request."""
        self._functions = Functions(args, {"answer_together": stages.no_batch} | OWN)
        self._work = WORK[parameter(args, "work", "echo")](args)
        self._batches = itertools.count(1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer one batch. Returns one response for each request."""
        try:
            return self._answer(requests)
        except BaseException as error:
            return [refusal(error) for _ in requests]

    def _answer(self, requests: list[Any]) -> list[Any]:
        began, number, calls = time.time(), next(self._batches), itertools.count(1)
        jobs = [_jobs(request) for request in requests]
        called = 0

        def generate(given: list[stages.Job]) -> list[str]:
            nonlocal called
            called = next(calls)
            return self._work(given)

        found = self._functions.get("answer_together", requests[0])(jobs, generate)
        stages.check_form(found, jobs)
        ended, size = time.time(), sum(map(len, jobs))
        responses = []
        for texts in found:
            about = [called, number, size, began, ended]
            outputs = {
                "TEXT": np.array([[text.encode()] for text in texts], np.object_),
                "BATCH": np.array([about] * len(texts), np.float64),
            }
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(*output) for output in outputs.items()]))
        return responses


def _jobs(request: Any) -> list[stages.Job]:
    prompts, counts = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("PROMPT", "NEW_TOKENS"))
    return [(prompt[0].decode(), int(count[0])) for prompt, count in zip(prompts, counts, strict=True)]


def echo(args: dict[str, str]) -> Callable[[list[stages.Job]], list[str]]:
    """Work that reverses each prompt, and returns one character of it for each new token that the job asks for."""
    return lambda jobs: [prompt[::-1][:count] for prompt, count in jobs]


def sleep(args: dict[str, str]) -> Callable[[list[stages.Job]], list[str]]:
    """Work that sleeps for `first` seconds plus `more` seconds for each job of the batch."""
    first, more = (float(parameter(args, name)) for name in ("first", "more"))

    def work(jobs: list[stages.Job]) -> list[str]:
        time.sleep(first + more * len(jobs))
        return [prompt for prompt, _ in jobs]

    return work


def engine(args: dict[str, str]) -> Callable[[list[stages.Job]], list[str]]:
    """Work that generates text with the engine of `gptj`; it returns when all texts of the batch are done."""
    from labkit import SamplingParams
    from labkit.serving.python_backend.engine_from_parameters import engine_from_parameters

    loaded = engine_from_parameters(lambda name, default: parameter(args, name, default))

    def work(jobs: list[stages.Job]) -> list[str]:
        params = [SamplingParams(temperature=0.0, max_new_tokens=count, ignore_eos=True) for _, count in jobs]
        return [output.text for output in loaded.generate([prompt for prompt, _ in jobs], params)]

    work([("a", 2)])  # The first step allocates memory that later steps use again.
    return work


WORK: dict[str, Callable[[dict[str, str]], Callable[[list[stages.Job]], list[str]]]] = {
    "echo": echo,
    "sleep": sleep,
    "engine": engine,
}

"""Lab 04's part of the speed ladder: how much slower generation is through a server.

The task of lab 01's ladder runs in three ways: on an engine without a server, and in the learner's server with and without
streaming. The measurement alternates between these three ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import labkit
from labkit.errors import NotAvailable
from labkit.exercises.lab04.deployment import PRECISION, Deployment
from labkit.exercises.lab04.on_server import MODEL
from labkit.measure import Task, Timing, compare, progress_bar
from labkit.serving.client import Client

TASK = Task(MODEL, sequences=1, prompt_tokens=64, new_tokens=64)
"""The task of every rung. The ladder in lab 01 has the same task."""
ENGINE, SERVED, STREAMED = "lab 04: engine", "lab 04: served", "lab 04: served, streamed"
"""The rungs: the engine in this process, the server when it sends whole answers, and the server when it sends single tokens."""
LEAST_ROUNDS, MOST_ROUNDS = 7, 15


def what_serving_costs(deployment: Deployment, seconds: float = 10.0) -> dict[str, Timing]:
    """Time the three rungs, which take turns. Each run is one request of one client, and is timed at the client.

    Raises `NotAvailable` if the server's engine generates other tokens than the engine in this process, because then the two
    engines have not done the same task.
    """
    more = {"max_new_tokens": TASK.new_tokens, "ignore_eos": True}
    engine = labkit.load(MODEL, dtype=PRECISION)
    params = labkit.SamplingParams(max_new_tokens=TASK.new_tokens, ignore_eos=True)
    with engine, Client(deployment.grpc) as client:
        rungs: dict[str, Callable[[list[int]], list[int]]] = {
            ENGINE: lambda prompt: list(engine.generate([prompt], params)[0].token_ids),
            SERVED: lambda prompt: client.generate(prompt, **more).token_ids,
            STREAMED: lambda prompt: [token for piece in client.stream(prompt, **more) for token in piece.token_ids],
        }
        _need_same_tokens({name: rung(_prompt(0)) for name, rung in rungs.items()})
        numbers = itertools.count(1)
        calls = {name: lambda rung=rung: rung(_prompt(next(numbers))) for name, rung in rungs.items()}
        bar = progress_bar("with and without a server")
        least, most, device = LEAST_ROUNDS, MOST_ROUNDS, engine.device
        return compare(calls, device=device, warmup=1, min_runs=least, max_runs=most, max_seconds=seconds, progress=bar)


def _prompt(number: int) -> list[int]:
    """A prompt of the task. Prompts differ in their first token, because an engine reuses its results for a known beginning."""
    return [1 + (number + 7 * place) % 500 for place in range(TASK.prompt_tokens)]


def _need_same_tokens(made: dict[str, list[int]]) -> None:
    """Raise `NotAvailable` unless all rungs have generated the same tokens, and exactly as many tokens as the task asks for."""
    for name, tokens in made.items():
        if len(tokens) != TASK.new_tokens or tokens != made[ENGINE]:
            raise NotAvailable(
                f"the rung {name!r} has not made the same {TASK.new_tokens} tokens as the rung {ENGINE!r}, so their speeds "
                "cannot be compared; run the cell that starts your server again"
            )

"""The gain of serving a model in parts: predicted from single requests, and measured under load.

While the second part of the model computes one request, the first part can compute the next request. In this module, a request
is a prefill: the server gets a prompt and returns the logits after the prompt's last token.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.serving.client.graph_client import GraphClient
from labkit.serving.stress.other_programs import OtherPrograms


@dataclass(frozen=True)
class Alone:
    """Measurements of a served model that gets one request at a time.

    latency: seconds per request. computing: seconds that each part computed for one request, by the name of the part's model.
    disturbed: says how other programs disturbed the requests; it is "" if they did not.
    """

    latency: float
    computing: Mapping[str, float]
    disturbed: str = ""

    @property
    def overhead(self) -> float:
        """The seconds of a request during which no part computed.

        They are the time for transport, queues, and passing data from part to part.
        """
        return max(0.0, self.latency - sum(self.computing.values()))

    def predicted_rate(self, users: int, copies: int = 1) -> float:
        """Predict how many requests per second are answered if `users` users send requests.

        Each user sends a request when that user's previous request is answered. A part answers at most `copies / computing`
        requests per second, and the users send at most `users / latency` requests per second.
        """
        slowest = max(self.computing.values())
        return min(users / self.latency, copies / slowest)


@dataclass(frozen=True)
class Loaded:
    """Measurements of a served model under load: the number of users, the number of answered requests, and the load's seconds.

    `disturbed` says how other programs disturbed the load; it is "" if they did not.
    """

    users: int
    requests: int
    seconds: float
    disturbed: str

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def measure_alone(address: str, model: str, parts: Sequence[str], prompt: NDArray[np.int64], *, requests: int = 30) -> Alone:
    """Send requests one after another, and read from the server how long each part computed."""
    with GraphClient(address, model) as client:
        for _ in range(3):
            client.forward(prompt, cache=False)
        before = {part: client.compute_counts(part) for part in parts}
        seconds = []
        with OtherPrograms(address) as watch:
            for _ in range(requests):
                begin = time.perf_counter()
                client.forward(prompt, cache=False)
                seconds.append(time.perf_counter() - begin)
        computing = {}
        for part in parts:
            count, total = client.compute_counts(part)
            computing[part] = (total - before[part][1]) / max(1, count - before[part][0])
    return Alone(float(np.median(seconds)), computing, watch.disturbed)


def measure_in_turn(
    address: str,
    models: Sequence[str],
    prompt: NDArray[np.int64],
    users: int,
    *,
    seconds: float = 3.0,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda words: None,
) -> dict[str, list[Loaded]]:
    """Put the same load on several models of one server, one after another, in several rounds.

    In a round, each model gets `seconds` of load from `users` users. In this way, slow changes of the machine's speed affect
    all models alike.
    """
    if users < 1 or rounds < 1 or not seconds > 0:
        raise InvalidRequest(
            f"users is {users}, rounds is {rounds} and seconds is {seconds}; give at least 1, at least 1, and more than 0"
        )
    found: dict[str, list[Loaded]] = {model: [] for model in models}
    for number in range(rounds):
        for model in models:
            progress(f"round {number + 1} of {rounds}: {model}, {users} users")
            found[model].append(_load(address, model, prompt, users, seconds))
    return found


def _load(address: str, model: str, prompt: NDArray[np.int64], users: int, seconds: float) -> Loaded:
    """Put load on a model in a closed loop. Each user has a connection. Requests that end after `seconds` do not count."""
    done, failed = [0] * users, []
    clients = [GraphClient(address, model) for _ in range(users)]
    barrier = threading.Barrier(users + 1)

    def send(user: int) -> None:
        try:
            clients[user].forward(prompt, cache=False)
            barrier.wait()
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                clients[user].forward(prompt, cache=False)
                done[user] += time.perf_counter() < until
        except Exception as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=send, args=(user,)) for user in range(users)]
    watch = OtherPrograms(address)
    try:
        for thread in threads:
            thread.start()
        with watch:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait()
            for thread in threads:
                thread.join()
    finally:
        for client in clients:
            client.close()
    if failed:
        raise failed[0]
    return Loaded(users, sum(done), seconds, watch.disturbed)

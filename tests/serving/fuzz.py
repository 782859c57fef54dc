"""Sends random requests to served models over HTTP and gRPC.

Other requests (bystanders) run at the same time, and their texts must not change.

    python -m tests.serving.fuzz --cases 10000 --seed 1

Each request must end with an answer or a named error, no process of the server may end, and every bystander must get the
text that the engine gives without a server. The requests are drawn by hypothesis from `tests.serving.strategies`; the same
seed draws the same requests.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import labkit
from labkit.engine import Engine, SamplingParams
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.server.model_processes import is_alive
from tests.serving.live.processes import processes
from tests.serving.live.requests import PROMPT, ensemble, gptj, infer, post, stream
from tests.serving.live.test_malformed import refusal
from tests.serving.strategies import grpc_requests, http_requests

AT_A_TIME = 4
"""The number of requests that are sent together."""

NEW_TOKENS = 24
SAMPLED = {"temperature": 1.0, "top_k": 20, "seed": 5}


class Bystanders:
    """Clients that ask for the same texts again and again. `wrong` lists the wrong answers that the clients got."""

    def __init__(self, server: Server, offline: Engine) -> None:
        self.server, self.wrong, self.rounds = server, list[str](), Counter[str]()
        self._greedy = offline.generate(PROMPT, SamplingParams(max_new_tokens=NEW_TOKENS))[0].text
        self._sampled = offline.generate(PROMPT, SamplingParams(max_new_tokens=NEW_TOKENS, **SAMPLED))[0].text  # type: ignore[arg-type]
        self._over = threading.Event()
        ways = {"streamed": self._streamed, "sampled": self._drawn, "ensemble": self._ensemble}
        self._threads = [threading.Thread(target=self._run, args=item, daemon=True) for item in ways.items()]

    def __enter__(self) -> Bystanders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, ask: Any) -> None:
        while not self._over.is_set():
            try:
                text, expected = ask()
            except Exception as error:
                text, expected = f"{type(error).__name__}: {error}", "an answer"
            self.rounds[name] += 1
            if text != expected:
                self.wrong.append(f"{name}: {text!r} in place of {expected!r}")
                return

    def _streamed(self) -> tuple[str, str]:
        return self._text(max_new_tokens=NEW_TOKENS), self._greedy

    def _drawn(self) -> tuple[str, str]:
        return self._text(max_new_tokens=NEW_TOKENS, **SAMPLED), self._sampled

    def _text(self, **given: Any) -> str:
        responses = stream(self.server, gptj(text_input=PROMPT, stream=True, **given))
        return "".join(response["text_output"][0] for response in responses)

    def _ensemble(self) -> tuple[str, str]:
        answer = infer(self.server, "ensemble", ensemble([PROMPT], NEW_TOKENS))["OUTPUT_0"][0, 0]
        return answer.removeprefix(PROMPT), self._greedy


@contextmanager
def _same_processes(server: Server) -> Iterator[None]:
    """Fails if a process of the server ends in the block."""
    before = processes(server)
    yield
    ended = [process.pid for process in before if not is_alive(process)]
    assert not ended, f"processes {ended} of the server have ended"


def outcome(server: Server, request: Any) -> str:
    """The outcome of a request: its HTTP or gRPC status, or `answered`. Raises `AssertionError` for an error without text."""
    if isinstance(request, tuple):
        status, text = post(server, *request)
        # Triton sends an error inside a stream as an event, after the status 200.
        assert status == 200 or "error" in text, (status, text[:200])
        assert "Traceback" not in text, text[:2000]
        return f"HTTP {status}"
    words = refusal(server, "it", request)
    assert "Traceback" not in words, words[:2000]
    return "gRPC answered" if "was answered" in words else f"gRPC {words.split()[0]}"


def fuzz(server: Server, offline: Engine, cases: int, number: int) -> Counter[str]:
    """Send random requests and count how often each outcome occurs. Raises `AssertionError` with the failing request or the
    bystander's wrong text.
    """
    seen: Counter[str] = Counter()

    @seed(number)
    @settings(
        max_examples=max(1, cases // AT_A_TIME),
        database=None,
        deadline=None,
        phases=[Phase.generate],  # failing cases are not shrunk, because a request that ended a server must not be sent again
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(http_requests() | grpc_requests(), min_size=AT_A_TIME, max_size=AT_A_TIME))
    def run(requests: list[Any]) -> None:
        seen.update(pool.map(lambda request: outcome(server, request), requests))
        assert server.is_running, "the server has ended"
        assert not bystanders.wrong, bystanders.wrong

    with ThreadPoolExecutor(AT_A_TIME) as pool, _same_processes(server), Bystanders(server, offline) as bystanders:
        run()
    assert not bystanders.wrong, bystanders.wrong
    assert len(bystanders.rounds) == 3, bystanders.rounds
    return seen + Counter({f"bystander {name}": count for name, count in bystanders.rounds.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="requests to send (10,000)")
    parser.add_argument("--seed", type=int, default=1, help="draws the requests (1)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder) / "repository", ServeSettings())
        with Server(Path(folder) / "repository") as server:
            for name, count in sorted(fuzz(server, labkit.load("gptj-tiny"), chosen.cases, chosen.seed).items()):
                print(f"{count:6} {name}")


if __name__ == "__main__":
    main()

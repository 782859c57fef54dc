"""A server whose engine hangs is restarted, and a server whose engine is slow or busy is not, while prompts keep coming."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from labkit.engine import Engine, SamplingParams
from labkit.serving.channels import client_library, grpc_client
from labkit.serving.metrics import read_metrics
from labkit.serving.repository.tensors import ENGINE
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server, probes
from tests.patience import PATIENCE, wait_for
from tests.serving.live.requests import PROMPT, ask, ensemble, infer

pytestmark = pytest.mark.long

REQUEST_SECONDS = 15.0
"""The longest time for a step on the server of these tests."""

SLOW = """
import os, time
from labkit.engine import Engine

step = Engine.step

def slow(engine):
    '''Sleep as many seconds as the file says, if there is one, before a step; remove the file before an endless sleep.'''
    try:
        with open({file!r}) as file:
            seconds = float(file.read())
    except FileNotFoundError:
        return step(engine)
    if seconds > 1000:
        os.unlink({file!r})
    time.sleep(seconds)
    return step(engine)

Engine.step = slow
"""


class Slow:
    """A server whose engine pauses before each step, as long as `steps_take` says."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds"
        write_repository(folder / "repository", ServeSettings(max_batch=1, request_seconds=REQUEST_SECONDS))
        code = folder / "repository" / ENGINE / "1" / "model.py"
        code.write_text(code.read_text() + SLOW.format(file=str(self._file)))
        self.server = Server(folder / "repository", log=folder / "log")

    def steps_take(self, seconds: float) -> None:
        """Let each step that begins from now on take `seconds` longer; only the next step, if this is above 1000."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._file)

    def steps_are_quick(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def slow(triton_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    made = Slow(tmp_path_factory.mktemp("slow"))
    with made.server:
        yield made


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a probe wait only two seconds for its answer."""
    monkeypatch.setattr(probes, "ANSWER_SECONDS", 2.0)


@contextlib.contextmanager
def prompts(server: Server, pause: float, new_tokens: int) -> Iterator[list[str]]:
    """Send prompts during the block without waiting for answers. Yield a list of the statuses of the requests that ended."""
    over, found = threading.Event(), []

    def ended(result: Any, error: Any) -> None:
        found.append("" if error is None else str(error.status()))

    def send() -> None:
        with grpc_client(server.grpc) as client:
            while not over.wait(pause):
                client.async_infer("ensemble", ensemble([PROMPT], new_tokens, end_id=8000), ended, client_timeout=PATIENCE)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield found
    finally:
        over.set()
        sender.join()


def outcomes(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which each probe appends the answer to its own request."""
    found: list[str] = []
    ask_once = server.probes._outcome

    def record(model: str) -> str:
        found.append(outcome := ask_once(model))
        return outcome

    monkeypatch.setattr(server.probes, "_outcome", record)
    return found


def test_an_engine_that_hangs_is_noticed_while_prompts_keep_coming(slow: Slow, offline: Engine) -> None:
    """The prompts are requests to `ensemble`, so only `fastertransformer` waits for the engine; it answers them with errors."""
    server = slow.server
    dog: Any = server.watchdog
    restarts, repairs, pid = len(server.restarts), len(dog.repairs), server.pid
    with prompts(server, 0.2, 2) as ended:
        wait_for(lambda: "" in ended, "an answer")
        slow.steps_take(1e6)
        wait_for(lambda: len(dog.repairs) > repairs or len(server.restarts) > restarts, "a repair")
        answered = len(ended)
        wait_for(lambda: "" in ended[answered:], "an answer after the repair")
    assert [(repair.model, repair.failure) for repair in list(dog.repairs)[repairs:]] == [(ENGINE, "")]
    assert (len(server.restarts), server.pid) == (restarts, pid)
    assert any(ended), "the requests that the engine had"
    answers_as_before(server, offline)


def test_a_request_to_the_engine_that_hangs_gets_an_error(slow: Slow, offline: Engine) -> None:
    """Triton would never answer a request whose process was killed, so the whole server is restarted."""
    server = slow.server
    restarts, pid = len(server.restarts), server.pid
    with prompts(server, 0.2, 2) as ended, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: "" in ended, "an answer")
        slow.steps_take(1e6)
        asked = pool.submit(ask, server, text_input=PROMPT, max_new_tokens=2)
        restart = wait_for(lambda: list(server.restarts)[restarts:], "a restart")[0]
        assert isinstance(asked.exception(timeout=PATIENCE), client_library().InferenceServerException)
    assert restart.why.startswith("tritonserver was ended: a step of gptj's engine did not end, so its process was killed")
    assert server.pid != pid
    answers_as_before(server, offline)


def answers_as_before(server: Server, offline: Engine) -> None:
    """Check that the models compute the tokens of an engine outside the server."""
    expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=8))[0].text
    assert ask(server, text_input=PROMPT, max_new_tokens=8)["text_output"][0] == expected
    assert infer(server, "ensemble", ensemble([PROMPT], 8))["OUTPUT_0"][0, 0] == PROMPT + expected


@pytest.mark.parametrize("seconds", [0.3, 5.0])
def test_a_busy_engine_and_a_slow_step_are_no_hang(slow: Slow, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only place in the batch is taken, and the probes of all models that need the engine wait in vain.

    seconds: shorter, or longer, than a probe waits.
    """
    server = slow.server
    dog: Any = server.watchdog
    before = len(server.restarts), len(dog.repairs), server.pid
    slow.steps_take(seconds)
    with prompts(server, 0.2, 20):
        wait_for(lambda: read_metrics(server.metrics).engine().waiting > 2, "a queue")
        found = outcomes(server, monkeypatch)
        for model in (ENGINE, "fastertransformer", "ensemble"):
            assert server.probes.answers(model)
        wait_for(lambda: found.count("silence") >= 6, "more probes without an answer, now of the watchdog")
        slow.steps_are_quick()
    assert (len(server.restarts), len(dog.repairs), server.pid) == before

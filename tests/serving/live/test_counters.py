"""labkit's counters count each refused request once, by its reason, and no probe of the watchdog or of a health check."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.plurals import counted
from labkit.serving.channels import client_library
from labkit.serving.metrics import Metrics, read_metrics
from labkit.serving.probe_mark import PARAMETER
from labkit.serving.server import Server
from labkit.serving.server.status_line import status_line
from tests.patience import PATIENCE
from tests.serving.live.requests import PROMPT, ask, ensemble, fastertransformer, gptj, infer, stream

HEALTH = Path(__file__).parents[3] / "docker" / "answers.py"

TIMES = 3


def at_rest(server: Server) -> Metrics:
    """Read the metrics after they have stopped changing. The server updates them every half second."""
    look = read_metrics(server.metrics)
    until = time.monotonic() + PATIENCE
    while True:
        time.sleep(1.2)
        before, look = look, read_metrics(server.metrics)
        if _own(look) == _own(before):
            return look
        assert time.monotonic() < until, "the counters did not come to rest"


def _own(look: Metrics) -> dict[Any, float]:
    return {key: value for key, value in look.values.items() if key[0].startswith("labkit_")}


def when(server: Server, before: Metrics, counted: Callable[[Metrics], bool]) -> Metrics:
    """Wait until `counted` returns true for the change of the metrics since `before`. Return this change."""
    until = time.monotonic() + PATIENCE
    while not counted(found := read_metrics(server.metrics) - before):
        assert time.monotonic() < until, _own(found)
        time.sleep(0.1)
    return found


def refuse(ask_once: Callable[[], Any]) -> None:
    with contextlib.suppress(client_library().InferenceServerException):
        pytest.fail(f"answered: {ask_once()}")


REFUSED: dict[tuple[str, str], Callable[[Server], Any]] = {
    ("gptj", "invalid"): lambda server: ask(server, text_input=PROMPT, temperature=-1.0),
    ("gptj", "deadline"): lambda server: stream(server, gptj(text_input=PROMPT, max_new_tokens=400), timeout=1),
    ("fastertransformer", "invalid"): lambda server: infer(server, "ensemble", ensemble([PROMPT], 2, temperature=-1.0)),
    ("fastertransformer", "deadline"): lambda server: infer(
        server, "fastertransformer", fastertransformer([[260]], 400, end_id=8000), timeout=1
    ),
    ("preprocessing", "invalid"): lambda server: infer(server, "ensemble", ensemble([PROMPT], 2, bad='"open')),
    ("postprocessing", "invalid"): lambda server: infer(
        server, "postprocessing", _renamed(), parameters={"nonsense": 1}
    ),
}  # fmt: skip


def _renamed() -> list[Any]:
    from labkit.serving.server.probes import as_input

    return [as_input("TOKENS_BATCH", "UINT32", [[[260]]])]


def test_each_refused_request_is_counted_once(served: Server) -> None:
    before = at_rest(served)
    for ask_once in REFUSED.values():
        for _ in range(TIMES):
            refuse(lambda ask_once=ask_once: ask_once(served))  # type: ignore[misc]
    ask(served, text_input=PROMPT, max_new_tokens=2)
    infer(served, "ensemble", ensemble([PROMPT], 2))
    requests = 2 + 2 * TIMES  # two answered requests, and the requests that were accepted but whose time was over
    all_of_them = len(REFUSED) * TIMES
    found = when(
        served, before, lambda look: sum(look.refused().values()) >= all_of_them and look.engine().requests >= requests
    )
    counted = {(model, reason): count for model in found.models() for reason, count in found.refused(model).items()}
    assert counted == dict.fromkeys(REFUSED, TIMES)
    assert found.engine().requests == requests
    assert (found.model("gptj").requests, found.model("gptj").failures) == (1, 2 * TIMES)
    # The ensemble's first step refused some requests, its second step refused others, and one request was answered.
    assert (found.model("ensemble").requests, found.model("ensemble").failures) == (1, 2 * TIMES)
    assert (found.model("fastertransformer").requests, found.model("fastertransformer").failures) == (1, 2 * TIMES)


def test_probes_are_not_counted(served: Server) -> None:
    before = at_rest(served)
    for model in served.models:
        assert served.probes.answers(model)
    health = HEALTH.read_text("utf-8").replace("127.0.0.1:8001", served.grpc).replace("127.0.0.1:8002", served.metrics)
    subprocess.run([sys.executable, "-c", health], check=True, timeout=PATIENCE)
    ask(served, text_input=PROMPT, max_new_tokens=2)
    found = when(served, before, lambda look: look.engine().tokens >= 2 and sum(look.batch_sizes().values()) >= 2)
    assert found.model("gptj").requests == 3, "Triton counts the two probes as well"
    engine = found.engine()
    assert (engine.requests, engine.tokens, engine.steps) == (1, 2, 2)
    assert found.batch_sizes()["1"] == 2
    assert found.refused() == {}


def test_a_client_cannot_hide_by_a_mark_of_its_own_and_the_status_line_shows_it(served: Server) -> None:
    before = at_rest(served)
    for mark in ("", "0" * 32):
        refuse(lambda mark=mark: stream(served, gptj(text_input=PROMPT), parameters={PARAMETER: mark}))  # type: ignore[misc]
    assert when(served, before, lambda look: sum(look.refused().values()) >= 2).refused() == {"invalid": 2}
    look = read_metrics(served.metrics)
    line = status_line(served.metrics, 1.0, "gptj-tiny")
    assert f"{counted(look.engine().requests, 'request')}, {sum(look.refused().values())} refused, " in line

"""When a model counts as answering, though its probe waits or finds the queue full. The server and the metrics are doubles."""

from __future__ import annotations

import time
from typing import Any

import pytest

from labkit.serving.server import probes
from labkit.serving.server.engine_steps import EngineStep
from labkit.serving.server.probes import Probes

pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient")

IN_TIME, LATE = 600.0, -1.0
"""Seconds from now to the deadline of the current step."""


class Told(Probes):
    """Probes of a server whose requests have the outcome `outcome`. Triton's count of successes rises by `rise` meanwhile."""

    def __init__(self, outcome: str, rise: int = 1) -> None:
        super().__init__("127.0.0.1:1", "127.0.0.1:2")
        self.outcome, self.rise, self.count = outcome, rise, 7

    def _outcome(self, model: str) -> Any:
        self.count += self.rise
        return self.outcome

    def _successes(self, model: str) -> int:
        return self.count

    def needs(self, model: str) -> list[str]:
        steps = {"ensemble": ["preprocessing", "fastertransformer"], "fastertransformer": ["gptj"], "their own": ["first"]}
        return steps.get(model, [])


def steps_are(monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, float]) -> None:
    """Let each engine's latest step have ended `steps[i][0]` seconds from now, with `steps[i][1]` seconds to its deadline."""
    now = time.time()
    found = [EngineStep(now + ended, now + left if left else 0.0) for ended, left in steps]
    monkeypatch.setattr(probes, "read_steps", lambda address, seconds: found)
    monkeypatch.setattr(probes, "PUBLISHED_SECONDS", 0.0)


@pytest.mark.parametrize("model", ["gptj", "fastertransformer", "ensemble"])
@pytest.mark.parametrize("outcome", ["silence", "full queue"])
@pytest.mark.parametrize(
    ("steps", "works", "has_begun"),
    [
        ([(5, IN_TIME)], True, True),
        ([(-90, IN_TIME)], True, False),
        ([(-90, LATE)], False, False),
        ([(5, LATE)], True, True),
        ([(5, 0)], True, True),
        ([(-90, 0)], False, False),
        ([(5, IN_TIME), (-90, LATE)], False, False),
        ([(5, IN_TIME), (-90, 0)], True, True),
    ],
    ids=["busy", "a long step", "hangs", "slow", "just done", "idle", "one of two hangs", "one of two is idle"],
)
def test_steps_decide_for_models_that_use_the_engine(
    monkeypatch: pytest.MonkeyPatch, model: str, outcome: str, steps: list[tuple[float, float]], works: bool, has_begun: bool
) -> None:
    """Triton's count rises in all cases, because the request is in the queue."""
    steps_are(monkeypatch, *steps)
    assert Told(outcome).answers(model) is works
    assert Told(outcome).answers(model, is_starting=True) is has_begun


def test_without_metrics_the_request_itself_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "read_steps", lambda address, seconds: None)
    monkeypatch.setattr(probes, "PUBLISHED_SECONDS", 0.0)
    assert Told("answer").answers("gptj")
    assert not Told("silence").answers("gptj")
    assert Told("full queue").answers("gptj")
    assert not Told("failure").answers("gptj")


@pytest.mark.parametrize("model", ["gptj", "fastertransformer"])
def test_a_model_of_that_name_without_labkits_engine_may_answer_other_requests_meanwhile(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    steps_are(monkeypatch)
    assert Told("silence").answers(model)
    assert not Told("silence", rise=0).answers(model)
    assert not Told("silence").hangs(model)


@pytest.mark.parametrize("model", ["their own", "preprocessing"])
def test_other_models_may_answer_other_requests_meanwhile(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    steps_are(monkeypatch, (-90, LATE))
    assert Told("silence").answers(model)
    assert not Told("silence", rise=0).answers(model)
    assert not Told("failure").answers(model)
    assert not Told("silence").hangs(model)


def test_an_answer_needs_no_step_and_a_late_step_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    steps_are(monkeypatch, (-90, LATE))
    assert Told("answer").answers("gptj")
    assert Told("answer").hangs("gptj")
    steps_are(monkeypatch, (-90, IN_TIME), (-90, 0))
    assert not Told("silence").hangs("gptj")


def test_a_reload_has_as_much_time_as_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    made = Probes("127.0.0.1:1", load_seconds=840.0)
    monkeypatch.setattr(made._client, "unload_model", lambda model, client_timeout: None)
    monkeypatch.setattr(made._client, "load_model", lambda model, client_timeout: given.append(client_timeout))
    made.reload("gptj")
    made.load("gptj", 5.0)
    assert given == [840.0, 5.0]

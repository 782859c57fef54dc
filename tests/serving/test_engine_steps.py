"""The times in the metrics show whether an engine works, hangs or has no work."""

from __future__ import annotations

import socket
import time

import pytest

from labkit.serving.metrics import parse_metrics
from labkit.serving.server.engine_steps import EngineStep, read_steps, steps_in

pytest.importorskip("prometheus_client")

METRICS = """
# TYPE labkit_step_ended_seconds gauge
labkit_step_ended_seconds{instance="gptj_0_0"} 1780000000.25
labkit_step_ended_seconds{instance="gptj_0_1"} 0
# TYPE labkit_step_deadline_seconds gauge
labkit_step_deadline_seconds{instance="gptj_0_1"} 1780000600.5
labkit_step_deadline_seconds{instance="gptj_0_0"} 0
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="gptj",version="1"} 10
"""


def test_the_two_times_of_each_engine_are_read() -> None:
    read = parse_metrics(METRICS)
    assert steps_in(read) == [EngineStep(1780000000.25, 0.0), EngineStep(0.0, 1780000600.5)]
    assert steps_in(read - read) == steps_in(read), "a difference keeps the newer times"
    assert steps_in(parse_metrics(METRICS.split("# TYPE nv")[1].join(["# TYPE nv", ""]))) == []


def test_which_engine_hangs() -> None:
    now = time.time()
    assert EngineStep(now - 700, now - 100).hangs(now - 15)
    assert EngineStep(0.0, now - 100).hangs(now - 15), "its first step"
    assert not EngineStep(now - 700, now + 100).hangs(now - 15), "the step still has time"
    assert not EngineStep(now - 700, 0.0).hangs(now - 15), "no work"
    assert not EngineStep(now - 5, now - 1).hangs(now - 15), "a step has ended, though steps take too long for their requests"


def test_without_metrics_nothing_is_known() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert read_steps(f"127.0.0.1:{held.getsockname()[1]}", 1.0) is None
    assert read_steps("", 1.0) is None

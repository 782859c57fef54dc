"""Metrics: how their text is parsed, the differences between two readings, batch sizes, and the metrics of a real server."""

from __future__ import annotations

import socket

import pytest

from labkit.errors import (
    Cancelled,
    CheckpointError,
    DeadlinePassed,
    InvalidRequest,
    NotAvailable,
    Overloaded,
    RankFailed,
)
from labkit.serving.client import Client
from labkit.serving.metrics import Metrics, metrics_plot, parse_metrics, read_metrics
from labkit.serving.refusals import REASONS, reason_of
from labkit.serving.server import Server
from tests.docker.queries import asked_for
from tests.drawn_bars import bars

pytest.importorskip("prometheus_client")

BEFORE = """
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="gptj",version="1"} 10
nv_inference_request_success{model="ensemble",version="1"} 4
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="gptj",reason="OTHER",version="1"} 0
nv_inference_request_failure{model="gptj",reason="BACKEND",version="1"} 1
# TYPE nv_inference_count counter
nv_inference_count{model="ensemble",version="1"} 4
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="ensemble",version="1"} 4
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="ensemble",version="1"} 1000
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="ensemble",version="1"} 5000
# TYPE labkit_running gauge
labkit_running{instance="gptj_0_0"} 9
# TYPE labkit_num_slots gauge
labkit_num_slots{instance="gptj_0_0"} 100
# TYPE labkit_tokens_total counter
labkit_tokens_total{instance="gptj_0_0"} 100
# TYPE labkit_steps_total counter
labkit_steps_total{instance="gptj_0_0"} 50
# TYPE labkit_queue_seconds_total counter
labkit_queue_seconds_total{instance="gptj_0_0"} 0.5
# TYPE labkit_batch_size_bucket counter
labkit_batch_size_bucket{instance="gptj_0_0",le="1"} 20
labkit_batch_size_bucket{instance="gptj_0_0",le="2"} 40
labkit_batch_size_bucket{instance="gptj_0_0",le="4"} 50
labkit_batch_size_bucket{instance="gptj_0_0",le="+Inf"} 50
"""

AFTER = (
    BEFORE.replace('success{model="gptj",version="1"} 10', 'success{model="gptj",version="1"} 13')
    .replace('BACKEND",version="1"} 1', 'BACKEND",version="1"} 3')
    .replace('nv_inference_count{model="ensemble",version="1"} 4', 'nv_inference_count{model="ensemble",version="1"} 12')
    .replace('exec_count{model="ensemble",version="1"} 4', 'exec_count{model="ensemble",version="1"} 6')
    .replace("} 1000", "} 3000")
    .replace("labkit_running{instance=\"gptj_0_0\"} 9", "labkit_running{instance=\"gptj_0_0\"} 2")
    .replace('tokens_total{instance="gptj_0_0"} 100', 'tokens_total{instance="gptj_0_0"} 190')
    .replace('steps_total{instance="gptj_0_0"} 50', 'steps_total{instance="gptj_0_0"} 80')
    .replace('le="1"} 20', 'le="1"} 21')
    .replace('le="2"} 40', 'le="2"} 41')
    .replace('le="4"} 50', 'le="4"} 70')
    .replace('le="+Inf"} 50', 'le="+Inf"} 80')
)  # fmt: skip


def test_a_difference_counts_what_came_between_and_leaves_gauges_as_they_are() -> None:
    before, after = parse_metrics(BEFORE), parse_metrics(AFTER)
    found = after - before
    assert found.models() == ["ensemble", "gptj"]
    gptj, ensemble = found.model("gptj"), found.model("ensemble")
    assert (gptj.requests, gptj.failures, gptj.mean_batch) == (3, 2, 0.0)
    assert (ensemble.requests, ensemble.inferences, ensemble.executions, ensemble.mean_batch) == (0, 8, 2, 4.0)
    assert ensemble.seconds == {
        "queue": pytest.approx(0.002),
        "compute_input": 0,
        "compute_infer": 0,
        "compute_output": 0,
    }
    engine = found.engine()
    assert (engine.running, engine.num_slots) == (2, 100)
    assert (engine.tokens, engine.steps, engine.mean_batch, engine.queue_seconds) == (90, 30, 3.0, 0.0)
    assert found.seconds == pytest.approx(after.seconds - before.seconds)


REFUSED = """
# TYPE labkit_refused_total counter
labkit_refused_total{instance="gptj_0_0",model="gptj",reason="invalid"} 3
labkit_refused_total{instance="gptj_0_0",model="gptj",reason="deadline"} 1
labkit_refused_total{instance="gptj_0_0",model="gptj",reason="failed"} 0
labkit_refused_total{instance="preprocessing_0_0",model="preprocessing",reason="invalid"} 2
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="ensemble",reason="OTHER",version="1"} 4
"""


def test_refused_requests_are_failures_though_triton_counts_successes() -> None:
    found = parse_metrics(BEFORE.replace("# TYPE nv_inference_request_failure counter", "") + REFUSED)
    assert found.refused() == {"invalid": 5, "deadline": 1}
    assert found.refused("gptj") == {"invalid": 3, "deadline": 1}
    gptj, ensemble = found.model("gptj"), found.model("ensemble")
    assert (gptj.requests, gptj.failures) == (10 - 4, 1 + 4)
    assert (ensemble.requests, ensemble.failures) == (4, 2), "Triton counts an ensemble's failures twice"


def test_the_reason_of_each_error() -> None:
    errors = [InvalidRequest, Overloaded, DeadlinePassed, Cancelled, NotAvailable, RankFailed, CheckpointError, ValueError]
    reasons = [reason_of(error("words")) for error in errors]
    assert reasons == ["invalid", "overloaded", "deadline", "cancelled", "unavailable", "unavailable", "failed", "failed"]
    assert set(reasons) == set(REASONS)


def test_batch_sizes_are_told_apart_from_their_running_sums() -> None:
    assert parse_metrics(BEFORE).batch_sizes() == {"1": 20, "2": 20, "3-4": 10, "5+": 0}
    assert (parse_metrics(AFTER) - parse_metrics(BEFORE)).batch_sizes() == {"1": 1, "2": 0, "3-4": 19, "5+": 10}
    two = BEFORE + "\n".join(f'labkit_batch_size_bucket{{instance="gptj_0_1",le="{le}"}} 5' for le in ("1", "2", "4", "+Inf"))
    assert parse_metrics(two + "\n").batch_sizes() == {"1": 25, "2": 20, "3-4": 10, "5+": 0}
    assert Metrics({}).batch_sizes() == {}


def test_a_server_that_began_anew_counts_from_nothing() -> None:
    assert (parse_metrics(BEFORE) - parse_metrics(AFTER)).engine().tokens == 100


def test_figures_of_two_looks() -> None:
    figure = metrics_plot(parse_metrics(AFTER) - parse_metrics(BEFORE), caption="by hand")
    batches, times = figure.axes
    assert [bar.get_height() for bar in bars(batches)] == [1, 0, 19, 10]
    assert len(times.patches) == 4
    with pytest.raises(InvalidRequest, match="count nothing"):
        metrics_plot(Metrics({}))


def test_what_is_no_metrics() -> None:
    with pytest.raises(InvalidRequest, match="not the text of Prometheus metrics"):
        parse_metrics("<html>\n")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(NotAvailable, match="give the server's metrics port"):
            read_metrics(address, timeout=0.2)


def test_the_port_of_another_protocol(gptj_server: Server) -> None:
    with pytest.raises(NotAvailable, match="give the server's metrics port"):
        read_metrics(gptj_server.grpc)


def test_a_servers_own_metrics(gptj_server: Server) -> None:
    before = read_metrics(gptj_server.metrics)
    with Client(gptj_server.grpc) as client:
        for _ in range(3):
            client.generate("a b c", max_new_tokens=2)
    found = read_metrics(gptj_server.metrics) - before
    assert found.model("gptj").requests >= 3  # the watchdog sends requests too
    assert found.seconds > 0


def test_a_server_exports_every_metric_that_is_asked_for(gptj_server: Server) -> None:
    exported = {name for name, _ in read_metrics(gptj_server.metrics).values}
    asked = {name.removesuffix("_total") for name in asked_for()}
    assert asked - {"labkit_refused"} <= exported  # this counter appears with the first refusal
    assert "labkit_tokens" in asked

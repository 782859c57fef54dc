"""The load generator's figures are compared with figures computed by hand, and the generator runs against a real server."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest, NotAvailable
from labkit.measure import Contention
from labkit.measure.disturbed import COMMAND_AGAIN, disturbed_note
from labkit.serving.server import Server
from labkit.serving.stress import (
    Lengths,
    RequestTimes,
    StressRecord,
    StressRun,
    StressSettings,
    other_programs,
    percentiles,
    run_stress,
    summarise,
)
from labkit.serving.stress.arrivals import poisson_arrivals
from labkit.serving.stress.other_programs import OtherPrograms
from labkit.serving.stress.plots import running_batch, throughput_plot, timeline_plot
from labkit.serving.stress.prompts import Prompts
from labkit.serving.stress.record import about_served
from labkit.serving.stress.summary import fell_behind, named
from tests.patience import PATIENCE


def request(number: int, due: float, sent: float, pieces: list[float], **more: Any) -> RequestTimes:
    return RequestTimes(number, due, sent, pieces, 10, len(pieces), ended=pieces[-1] if pieces else sent, **more)


def made_run() -> StressRun:
    """A run of six requests, in which the warm-up ends at 1 s and the counting ends at 3 s.

    Two requests are good, one begins slowly, one has slow tokens, one is refused, and one belongs to the warm-up.
    """
    settings = StressSettings(users=2, seconds=2, warmup=1, ttft_limit=0.2, itl_limit=0.05)
    return StressRun(
        settings,
        [
            request(0, 0.5, 0.5, [0.6, 1.5]),
            request(1, 1.0, 1.0, [1.1, 1.12, 1.16], queue_seconds=0.05),
            request(2, 1.5, 1.6, [1.7]),
            request(3, 2.0, 2.0, [2.5, 2.51]),
            request(4, 2.9, 2.9, [3.0, 3.5]),
            request(5, 2.0, 2.0, [], error="Overloaded", words="20 requests"),
        ],
    )


def test_percentiles_are_interpolated() -> None:
    found = percentiles([4, 1, 3, 2], scale=1)
    assert (found["p50"], found["mean"], found["max"], found["count"]) == (2.5, 2.5, 4, 4)
    assert found["p95"] == pytest.approx(3.85)
    assert found["p99"] == pytest.approx(3.97)
    assert percentiles([0.002])["p99"] == 2
    assert percentiles(list(range(101)), scale=1)["p99"] == 99
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None, "mean": None, "max": None, "count": 0}


def test_a_run_adds_up() -> None:
    row = summarise(made_run())
    assert (row["load"], row["requests"], row["answered"]) == ("2 users", 5, 4)
    assert row["errors"] == {"Overloaded": 1}
    assert row["error_words"] == {"Overloaded": "20 requests"}
    assert row["ttft_ms"]["p50"] == pytest.approx(150)  # 100, 200, 500, 100: each time counts from the request's planned time
    assert row["itl_ms"]["count"] == 4
    assert row["itl_ms"]["max"] == pytest.approx(500)
    assert row["e2e_ms"]["max"] == pytest.approx(600)
    assert row["tokens_per_second"] == (1 + 3 + 1 + 2) / 2  # all tokens that arrive while requests are counted
    assert row["requests_per_second"] == 4 / 2  # the request of the warm-up counts, because it ended after the warm-up
    assert row["goodput"] == 2 / 2
    assert row["good_share"] == 2 / 5
    assert row["queue_ms"]["max"] == pytest.approx(50)


def test_what_is_good_keeps_both_limits() -> None:
    one = request(0, 1.0, 1.0, [1.2, 1.21, 1.3])
    assert one.is_good(0.21, 0.051)
    assert not one.is_good(0.19, 0.051)
    assert not one.is_good(0.21, 0.049)
    assert request(0, 1.0, 1.1, [1.2]).is_good(0.21, 0.0)
    assert not request(0, 1.0, 1.0, [1.1], error="NotAvailable").is_good(1, 1)
    assert not request(0, 1.0, 1.0, []).is_good(1, 1)


def test_a_generator_that_is_late_says_so_and_flatters_nobody() -> None:
    settings = StressSettings(rate=50, seconds=2, warmup=0)
    due = [number / 50 for number in range(100)]
    in_time = StressRun(settings, [request(n, at, at + 0.001, [at + 0.01]) for n, at in enumerate(due)], [0.001] * 100)
    assert summarise(in_time)["fell_behind"] == ""
    late = StressRun(settings, [request(n, at, 2 * at, [2 * at + 0.01]) for n, at in enumerate(due)], [0.001] * 100)
    row = summarise(late)
    assert row["fell_behind"].startswith("the load generator itself was 1960 ms late with its requests (99th percentile)")
    assert row["ttft_ms"]["p50"] == pytest.approx(1000, abs=15)  # not 10: each time counts from the request's planned time
    assert row["lag_ms"]["max"] == pytest.approx(1980)
    deaf = StressRun(settings, in_time.requests, [0.001] * 95 + [0.3] * 5)
    assert "300 ms late in noting tokens" in fell_behind(deaf)


# Other programs ---------------------------------------------------------------------------------------------------------
def test_a_run_that_was_disturbed_says_so_in_its_row_in_figures_and_captions() -> None:
    quiet, busy = made_run(), made_run()
    busy.disturbed = "another program ran"
    record = StressRecord.of([quiet, busy], ABOUT)
    assert [(row["disturbed"], row["not_watched"]) for row in record.rows] == [("", ""), ("another program ran", "")]
    assert [named(row) for row in record.rows] == ["2 users", "2 users !"]
    note = disturbed_note(["another program ran"], COMMAND_AGAIN)
    assert note in record.caption()
    assert note in record.caption(1)
    assert "disturbed" not in record.caption(0)
    (axes,) = throughput_plot(record).axes
    assert [text.get_text() for text in axes.texts] == ["2 users", "2 users !"]
    assert timeline_plot(record, 1).get_suptitle().endswith("2 users !")
    assert not timeline_plot(record, 0).get_suptitle().endswith("!")
    for row in record.rows:
        del row["disturbed"]  # as in a record of an older labkit
    assert "disturbed" not in record.caption()
    assert named(record.rows[1]) == "2 users"


LISTENS = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    input()
"""


def test_a_server_on_this_machine_is_not_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[tuple[int, ...]] = []
    monkeypatch.setattr(other_programs, "Contention", lambda *roots: watched.append(roots) or Contention(*roots))
    with subprocess.Popen([sys.executable, "-c", LISTENS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        with OtherPrograms(address) as others:
            pass
        assert watched == [(os.getpid(), server.pid)]
        assert others.not_watched == ""
        with OtherPrograms(address) as others:
            server.communicate("\n")
    assert others.not_watched == "not measured here: the process of the server ended during the load"
    with OtherPrograms(address) as others:
        pass
    assert others.not_watched == f"not measured here: the process of the server at {address} cannot be seen"
    assert others.disturbed == ""


def test_of_a_server_elsewhere_only_this_machine_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contention, "so_far", lambda *_: "another program ran")
    with OtherPrograms("192.0.2.1:8001") as others:
        pass
    assert (others.disturbed, others.not_watched) == ("another program ran", "")


def test_poisson_arrivals() -> None:
    moments = poisson_arrivals(50, 200, seed=1)
    assert moments == poisson_arrivals(50, 200, seed=1) != poisson_arrivals(50, 200, seed=2)
    assert moments == sorted(moments)
    assert 0 < moments[0] < moments[-1] < 200
    assert abs(len(moments) - 10_000) < 4 * math.sqrt(10_000)
    gaps = [after - before for before, after in pairwise(moments)]
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)  # for an exponential distribution, equal to the mean
    a_second = [sum(second <= moment < second + 1 for moment in moments) for second in range(200)]
    assert statistics.variance(a_second) == pytest.approx(50, rel=0.35)  # for a Poisson distribution, equal to the mean
    assert poisson_arrivals(0.001, 1, seed=0) == []


@pytest.mark.parametrize("shape", ["lognormal", "uniform"])
def test_lengths_keep_their_bounds(shape: str) -> None:
    lengths, source = Lengths(8, 128, shape), random.Random(0)
    drawn = [lengths.draw(source) for _ in range(4000)]
    assert (min(drawn), max(drawn)) == (8, 128)
    middle = {"lognormal": 32, "uniform": 68}[shape]
    assert statistics.median(drawn) == pytest.approx(middle, rel=0.08)
    assert Lengths(5, 5, shape).draw(source) == 5


def test_lengths_as_text() -> None:
    assert Lengths.parse("16") == Lengths(16, 16)
    assert Lengths.parse("8-64", "uniform") == Lengths(8, 64, "uniform")
    for text, words in [("8-", ""), ("many", "one or two whole numbers"), ("9-3", "1 <= lowest"), ("0", "1 <= lowest")]:
        if words:
            with pytest.raises(InvalidRequest, match=words):
                Lengths.parse(text)
        else:
            assert Lengths.parse(text) == Lengths(8, 8)
    with pytest.raises(InvalidRequest, match="lognormal or uniform is accepted"):
        Lengths(1, 2, "normal")


def test_prompts_are_never_equal_and_as_long_as_asked() -> None:
    prompts = Prompts(Lengths(4, 16), seed=3)
    found = [prompts.next() for _ in range(500)]
    assert len(set(found)) == 500
    again = Prompts(Lengths(4, 16), seed=3)
    assert found == [again.next() for _ in range(500)]
    ids = Prompts(Lengths(4, 16, "uniform"), as_token_ids=True)
    assert {len(ids.next()) for _ in range(300)} == set(range(4, 17))
    with pytest.raises(InvalidRequest, match="the longest prompt needs"):
        Prompts(Lengths(1, 10**7))
    few = Prompts(Lengths(1, 1), as_token_ids=True)
    with pytest.raises(InvalidRequest, match=r"different prompts of 1 to 1 tokens; ask for longer prompts"):
        [few.next() for _ in range(100_000)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "users is None and rate None; give exactly one of them"),
        ({"users": 1, "rate": 2.0}, "users is 1 and rate 2.0; give exactly one of them"),
        ({"users": 0}, "users is 0; 1 or more is accepted"),
        ({"rate": -1.0}, "rate is -1.0; 0.001 or more is accepted"),
        ({"users": 1, "seconds": float("nan")}, "seconds is nan"),
        ({"users": 1, "warmup": -1.0}, "warmup is -1.0"),
    ],
)
def test_loads_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match="^" + words):
        StressSettings(**given)


def test_the_running_batch_is_counted() -> None:
    moments, sizes = running_batch([request(0, 0, 0, [1, 2, 3]), request(1, 0, 0, [2.5, 4]), request(2, 0, 0, [5])])
    assert (moments, sizes) == ([1, 2.5, 3, 4, 5, 5], [1, 2, 1, 0, 1, 0])


ABOUT = {"server": "triton", "version": "2.51.0", "served": "gptj-tiny", "device": "cpu", "dtype": "fp32", "parameters": {}}


def test_a_record_is_kept_read_back_and_drawn(tmp_path: Path) -> None:
    record = StressRecord.of([made_run(), made_run()], ABOUT)
    assert record.kind == "stress"
    assert (record.settings["served"], record.settings["device"], record.settings["dtype"]) == ("gptj-tiny", "cpu", "fp32")
    read = StressRecord.load(record.save(tmp_path / "stress.json"))
    assert read.to_dict() == record.to_dict()
    assert read.requests(0) == made_run().requests
    (axes,) = throughput_plot(read).axes
    assert [line.get_label() for line in axes.lines] == ["p99", "p50"]
    bars, batch = timeline_plot(read).axes
    assert len(bars.patches) == 3 * 4  # waiting, prefill and decode of the four requests with counted tokens
    assert batch.lines
    nothing = StressRecord.of([StressRun(StressSettings(users=1))], ABOUT)
    for draw in (throughput_plot, timeline_plot):
        with pytest.raises(InvalidRequest, match="no "):
            draw(nothing)


SHORT: dict[str, Any] = {"seconds": 1.5, "warmup": 0.5, "prompt_tokens": Lengths(4, 16), "new_tokens": Lengths(4, 16)}


@pytest.mark.parametrize("load", [{"users": 4}, {"rate": 8.0}])
def test_a_load_on_a_server(gptj_server: Server, load: dict[str, Any]) -> None:
    said: list[str] = []
    settings = StressSettings(**load, **SHORT, seed=5)
    run = run_stress(gptj_server.grpc, settings, progress=said.append)
    row = summarise(run)
    assert row["answered"] == row["requests"] > 0, row["error_words"]
    assert row["errors"] == {}
    assert all(4 <= one.prompt_tokens <= 24 and 4 <= one.tokens == len(one.pieces) <= 16 for one in run.counted)
    assert all(one.due <= one.sent <= one.pieces[0] <= one.pieces[-1] <= one.ended for one in run.requests)
    assert all(0 <= one.queue_seconds <= one.ttft for one in run.counted)
    assert row["tokens_per_second"] > 0
    assert said
    if "rate" in load:
        assert [one.due for one in run.requests] == poisson_arrivals(8.0, 2.0, 5)
    record = StressRecord.of([run], about_served(gptj_server.grpc))
    assert record.settings["served"] == "gptj-tiny"
    assert record.extra["server"]["server"] == "triton"
    timeline_plot(record)


def test_a_load_within_a_notebooks_event_loop(gptj_server: Server) -> None:
    async def cell() -> StressRun:
        return run_stress(gptj_server.grpc, StressSettings(users=1, seconds=0.3, warmup=0, new_tokens=Lengths(2, 2)))

    assert asyncio.run(cell()).requests


@pytest.mark.parametrize("load", [{"users": 2}, {"rate": 50.0}])
def test_too_few_prompts_are_one_error(gptj_server: Server, load: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.serving.stress.prompts._TRIES", 1)
    settings = StressSettings(**load, seconds=30, warmup=0, prompt_tokens=Lengths(1, 1), new_tokens=Lengths(1, 1))
    with pytest.raises(InvalidRequest, match="different prompts of 1 to 1 tokens; ask for longer prompts"):
        run_stress(gptj_server.grpc, settings)


def test_what_a_server_refuses_is_counted_by_kind(gptj_server: Server) -> None:
    # The server runs 16 requests and lets 4 wait. Even on a busy machine, the first must not end before the 21st has arrived.
    lengths: dict[str, Any] = {"prompt_tokens": Lengths(4, 8), "new_tokens": Lengths(400, 400)}
    row = summarise(run_stress(gptj_server.grpc, StressSettings(users=60, seconds=0.5, warmup=0, **lengths)))
    assert set(row["errors"]) == {"Overloaded"}, (row["answered"], row["errors"], row["error_words"])
    assert "which is the limit" in row["error_words"]["Overloaded"]
    assert row["answered"] + row["errors"]["Overloaded"] == row["requests"]


def test_no_server_is_no_load() -> None:
    pytest.importorskip("tritonclient.grpc")
    with pytest.raises(NotAvailable, match=r"no server answers at 127\.0\.0\.1:1 "):
        run_stress("127.0.0.1:1", StressSettings(users=1))
    with pytest.raises(NotAvailable, match=r"127\.0\.0\.1:1 does not describe its model gptj"):
        about_served("127.0.0.1:1")


@pytest.mark.alone
def test_perf_analyzer_finds_the_same(gptj_server: Server, tmp_path: Path) -> None:
    """NVIDIA's load generator measures a similar number of requests per second, with the same prompt lengths and four users.

    On an idle machine, the two numbers are within a tenth of each other.
    """
    program = shutil.which("perf_analyzer")
    if program is None:
        pytest.skip("not measured here: no perf_analyzer")
    prompts = Prompts(Lengths(16, 16), seed=9, as_token_ids=True)
    rows = [
        {
            "input_ids": {"content": list(prompts.next()), "shape": [16]},
            **{"stream": [True], "max_new_tokens": [32], "ignore_eos": [True]},
        }
        for _ in range(2000)
    ]
    data, report = tmp_path / "data.json", tmp_path / "report.csv"
    data.write_text(json.dumps({"data": rows}))
    command = [program, "-m", "gptj", "-u", gptj_server.grpc, "-i", "grpc", "--async", "--streaming"]
    command += ["--concurrency-range", "4", "--input-data", str(data), "--measurement-interval", "5000", "-f", str(report)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    names, values = (line.split(",") for line in report.read_text().splitlines()[:2])
    theirs = float(values[names.index("Inferences/Second")])
    settings = StressSettings(
        users=4, seconds=5, prompt_tokens=Lengths(16, 16), new_tokens=Lengths(32, 32), as_token_ids=True, seed=10
    )
    assert summarise(run_stress(gptj_server.grpc, settings))["requests_per_second"] == pytest.approx(theirs, rel=0.5)

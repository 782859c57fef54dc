"""A real Prometheus with the configuration of `docker/` reads a real server, and the queries of the dashboard return data.

The program is in Debian's package `prometheus`. The address of the server differs from the address in `docker/compose.yaml`.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import pytest

from labkit.errors import Overloaded
from labkit.serving.channels import open_url
from labkit.serving.client import Client
from labkit.serving.metrics import read_metrics
from labkit.serving.server import Server
from tests.docker.queries import QUERIES, ROOT, rules_of_the_adapter
from tests.patience import end_or_kill, wait_for
from tests.serving.conftest import free_ports

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="not measured here: no prometheus (Debian's package)")

COMPOSE_TARGET = "server:8002"
USERS = 30  # the server runs 16 requests at a time and lets 4 wait, so some are refused
NOT_ZERO = ("Tokens a second", "Time between tokens", "Cache use", "Sequences in a step", "Refused requests a second")
"""Panels that must show more than 0 while requests run."""


class Prometheus:
    """A running Prometheus: `ask` runs a query."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON of an answer, or None while Prometheus does not answer."""
        try:
            with open_url(f"{self.address}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    def ask(self, query: str) -> list[float]:
        """Run a query. Return the values of its result, one for each set of labels."""
        answer = self.get("/api/v1/query", query=query)
        assert answer is not None, f"Prometheus refused {query!r}, or does not answer"
        return [float(series["value"][1]) for series in answer["data"]["result"]]


@pytest.fixture(scope="module")
def prometheus(gptj_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that reads the metrics of the server of gptj."""
    folder = tmp_path_factory.mktemp("prometheus")
    shipped = (ROOT / "docker" / "prometheus.yml").read_text("utf-8")
    assert shipped.count(COMPOSE_TARGET) == 1
    (folder / "prometheus.yml").write_text(shipped.replace(COMPOSE_TARGET, gptj_server.metrics))
    (port,) = free_ports(1)
    files = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    log = folder / "log"
    with log.open("wb") as file:
        command = ["prometheus", *files, f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        found = Prometheus(port)
        wait_for(lambda: process.poll() is not None or found.get("/api/v1/status/buildinfo"), "an answer of Prometheus")
        assert process.poll() is None, log.read_text()
        yield found
    finally:
        process.terminate()
        end_or_kill(process)


@dataclass
class Asked:
    """The numbers of answers, tokens and refusals that users got from the server."""

    answers: int = 0
    tokens: int = 0
    refused: int = 0


def one_user(address: str, ended: threading.Event) -> Asked:
    """Ask the server for texts until `ended` is set. Return the numbers of answers, tokens and refusals."""
    found = Asked()
    with Client(address) as client:
        while not ended.is_set():
            try:
                found.tokens += client.generate("In the beginning", max_new_tokens=20).completion_tokens
                found.answers += 1
            except Overloaded:
                found.refused += 1
    return found


def totals(prometheus: Prometheus) -> dict[str, float]:
    """The sums of the engine's counters that Prometheus has read."""
    return {name: sum(prometheus.ask(f"labkit_{name}_total")) for name in ("requests", "tokens", "steps", "refused")}


def finite(values: list[float]) -> bool:
    """Whether there is at least one value, and no value is NaN."""
    return bool(values) and all(map(math.isfinite, values))


def shown(prometheus: Prometheus) -> dict[str, list[list[float]]]:
    """The values that each panel shows now, for each of its queries."""
    return {title: [prometheus.ask(query) for query in queries] for title, queries in QUERIES.items()}


def totals_of(server: Server) -> dict[str, float]:
    """The sums of the engine's counters, read from the server itself."""
    found = read_metrics(server.metrics)
    return {name: found.total(f"labkit_{name}_total") for name in ("requests", "tokens", "steps", "refused")}


def in_step(prometheus: Prometheus, server: Server) -> dict[str, float] | None:
    """The sums that Prometheus has read if they equal the server's sums, otherwise None."""
    found = totals(prometheus)
    return found if prometheus.ask("labkit_steps_total") and found == totals_of(server) else None


def complete(panels: dict[str, list[list[float]]]) -> bool:
    """Whether every query of every panel has a number, and the numbers that must be positive are positive."""
    has_data = all(finite(values) for queries in panels.values() for values in queries)
    return has_data and all(max(panels[title][0]) > 0 for title in NOT_ZERO)


@dataclass
class Busy:
    """What Prometheus has read from a server to which more users sent requests than it admits.

    panels: the values of each query of each panel during the load. before, after: the counters before and after the load.
    asked: the numbers of answers, tokens and refusals of all users together.
    """

    panels: dict[str, list[list[float]]]
    before: dict[str, float]
    after: dict[str, float]
    asked: Asked


@pytest.fixture(scope="module")
def busy(prometheus: Prometheus, gptj_server: Server) -> Busy:
    """Let users send requests until all panels have numbers, then wait until Prometheus has read the last counts."""
    ended = threading.Event()
    panels: dict[str, list[list[float]]] = {}
    before = wait_for(lambda: in_step(prometheus, gptj_server), "the first reading of the counters")

    def look() -> bool:
        for user in users:
            assert not user.done(), f"a user ended early: {user.exception()!r}"
        panels.update(shown(prometheus))
        return complete(panels)

    with ThreadPoolExecutor(USERS) as pool:
        users = [pool.submit(one_user, gptj_server.grpc, ended) for _ in range(USERS)]
        try:
            wait_for(look, "numbers in all panels")
        except AssertionError as error:
            raise AssertionError(f"{error}; the panels show {panels}") from None
        finally:
            ended.set()
        got = [user.result() for user in users]
    asked = Asked(*(sum(getattr(one, part.name) for one in got) for part in fields(Asked)))

    def all_read() -> dict[str, float] | None:
        found = in_step(prometheus, gptj_server)
        return found if found and found["tokens"] - before["tokens"] >= asked.tokens else None

    return Busy(panels, before, wait_for(all_read, f"counters of {asked}, since {before}"), asked)


def test_prometheus_reads_the_server(prometheus: Prometheus, busy: Busy) -> None:
    (target,) = prometheus.get("/api/v1/targets")["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.ask('up{job="labkit"}') == [1.0]


def test_every_query_of_the_dashboard_returns_data(busy: Busy) -> None:
    assert set(busy.panels) == set(QUERIES)
    assert complete(busy.panels), busy.panels


def test_the_gauges_keep_to_the_servers_settings(busy: Busy) -> None:
    """At most 16 sequences run, at most 4 wait, and slots are either free or in use.

    Rates are not compared, because two counters are read at different times.
    """
    assert 0 <= busy.panels["Cache use"][0][0] <= 1
    assert 0 <= busy.panels["Sequences"][0][0] <= 16
    assert 0 <= busy.panels["Sequences"][1][0] <= 4


def test_the_counters_count_what_the_users_got(busy: Busy) -> None:
    new = {name: busy.after[name] - busy.before[name] for name in busy.after}
    assert new["requests"] == busy.asked.answers > 0
    assert new["tokens"] == busy.asked.tokens == 20 * busy.asked.answers
    assert new["refused"] >= busy.asked.refused > 0, "a client asks again before it gives up"
    assert new["tokens"] / 16 <= new["steps"] <= new["tokens"]


def test_the_autoscalers_query_returns_data(prometheus: Prometheus, busy: Busy) -> None:
    for rule in rules_of_the_adapter():
        assert prometheus.ask(rule["seriesQuery"]), "the adapter finds no such series"
        assert finite(prometheus.ask(rule["metricsQuery"]))


def test_a_name_that_the_server_does_not_have_is_found(prometheus: Prometheus, busy: Busy) -> None:
    assert not finite(prometheus.ask("sum(rate(labkit_imagined_total[1m]))"))

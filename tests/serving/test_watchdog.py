"""Tests of when the watchdog reloads a model. The watchdog's two threads run together, without a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from labkit.serving.server.watchdog import Watchdog
from tests.patience import wait_for


class Probes:
    """A fake server that answers as the test sets it. After a model is reloaded, it answers and has a process."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.silent: set[str] = set()
        self.gone: set[str] = set()
        self.live, self.loaded = True, True
        self.reloaded: list[str] = []
        self.killed: list[str] = []
        self.hanging: set[str] = set()
        self.waiting = 0
        self._seconds = seconds

    def is_live(self) -> bool:
        return self.live

    def is_loaded(self, model: str) -> bool:
        return self.loaded

    def answers(self, model: str) -> bool:
        return model not in self.silent

    def hangs(self, model: str) -> bool:
        return model in self.hanging

    def needs(self, model: str) -> list[str]:
        return ["engine"] if model == "front" else []

    def reload(self, model: str) -> None:
        time.sleep(self._seconds)
        self.reloaded.append(model)
        if model == "engine":
            self.silent.clear()
        self.silent.discard(model)
        self.gone.discard(model)

    # The methods that `ModelProcesses` has.
    def have_ended(self, model: str) -> bool:
        return model in self.gone

    def note(self, model: str) -> None:
        """Do nothing."""

    def kill_stopped(self, model: str, seconds: float = 2.0) -> None:
        if not seconds:
            self.killed.append(model)

    def kill(self, model: str) -> None:
        self.hanging.discard(model)
        self.killed.append(f"the hanging {model}")

    def waiting_for_ended(self, model: str) -> int:
        return self.waiting

    def in_flight(self) -> int:
        return self.waiting


def watchdog(
    probes: Probes, models: list[str], look_seconds: float, restart_server: Callable[[str], None] | None = None
) -> Watchdog:
    double: Any = probes
    return Watchdog(double, models, double, look_seconds, restart_server)


def test_a_model_without_a_process_is_mended_without_being_asked() -> None:
    probes = Probes()
    dog = watchdog(probes, ["engine"], look_seconds=1000)
    probes.silent.add("engine")
    probes.gone.add("engine")
    wait_for(lambda: dog.repairs, "a repair")
    dog.stop()
    assert probes.reloaded == ["engine"]


def test_it_waits_for_the_server_and_leaves_alone_what_was_unloaded() -> None:
    probes = Probes()
    probes.live, probes.loaded = False, False
    probes.gone.add("engine")
    dog = watchdog(probes, ["engine"], look_seconds=1000)
    time.sleep(0.5)
    probes.live = True
    time.sleep(0.5)
    assert not probes.reloaded
    probes.loaded = True
    wait_for(lambda: dog.repairs, "a repair")
    dog.stop()
    assert probes.reloaded == ["engine"]


def test_both_threads_see_it_and_one_mends_it() -> None:
    for _ in range(5):
        probes = Probes(seconds=0.3)
        probes.silent |= {"engine", "front"}
        probes.gone.add("engine")
        dog = watchdog(probes, ["front", "engine"], look_seconds=0.02)
        wait_for(lambda: dog.repairs, "a repair")  # noqa: B023
        time.sleep(0.2)
        dog.stop()
        assert probes.reloaded == ["engine"], "what needs it answers then too"


def test_stopped_it_mends_nothing_more() -> None:
    probes = Probes()
    dog = watchdog(probes, ["engine"], look_seconds=0.02)
    dog.stop()
    assert not any(thread.is_alive() for thread in dog._threads)
    probes.silent.add("engine")
    probes.gone.add("engine")
    time.sleep(0.4)
    assert not probes.reloaded


def test_where_requests_would_be_lost_the_server_begins_anew_and_it_rests_until_then() -> None:
    probes, told = Probes(), []
    probes.waiting = 6
    probes.gone.add("engine")
    dog = watchdog(probes, ["engine"], look_seconds=0.02, restart_server=told.append)
    wait_for(lambda: told, "the server to be restarted")
    probes.silent.add("engine")
    time.sleep(0.5)
    assert told == ["the process of engine ended while it had 6 requests, which Triton would never answer"]
    assert probes.killed == ["engine"], "one that is stopped does not come back"
    assert not probes.reloaded, "while the server is started nobody loads models"
    after: Any = Probes()
    dog.resume(after)
    wait_for(lambda: dog.repairs, "a repair")  # the model that does not answer the probes is repaired
    dog.stop()
    assert probes.reloaded == ["engine"]


def test_the_process_of_an_engine_that_hangs_is_killed_and_the_server_begins_anew() -> None:
    probes, told = Probes(), []
    probes.waiting = 1
    probes.hanging.add("engine")
    dog = watchdog(probes, ["front"], look_seconds=0.02, restart_server=told.append)
    time.sleep(0.3)
    assert not probes.killed, "it answers"
    probes.silent |= {"front", "engine"}
    wait_for(lambda: told, "the server to be restarted")
    dog.stop()
    assert probes.killed == ["engine", "the hanging engine"]
    assert not probes.reloaded
    words = "a step of engine's engine did not end, so its process was killed while it had a request, which Triton"
    assert told == [f"{words} would never answer"]


def test_after_some_repairs_a_server_without_requests_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.serving.server.watchdog.FEW_REPAIRS", 2)
    monkeypatch.setattr("labkit.serving.server.watchdog.MANY_REPAIRS", 4)
    probes, told = Probes(), []
    dog = watchdog(probes, ["engine"], look_seconds=1000, restart_server=told.append)

    def repair(times: int) -> None:
        for _ in range(times):
            before = len(dog.repairs)
            probes.gone.add("engine")
            wait_for(lambda: len(dog.repairs) > before, "a repair")  # noqa: B023

    repair(1)
    probes.waiting = 1
    monkeypatch.setattr(probes, "waiting_for_ended", lambda model: 0)
    repair(1)
    time.sleep(0.5)
    assert not told, "there are requests"
    probes.waiting = 0
    wait_for(lambda: told, "the server to begin anew")
    probes.waiting = 1
    again: Any = probes
    dog.resume(again)
    repair(3)
    time.sleep(0.5)
    assert len(told) == 1
    repair(1)
    wait_for(lambda: len(told) == 2, "the server to begin anew")
    dog.stop()
    assert told[1] == "its models were reloaded 4 times, which left unused threads and memory in the server"

"""The operator's first hour: `docs/operator.md`."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from labkit.serving.server.install import find_server
from tests.first_hour.conftest import Course
from tests.first_hour.machine import NO_NETWORK_OF_ITS_OWN, Machine, end, loopback_alone
from tests.first_hour.pages import ROOT, block
from tests.patience import wait_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_server() is None, reason="not measured here: no Triton Inference Server"),
]

PAGE = "docs/operator.md"
TEXT = (ROOT / PAGE).read_text("utf-8")
SERVE, CURL = block(PAGE, "labkit serve").splitlines()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A folder with spaces in its name and the environment of the tests, on a network with free ports.

    The shared copy of the course is not used, because the server cannot read its folder.
    """
    folder, home = tmp_path_factory.mktemp("operator") / "a folder with spaces", tmp_path_factory.mktemp("home")
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    with loopback_alone() as before:
        if not before:
            pytest.skip(NO_NETWORK_OF_ITS_OWN)
        yield Machine(folder, home, before)


def test_a_folder_that_the_server_cannot_read_is_named(course: Course) -> None:
    said = course.machine.run(SERVE, status=1)
    assert "Traceback" not in said
    assert re.search(
        r"^labkit: Triton Inference Server cannot read .*Kurs für Łukasz.* outside ASCII; move", said, re.MULTILINE
    )


@pytest.fixture(scope="module")
def served(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The output of `labkit serve` up to the line that says that it is ready."""
    log = tmp_path_factory.mktemp("serve") / "log"
    process = machine.start(SERVE, log)
    try:
        wait_for(lambda: process.poll() is not None or "ready: HTTP" in log.read_text(), "the addresses of `labkit serve`")
        assert process.poll() is None, log.read_text()
        yield log.read_text()
    finally:
        end(process, signal.SIGINT)  # Ctrl-C


def test_curl_gets_text(machine: Machine, served: str) -> None:
    answer = json.loads(machine.run(CURL.replace("curl", "curl -s")))
    assert len(answer["text_output"].split()) > 10, answer


def test_it_prints_its_addresses(served: str) -> None:
    assert all(f"127.0.0.1:{port}" in served for port in (8000, 8001, 8002)), served


def test_the_command_for_load_runs(machine: Machine, served: str) -> None:
    (line,) = re.findall(r"`(labkit stress [^`]*)`", TEXT)
    said = machine.run(f".venv/bin/{line} --seconds 2")
    table = said.partition("good/s")[2]
    assert re.findall(r"^ *(\d+) users? .*\d+/\d+ ", table, re.MULTILINE) == ["1", "4", "16"], said


def test_the_server_has_every_counter_of_the_table(machine: Machine, served: str) -> None:
    named = re.findall(r"labkit_\w+", TEXT.split("| counter |")[1].split("\n\n")[0])
    assert len(named) == 10
    machine.run(f"{CURL.replace('curl', 'curl -s').replace('40', '-1')}")  # a request that is refused
    wanted = set(named)

    def missing() -> set[str]:
        return wanted - set(re.findall(r"^(\w+)\{", machine.run("curl -s 127.0.0.1:8002/metrics"), re.MULTILINE))

    wait_for(lambda: not missing(), f"the counters of the page: {missing()}")


def test_a_second_server_says_that_the_ports_are_busy(machine: Machine, served: str) -> None:
    said = machine.run(SERVE, status=2)
    assert "Traceback" not in said
    assert re.search(r"^labkit: .*port 8000", said, re.MULTILINE), said

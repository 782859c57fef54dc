"""The operator's first hour: `docs/operator.md`."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest

from labkit.serving.server.install import find_server
from tests.first_hour.conftest import Course
from tests.first_hour.machine import end
from tests.first_hour.pages import ROOT, block
from tests.patience import wait_for

pytestmark = pytest.mark.skipif(find_server() is None, reason="not measured here: no Triton Inference Server")

PAGE = "docs/operator.md"
TEXT = (ROOT / PAGE).read_text("utf-8")
SERVE, CURL = block(PAGE, "labkit serve").splitlines()


@pytest.fixture(scope="module")
def served(course: Course, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `labkit serve` has said, when it serves."""
    log = tmp_path_factory.mktemp("serve") / "log"
    process = course.machine.start(SERVE, log)
    try:
        wait_for(lambda: process.poll() is not None or "ready: HTTP" in log.read_text(), "the addresses of `labkit serve`")
        assert process.poll() is None, log.read_text()
        yield log.read_text()
    finally:
        end(process, signal.SIGINT)  # Ctrl-C


def test_curl_gets_text(course: Course, served: str) -> None:
    answer = json.loads(course.machine.run(CURL.replace("curl", "curl -s")))
    assert len(answer["text_output"].split()) > 10, answer


def test_it_prints_its_addresses(served: str) -> None:
    assert all(f"127.0.0.1:{port}" in served for port in (8000, 8001, 8002)), served


def test_the_command_for_load_runs(course: Course, served: str) -> None:
    (line,) = re.findall(r"`(labkit stress [^`]*)`", TEXT)
    said = course.machine.run(f".venv/bin/{line} --seconds 2")
    assert "good/s" in said
    assert len(re.findall(r"^ *(?:1|4|16) user", said, re.MULTILINE)) == 3, said


def test_the_server_has_every_counter_of_the_table(course: Course, served: str) -> None:
    named = re.findall(r"labkit_\w+", TEXT.split("| counter |")[1].split("\n\n")[0])
    assert len(named) == 8
    course.machine.run(f"{CURL.replace('curl', 'curl -s').replace('40', '-1')}")  # a request that is refused
    wanted = set(named)

    def missing() -> set[str]:
        return wanted - set(re.findall(r"^(\w+)\{", course.machine.run("curl -s 127.0.0.1:8002/metrics"), re.MULTILINE))

    wait_for(lambda: not missing(), f"the counters of the page: {missing()}")


def test_a_second_server_says_that_the_ports_are_busy(course: Course, served: str) -> None:
    said = course.machine.run(SERVE, status=2)
    assert "Traceback" not in said
    assert re.search(r"^labkit: .*port 8000", said, re.MULTILINE), said

"""How the tests are run: which tests share a process, which run only in `make test-all`, and what the summary says."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from tests.conftest import STANDS_FOR, TOGETHER, scope_of, skipped_lines
from tests.patience import if_alive, is_running, wait_for
from tests.sampled import one_in


def test_files_that_share_a_server_share_a_process() -> None:
    live = {scope_of(f"tests/serving/live/test_{name}.py::test_it[1]") for name in ("life", "ends")}
    assert live == {TOGETHER["tests/serving/live/"]}
    assert scope_of("tests/test_config.py::test_it") == "tests/test_config.py"
    assert scope_of("tests/labs/test_notebooks.py::test_it[00]") == "tests/labs/test_notebooks.py::test_it[00]"


def test_the_first_of_every_few_is_not_long() -> None:
    cases = one_in(3, [1, 2, (3, "c"), 4])
    assert (cases[0], cases[3]) == (1, 4)
    assert [case.values for case in cases[1:3]] == [(2,), (3, "c")]
    assert {mark.name for case in cases[1:3] for mark in case.marks} == {"long"}


def test_what_was_not_measured_is_said_once_a_file_and_reason() -> None:
    def skipped(nodeid: str, reason: str, **properties: int) -> SimpleNamespace:
        return SimpleNamespace(nodeid=nodeid, longrepr=("", 1, f"Skipped: {reason}"), user_properties=list(properties.items()))

    reports = [skipped(f"a.py::test[{number}]", "no nm") for number in range(4)]
    reports += [skipped("a.py::other", "no GPU"), SimpleNamespace(**vars(skipped("b.py::first", "no GPU")))]
    reports[-1].user_properties = [(STANDS_FOR, 90)]
    assert list(skipped_lines(reports)) == ["a.py: no nm (4 tests)", "a.py: no GPU", "b.py: no GPU (90 tests)"]


def test_waiting_in_vain_names_what_did_not_come() -> None:
    assert wait_for(lambda: 5, "a number") == 5
    with pytest.raises(AssertionError, match=r"in vain.*for: a letter"):
        wait_for(lambda: "", "a letter", seconds=0.05)


def test_a_process_that_has_ended_is_no_error() -> None:
    with psutil.Popen(["sleep", "60"]) as process:
        other = psutil.Process(process.pid)
        assert is_running(other)
        wait_for(lambda: if_alive(other.cmdline, []) == ["sleep", "60"], "the command line of a program that has just started")
        process.kill()
    assert not is_running(other)
    assert not is_running(process.pid)
    assert if_alive(other.cmdline, []) == []

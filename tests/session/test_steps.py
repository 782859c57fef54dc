"""Each step of a set-up is measured, estimated, done already, or not measured here; a reason is given if it is not measured."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from labkit.environment import describe
from labkit.session import setup_steps as module
from labkit.session import steps
from labkit.session.setup_steps import OTHER_MEGABYTES, START, TORCH_MEGABYTES, setup_steps
from labkit.session.steps import DONE, ESTIMATED, MEASURED, NOT_MEASURED, Step, download, program, timed


def test_a_program_is_timed_and_a_failure_is_a_reason() -> None:
    fine = timed("a step", ("00",), program([sys.executable, "-c", ""]), "a note")
    assert (fine.how, fine.note, fine.is_to_come) == (MEASURED, "a note", True)
    assert fine.seconds is not None
    for code, why in (("import a_package_that_is_not_there", "No module named"), ("raise SystemExit(3)", "status 3")):
        failed = timed("a step", ("00",), program([sys.executable, "-c", code]))
        assert (failed.how, failed.seconds) == (NOT_MEASURED, None)
        assert why in failed.note
    assert "No such file" in timed("a step", ("00",), program(["a-program-that-is-not-there"])).note


def test_a_program_that_does_not_end_is_not_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MOST_SECONDS", 0.5)
    step = timed("a step", ("00",), program([sys.executable, "-c", "import time; time.sleep(600)"]))
    assert (step.how, step.note) == (NOT_MEASURED, "it took longer than 0.5 seconds")


def test_a_download_is_estimated_from_its_size_and_the_stated_speed() -> None:
    assert download("torch", ("00",), 200, 50, "more") == Step("torch", ("00",), ESTIMATED, 32.0, "200 MB at 50 Mbit/s; more")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the parts of the steps that compile, start or import something, so that the tests are quick."""
    for name in ("_compile", "_start_server", "_start_kernel"):
        monkeypatch.setattr(module, name, lambda: "")
    monkeypatch.setattr(module, "program", lambda command: lambda: "")


@pytest.mark.usefixtures("quick")
def test_what_is_installed_is_done_and_what_is_missing_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.serving.server.install.find_server", lambda: None)
    said: list[str] = []
    here = describe()
    found = {step.name: step for step in setup_steps(here, 100, said.append)}
    assert (found["download torch"].how, found["download torch"].is_to_come) == (DONE, False)
    assert found["get the Triton server"].seconds == 6.0
    assert found["get the Triton server"].labs == ("04",)
    assert {found[f"first cell of lab {lab}"].how for lab in START} == {MEASURED}
    assert not found["import torch"].is_to_come
    assert said[0] == f"[1/{len(found)}] download torch"
    assert len(said) == len(found)

    bare = {step.name: step for step in setup_steps(replace(here, versions={}), 100, said.append)}
    assert bare["download torch"].seconds == TORCH_MEGABYTES * 8 / 100
    assert bare["download the other packages"].seconds == OTHER_MEGABYTES * 8 / 100
    assert bare["download torch"].is_to_come


def test_no_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    step = module._kernels("compile")
    assert (step.how, step.seconds) == (NOT_MEASURED, None)
    assert "no C++ compiler was found" in step.note

"""Which labs run on machines that lack something, and why the other labs do not run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from labkit.environment import Machine, describe
from labkit.session.labs import FREE_DISK_BYTES, GIB, IN_PART, MEMORY_BYTES, NO, PEAK_BYTES, YES, LabRow, lab_rows, why_not


@pytest.fixture
def machine() -> Machine:
    """A machine that has enough of everything."""
    return replace(describe(), memory_bytes=16 * GIB, disk_free_bytes=50 * GIB)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.grading.machine_needs.find_server", lambda: None)


def rows(machine: Machine) -> dict[str, LabRow]:
    return {row.lab: row for row in lab_rows(machine)}


@pytest.mark.parametrize(
    ("changes", "lab", "said"),
    [
        ({"versions": {"torch": "2.11"}}, "00", "transformers not installed: run `make env`"),
        ({"versions": {}}, "00", "torch and transformers not installed: run `make env`"),
        ({"memory_bytes": 2 * GIB}, "00", "2.0 GiB of memory, 3 are needed"),
        ({"memory_bytes": 4 * GIB}, "04", "4.0 GiB of memory, 5 are needed"),
        ({"disk_free_bytes": GIB // 4}, "03", "0.2 GiB of disk free, 0.5 are needed"),
    ],
)
def test_why_a_lab_does_not_run(machine: Machine, changes: dict[str, Any], lab: str, said: str) -> None:
    assert why_not(machine, lab) == ""
    less = replace(machine, **changes)
    assert why_not(less, lab) == said
    row = rows(less)[lab]
    assert (row.core, row.full, row.why_not, row.reason) == (NO, NO, said, said)


def test_a_small_machine_runs_the_small_labs(machine: Machine) -> None:
    runs = [lab for lab, row in rows(replace(machine, memory_bytes=4 * GIB)).items() if not row.why_not]
    assert runs == [lab for lab, needs in MEMORY_BYTES.items() if needs <= 4 * GIB]
    assert "04" not in runs
    assert all(PEAK_BYTES[lab] < needs for lab, needs in MEMORY_BYTES.items())
    assert FREE_DISK_BYTES < GIB


@pytest.mark.usefixtures("no_server")
def test_without_a_server_no_exercise_of_lab_04s_core_path_is_measured(machine: Machine) -> None:
    row = rows(machine)["04"]
    assert (row.core, row.full, row.why_not) == (NO, IN_PART, "")
    assert {one.number for one in row.not_measured_here} == {"4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.10"}
    assert row.reason == "4.5, 4.7 not measured here: needs a Triton Inference Server (`labkit serve --install` gets one)"


def test_without_triton_lab_02_runs_in_part(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.grading.machine_needs.has_triton", lambda: False)
    found = rows(machine)
    assert (found["02"].core, found["02"].full) == (IN_PART, IN_PART)
    assert found["02"].reason == "2.3 not measured here: needs the package triton"
    assert (found["00"].core, found["00"].full, found["00"].reason) == (YES, YES, "")

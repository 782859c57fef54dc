"""A report is read back unchanged, any other file is refused in one sentence, and many reports are merged into one room."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.cli.doctor import doctor
from labkit.cli.session_tables import print_report
from labkit.errors import InvalidRequest
from labkit.session.report import read_report, session_report
from labkit.session.room import room_of
from tests.session.reports import GIB, machine_report, write_report


def test_a_report_is_read_back_as_it_was(tmp_path: Path) -> None:
    report = machine_report(versions={})
    assert read_report(write_report(tmp_path / "a.json", report)) == report
    pretty = json.dumps(report.to_dict(), indent=1)
    (tmp_path / "pretty.json").write_text(pretty)
    assert read_report(tmp_path / "pretty.json") == report
    (tmp_path / "output.json").write_text(f"Labs on ada\n{{ a table }}\n{json.dumps(report.to_dict())}\n")
    assert read_report(tmp_path / "output.json") == report


def test_the_set_up_of_a_lab_is_what_is_still_to_come() -> None:
    report = machine_report()
    assert (report.seconds("00"), report.seconds("04"), report.seconds("02")) == (3.5, 12.0, 0.0)


GOOD = machine_report().to_dict()
BAD: dict[str, tuple[Any, str]] = {
    "empty": ("", "it is empty"),
    "no JSON": ("Labs on ada", "Expecting value"),
    "a list": ("[]", "an object"),
    "another object": ('{"cpu": {}}', "'session' is missing"),
    "a newer format": (GOOD | {"session": 2}, "its format is 2; this labkit reads format 1"),
    "no labs": (GOOD | {"labs": []}, "it has no row for lab 00, 01, 02, 03, 04"),
    "labs of a wrong form": (GOOD | {"labs": ["00"]}, "a row of a list is not an object"),
    "an unknown word": (GOOD | {"labs": [GOOD["labs"][0] | {"core": "maybe"}]}, "core is 'maybe'; the accepted values are yes"),
    "a wrong number": (GOOD | {"memory_bytes": -1}, "memory_bytes is -1; a whole number from 0 is accepted"),
    "no name": (GOOD | {"machine": None}, "machine is None; a text of 0 to 1000 characters is accepted"),
    "endless": (json.dumps(GOOD).replace("3.5", "1e999"), "the seconds of a step are inf"),
    "too deep": ("[" * 100_000, "nested too deeply"),
    "too large": (" " * 2**21, "it has more than"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_report_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    content, said = BAD[kind]
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InvalidRequest, match=r"bad\.json is not a report of `labkit doctor --session --json`: ") as error:
        read_report(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_room_counts_the_machines_of_each_lab_and_names_the_others(tmp_path: Path) -> None:
    files = [
        write_report(tmp_path / "ada.json", machine_report("ada")),
        write_report(tmp_path / "bob.json", machine_report("bob", versions={})),
        tmp_path / "gone.json",
        write_report(tmp_path / "eve.json", machine_report("ada")),
    ]
    room = room_of(files)
    assert [name for name, _ in room.machines] == ["ada (ada.json)", "bob", "ada (eve.json)"]
    first = room.labs[0]
    assert (first.lab, first.core, first.in_part, first.none, first.full, first.longest_setup) == ("00", 2, 0, 1, 2, 3.5)
    (trouble,) = first.troubles
    assert (trouble.machine, trouble.core, trouble.why) == ("bob", "no", "torch and transformers not installed: run `make env`")
    assert room.refused == (f"{tmp_path / 'gone.json'} cannot be read: No such file or directory",)
    assert json.loads(json.dumps(room.to_dict()))["labs"][0]["core"] == 2


def test_the_command_merges_reports_and_names_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{}")
    small = machine_report("[red]bob\u202e", versions={"torch": "2.11"})
    files = [write_report(tmp_path / "ada.json", machine_report()), write_report(tmp_path / "bob.json", small)]
    with pytest.raises(SystemExit, match="2"):
        doctor([*files, tmp_path / "bad.json"], session=True, json=True)
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"labkit: {tmp_path / 'bad.json'} is not a report of `labkit doctor --session --json`: 'session' is missing"
    ]
    assert "The room: 2 machines" in said.out
    assert "[red]bob\\u202e" in said.out
    found = json.loads(said.out.splitlines()[-1])
    assert found["labs"][0]["core"] == 1
    assert found["labs"][0]["troubles"][0]["why"] == "transformers not installed: run `make env`"
    doctor(files[:1], session=True)
    assert "bob" not in capsys.readouterr().out


def test_wrong_use_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"ada\.json is given without --session"):
        doctor([Path("ada.json")])
    for megabits in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InvalidRequest, match="give a number above 0"):
            session_report(None, megabits, print)  # type: ignore[arg-type]


def test_one_machine_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("labkit.grading.machine_needs.find_server", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    print_report(replace(machine_report(), memory_available_bytes=2 * GIB))
    said = capsys.readouterr().out
    assert "5 GiB of 8.0" in said
    assert "Lab 04: 4.5 (core) not measured here: needs a Triton Inference Server" in said
    assert "Lab 04: close other programs first; the lab needs up to 3.1 GiB of memory, and 2.0 are free now." in said
    assert "Lab 00: close" not in said
    assert "75 MB at 50 Mbit/s" in said
    print_report(machine_report(versions={}))
    assert "Lab 00 does not run: torch and transformers not installed: run `make env`." in capsys.readouterr().out


@pytest.mark.long
def test_this_machine_is_measured_and_its_output_is_a_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "labkit", "doctor", "--session", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "here.json").write_text(done.stdout)
    report = read_report(tmp_path / "here.json")
    steps = {step.name: step for step in report.setup}
    for name in ("import torch", "first cell of lab 02"):  # on a very busy machine these can exceed the time limit
        assert steps[name].seconds or steps[name].note.startswith("it took longer"), steps[name]
    assert "[1/" in done.stderr
    (lab,) = (lab for lab in room_of([tmp_path / "here.json"]).labs if lab.lab == "00")
    assert lab.core == 1

"""The file in which a learner shares a ladder: what it contains, and the refusal of bad files in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.environment import describe
from labkit.errors import InvalidRequest, NotAvailable
from labkit.measure import Ladder, Rung, Task, Timing
from labkit.measure.ladder_file import MOST_RUNGS, UNKNOWN_DEVICE, read_ladder_file

ONE = Task("gptj-tiny", sequences=1, prompt_tokens=64, new_tokens=64)
BUSY = "other programs kept this one waiting for a core for 45% of the time"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The file of a learner with two rungs."""
    ladder = Ladder(tmp_path / "own.json")
    timings = {"Hugging Face": Timing((1.0, 2.0, 4.0)), "labkit engine": Timing((0.5, 0.5), BUSY)}
    ladder.add_timings(ONE, timings, where="cpu, fp32, /home/ada/labs")
    return ladder.export(tmp_path / "ada.ladder.json", " ada ")


def test_the_file_has_device_versions_rungs_and_no_more(shared: Path) -> None:
    found = json.loads(shared.read_text("utf-8"))
    assert set(found) == {"kind", "version", "unit", "name", "created", "versions", "rungs"}
    assert (found["name"], found["unit"]) == ("ada", "tokens per second")
    assert {"python", "torch", "labkit"} <= set(found["versions"])
    first, second = found["rungs"]
    assert set(first) == {"device", "task", "name", "tokens_per_second", "low", "high", "runs", "disturbed"}
    assert first["device"] == str(describe())
    assert (first["name"], first["tokens_per_second"], first["low"], first["runs"]) == ("Hugging Face", 32.0, 64 / 3, 3)
    assert second["disturbed"] == BUSY
    text = shared.read_text("utf-8")
    assert not [word for word in ("/home", os.uname().nodename, str(shared.parent)) if word in text]


def test_it_is_read_back(shared: Path) -> None:
    found = read_ladder_file(shared)
    assert (found.name, [one.rung.name for one in found.rungs]) == ("ada", ["Hugging Face", "labkit engine"])
    assert found.rungs[0].rung == Rung(ONE, "Hugging Face", 32.0, 64 / 3, 64 / 1.5)
    assert [one.runs for one in found.rungs] == [3, 2]


def test_a_rung_of_an_older_labkit_has_no_device(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    Ladder(path).add(ONE, "hf", 100.0)
    rows = json.loads(path.read_text())
    assert rows[0].pop("device") == str(describe())
    path.write_text(json.dumps(rows))
    found = read_ladder_file(Ladder(path).export(tmp_path / "x.json", "ada"))
    assert [(one.device, one.runs) for one in found.rungs] == [(UNKNOWN_DEVICE, 0)]


def test_what_cannot_be_written_is_refused(shared: Path, tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "own.json")
    with pytest.raises(NotAvailable, match="your ladder is empty"):
        Ladder(tmp_path / "none.json").export(tmp_path / "x.json", "ada")
    for name in ("", "  ", "a" * 61):
        with pytest.raises(InvalidRequest, match="give a name of 1 to 60"):
            ladder.export(tmp_path / "x.json", name)
    notebook = tmp_path / "lab.ipynb"
    notebook.write_text('{"cells": []}')
    with pytest.raises(InvalidRequest, match=r"lab\.ipynb already exists and is not a ladder"):
        ladder.export(notebook, "ada")
    assert notebook.read_text() == '{"cells": []}'
    assert not (tmp_path / "x.json").exists()
    ladder.export(shared, "bob")  # a ladder may be replaced by a newer one
    assert read_ladder_file(shared).name == "bob"


# Files of unknown origin ------------------------------------------------------------------------------------------------
def rung(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """Return a function that changes the first rung."""
    return lambda found: found["rungs"][0].update(changes)


def task(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["rungs"][0]["task"].update(changes)


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another kind": (lambda found: found.update(kind="bench"), "its kind is 'bench'"),
    "no kind": (lambda found: found.pop("kind"), "its kind is None"),
    "a newer version": (lambda found: found.update(version=2), "its version is 2; this labkit reads version 1"),
    "wrong unit": (lambda found: found.update(unit="ms"), "its unit is 'ms'; only tokens per second can be compared"),
    "no rungs": (lambda found: found.update(rungs=[]), "a list of 1 to 60 rungs"),
    "rungs are no list": (lambda found: found.update(rungs={"a": 1}), "a list of 1 to 60 rungs"),
    "too many rungs": (lambda found: found.update(rungs=found["rungs"] * MOST_RUNGS), "a list of 1 to 60 rungs"),
    "a rung twice": (lambda found: found["rungs"].append(found["rungs"][0]), "two rungs with the name 'Hugging Face'"),
    "no name": (lambda found: found.pop("name"), "its name is None; a text of 1 to 60 characters"),
    "a long name": (lambda found: found.update(name="a" * 10**5), "its name is 'aaaaaa"),
    "a name of spaces": (lambda found: found.update(name="  "), "its name is '  '"),
    "versions are no object": (lambda found: found.update(versions=[1]), "its versions must be an object"),
    "a version is no text": (lambda found: found.update(versions={"torch": {}}), "a version is {}"),
    "a rung is a number": (lambda found: found.update(rungs=[3]), "rung 1 must be an object with a task"),
    "no task": (rung(task="short"), "rung 1 must be an object with a task"),
    "NaN": (rung(tokens_per_second=float("nan")), "tokens_per_second of rung 1 is nan; a number above 0"),
    "infinity": (rung(high=float("inf")), "high of rung 1 is inf"),
    "negative": (rung(low=-1), "low of rung 1 is -1"),
    "huge": (rung(tokens_per_second=1e300), "tokens_per_second of rung 1 is 1e+300"),
    "a huge whole number": (rung(high=10**400), "high of rung 1 is 1000"),
    "true": (rung(low=True), "low of rung 1 is True"),
    "a text as a speed": (rung(low="3"), "low of rung 1 is '3'"),
    "not in order": (rung(low=40.0), "with the speed between its quartiles"),
    "no sequences": (task(sequences=0), "sequences of rung 1 is 0; a whole number from 1"),
    "half a token": (task(new_tokens=0.5), "new_tokens of rung 1 is 0.5"),
    "huge task": (task(prompt_tokens=10**30), "prompt_tokens of rung 1 is 1000"),
    "the model is a list": (task(model=["x"]), "the model of rung 1 is ['x']"),
    "a long device": (rung(device="x" * 201), "the device of rung 1 is"),
    "no runs": (rung(runs=None), "runs of rung 1 is None"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_short_sentence(kind: str, shared: Path) -> None:
    change, said = BAD[kind]
    found = json.loads(shared.read_text("utf-8"))
    change(found)
    shared.write_text(json.dumps(found))
    refused(shared, said)


def refused(path: Path, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_ladder_file(path)
    words = str(error.value)
    assert words.startswith(f"{path} ")
    assert said in words
    assert "\n" not in words
    assert len(words) < len(str(path)) + 300


def test_what_is_not_json_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, said in [
        (b"", "is not a speed ladder"),
        (b"\xff\xfe\x00", "is not a speed ladder"),
        (b"[1]", "an object, {...}, is accepted"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"kind": 1, "kind": 2}', "it names 'kind' twice"),
        (b'{"kind": ' + b"9" * 5000 + b"}", "is not a speed ladder"),
        (b" " * 2**21, "bytes; at most 1,048,576 are accepted"),
    ]:
        path.write_bytes(content)
        refused(path, said)
    with path.open("wb") as file:
        file.truncate(50 * 2**20)
    refused(path, "it has 52,428,800 bytes")
    refused(tmp_path / "gone.json", "cannot be read: No such file")
    refused(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe.json")
    refused(tmp_path / "pipe.json", "not a regular file")

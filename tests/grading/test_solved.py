"""`solved("name")` returns the learner's function if it passes. Otherwise it prints a sentence and returns None, and the cell
continues without the function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.grading import solved

RIGHT = """def kv_cache_bytes(config, lengths, element_bytes):
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes
"""
WHAT = "kv_cache_bytes (exercise 0.3, core)"
INSTEAD = "labkit's own function takes its place."


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return tmp_path


def call(cell: str) -> tuple[Any, dict[str, Any]]:
    """Call `solved` in a notebook with this cell. Return its result, and the names of the notebook."""
    names: dict[str, Any] = {"solved": solved}
    exec(f"{cell}\nfound = solved('kv_cache_bytes')", names)
    return names["found"], names


def test_a_function_that_passes_is_returned_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    found, names = call(RIGHT)
    assert found is names["kv_cache_bytes"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("", f"You have not solved {WHAT}; {INSTEAD}"),
        (
            "def kv_cache_bytes(*given):\n    raise NotImplementedError('kv_cache_bytes')",
            f"You have not solved {WHAT}; {INSTEAD}",
        ),
        (RIGHT.replace("2 *", "1 *"), f"Your {WHAT} does not pass: Your number is half of the right one"),
        ("kv_cache_bytes = 5", f"Your {WHAT} does not pass: "),
    ],
    ids=["not in the notebook", "a stub", "a wrong answer", "no function"],
)
def test_without_such_a_function_a_sentence_says_what_runs(cell: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(cell)[0] is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(said)
    assert lines[0].endswith(INSTEAD)


def test_what_the_machine_lacks_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("labkit.grading.machine_needs.find_server", lambda: None)
    assert solved("pad_prompts") is None
    assert capsys.readouterr().out.startswith(
        "Not measured here: your pad_prompts (exercise 4.2, extra) needs a Triton Inference"
    )


def test_a_function_of_no_exercise_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no exercise asks for a function with the name 'nothing'"):
        solved("nothing")

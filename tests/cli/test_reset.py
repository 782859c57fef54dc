"""`labkit reset` as a user sees it: what it prints, its JSON, and the notebook's file."""

from __future__ import annotations

import shutil
from pathlib import Path

from labkit.grading.notebook_file import read_cells
from tests.cli.test_commands import last_json, many

LAB = Path(__file__).parents[2] / "labs" / "00_class_environment.ipynb"
ANSWER = "return len(lengths)"


def test_a_changed_exercise_goes_back_and_a_stub_stays(tmp_path: Path) -> None:
    path = tmp_path / "lab.ipynb"
    shutil.copy(LAB, path)
    path.write_text(path.read_text("utf-8").replace('raise NotImplementedError(\\"kv_cache_bytes\\")', ANSWER, 1), "utf-8")
    before = [cell.text for cell in read_cells(LAB)]
    assert sum(ANSWER in cell.text for cell in read_cells(path)) == 1
    changed, unchanged, unknown = many(
        tmp_path,
        ["reset", str(path), "kv_cache_bytes", "--json"],
        ["reset", str(path), "lab00.kv_cache_bytes", "--json"],
        ["reset", str(path), "kv_bytes"],
    )
    report = last_json(changed)
    kept = Path(report["kept"])
    assert [cell.text for cell in read_cells(path)] == before
    assert ANSWER in kept.read_text("utf-8")
    assert f"kv_cache_bytes is the stub again (changed: cell {report['cells'][0]}). Your points are kept." in changed.out
    assert f"Your old text is in {kept}." in changed.out
    assert 'choose "Reload Notebook from Disk" in the File menu' in changed.out
    assert last_json(unchanged) == {"exercise": "lab00.kv_cache_bytes", "cells": [], "kept": None}
    assert "kv_cache_bytes is still the stub; nothing was changed" in unchanged.out
    assert (unknown.status, unknown.errors.count("\n")) == (2, 1)
    assert "no exercise asks for a function with the name 'kv_bytes'" in unknown.errors

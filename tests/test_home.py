"""labkit's home is created when it is missing, an error says when this is impossible, and files are written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.errors import NotAvailable
from labkit.home import home, make_new, set_aside, write_atomically


def test_home_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "a" / "b"))
    assert home() == tmp_path / "a" / "b"
    assert home().is_dir()


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(NotAvailable, match=r"file/home, which cannot be created .*set LABKIT_HOME"):
        home()


def test_a_home_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # because root can write anywhere
    with pytest.raises(NotAvailable, match="cannot write"):
        home()


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.json"
    write_atomically(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.json"]


def test_a_new_file_gets_a_free_name(tmp_path: Path) -> None:
    made = [make_new(tmp_path / "old.py", lambda path: path.touch(exist_ok=False)) for _ in range(3)]
    assert [path.name for path in made] == ["old.py", "old-2.py", "old-3.py"]


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    for text in ("first", "second"):
        path.write_text(text)
        set_aside(path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "progress.damaged": "first",
        "progress-2.damaged": "second",
    }
    with pytest.raises(FileNotFoundError):
        set_aside(path)
    assert len(list(tmp_path.iterdir())) == 2

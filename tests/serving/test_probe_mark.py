"""The mark of probes: each server has one random mark, which only the server's user can read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.serving.probe_mark import is_mark, mark_of


def test_all_who_ask_get_the_same_mark(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        marks = set(pool.map(lambda _: mark_of(tmp_path), range(32)))
    (mark,) = marks
    assert len(mark) == 32
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("probe", 0o600)]
    assert is_mark(mark, tmp_path)


def test_what_is_no_mark(tmp_path: Path) -> None:
    assert not is_mark("", tmp_path), "there is none yet"
    (other,) = {mark_of(tmp_path)} - {""}
    (tmp_path / "another").mkdir()
    for value in ("", other[:-1], other + "0", None, 7, True, "\u00e9" * 32):
        assert not is_mark(value, tmp_path)
    assert mark_of(tmp_path / "another") != other

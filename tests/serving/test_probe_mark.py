"""The mark of probes: each server has one random mark, which only the server's user can read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit.serving import user_folder
from labkit.serving.access import make_secret, withdraw_secret
from labkit.serving.probe_mark import is_mark, mark_of
from labkit.serving.server.server_folder import PID, mark_at
from labkit.serving.shared_folder import shared_folder


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


def test_another_process_finds_the_mark_by_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the health check in a container does. The server of a container listens on 0.0.0.0."""
    monkeypatch.setattr(user_folder, "PLACE", str(tmp_path))
    marks = {}
    for pid, port in ((71, 8001), (72, 9001)):
        folder = user_folder.user_folder() / f"labkit-run-server-{pid}"
        folder.mkdir()
        make_secret(folder, [f"0.0.0.0:{port}"])
        assert mark_at(f"127.0.0.1:{port}") == "", "the server has no process yet"
        (folder / PID).write_text(str(pid))
        assert mark_at(f"127.0.0.1:{port}") == "", "no model has begun"
        marks[port] = mark_of(shared_folder(pid))
    assert {port: mark_at(f"127.0.0.1:{port}") for port in marks} == marks
    withdraw_secret(folder)
    assert mark_at("127.0.0.1:9001") == ""

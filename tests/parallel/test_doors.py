"""Ranks on one host use sockets that only this host can reach, and memory and folders that only their user can open."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from labkit.launch import launch
from labkit.native.shared_group import shared_file
from labkit.parallel import Layout, load_parallel


def addresses() -> list[str]:
    """The local addresses of this rank's listening or connected sockets in the middle of its work."""
    import psutil
    import torch
    from torch import distributed as dist

    tensor = torch.ones(1000)
    dist.all_reduce(tensor)
    connections: list[Any] = psutil.Process().net_connections("inet")
    dist.barrier()
    return sorted({one.laddr.ip.removeprefix("::ffff:") for one in connections})


def test_launched_ranks_are_on_loopback() -> None:
    assert launch(addresses, 2).values == [["127.0.0.1"], ["127.0.0.1"]]


def test_memory_and_folders_of_ranks_are_their_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        memory = shared_file("test", 64)
        with load_parallel("gptj-tiny", Layout(2, 1)):
            folders = list(tmp_path.glob("labkit-*"))
            assert folders
            assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
        assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    finally:
        os.umask(before)
        memory.unlink()

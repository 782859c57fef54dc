"""What a running server consists of: its processes and its shared memory; and waiting for a change of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from labkit.serving.server import Server

WAIT_SECONDS = 240.0
"""How long to wait for a change, on a machine that may be busy with other work."""


def processes(server: Server) -> list[psutil.Process]:
    """The server's process and all processes that it started."""
    return [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]


def model_process(server: Server, model: str) -> psutil.Process:
    """The process that runs a model. If the model is being replaced and has two, the newer one."""
    found = []
    for process in processes(server):
        try:
            if f"{model}_0_0" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return max(found, key=psutil.Process.create_time)


def region_prefix(server: Server) -> str:
    """How the names of a server's regions of shared memory begin. The server was started by this process."""
    return f"triton-labkit-{os.getpid()}-{server.grpc.rpartition(':')[2]}-"


def shared_memory(prefix: str) -> set[Path]:
    """The regions of shared memory whose names begin with `prefix`."""
    return set(Path("/dev/shm").glob(f"{prefix}*"))


def wait_for(what: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Wait until a function returns something true; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"it was not true within {seconds:g} s"
        time.sleep(0.1)

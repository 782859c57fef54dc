"""The processes and the shared memory of a running server."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from labkit.serving.server import Server
from tests.patience import if_alive


def processes(server: Server) -> list[psutil.Process]:
    """The server's process and all processes that it started."""
    return [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]


def model_process(server: Server, model: str) -> psutil.Process:
    """The process that runs a model; the newer process if the model is being replaced and has two processes."""
    found = [process for process in processes(server) if f"{model}_0_0" in if_alive(process.cmdline, [])]
    return max(found, key=psutil.Process.create_time)


def region_prefix(server: Server) -> str:
    """The beginning of the names of the shared-memory regions of a server that this process has started."""
    return f"triton-labkit-{os.getpid()}-{server.grpc.rpartition(':')[2]}-"


def shared_memory(prefix: str) -> set[Path]:
    """The regions of shared memory whose names begin with `prefix`."""
    return set(Path("/dev/shm").glob(f"{prefix}*"))

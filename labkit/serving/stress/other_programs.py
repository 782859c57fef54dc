"""Finds out whether other programs disturb a stress test.

The server and the load generator do not count as other programs, even if they share a machine.
"""

from __future__ import annotations

import os
from types import TracebackType

import psutil

from labkit.measure import Contention
from labkit.serving.channels import is_here


class OtherPrograms:
    """Watches this machine during its `with` block, while a load test runs against the server at HOST:PORT.

    After the block, `disturbed` says how other programs disturbed the load; it is "" if they did not. `not_watched` says why
    labkit cannot find out whether they did; it is "" if labkit can. If the server runs on another machine, only the load
    generator is watched.
    """

    def __init__(self, address: str) -> None:
        self.disturbed = ""
        self.not_watched = ""
        self._address = address

    def __enter__(self) -> OtherPrograms:
        server = server_process(self._address) if is_here(self._address) else None
        if server is None and is_here(self._address):
            self.not_watched = f"not measured here: the process of the server at {self._address} cannot be seen"
        self._contention = Contention(os.getpid(), *([] if server is None else [server]))
        self._contention.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.not_watched:
            try:
                self.disturbed = self._contention.so_far()
            except psutil.NoSuchProcess:
                self.not_watched = "not measured here: the process of the server ended during the load"


def server_process(address: str) -> int | None:
    """Return the id of the process on this machine that is listening on the port of HOST:PORT.

    Return None if there is no such process, or if labkit cannot see it: it may belong to another user, or run in a container.
    """
    port = int(address.rpartition(":")[2])
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows connections only to root
        return None
    found = [one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port]
    return next(filter(None, found), None)

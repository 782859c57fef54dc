"""Finds the executor that `labkit grade --executor` names: processes on this machine, or a Dask cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest, NotAvailable
from labkit.gradebook.checks_version import checks_version
from labkit.grading.shorten import shorten

PROCESSES, DASK = "processes", "dask://"
CONNECT_SECONDS = 60.0
"""The scheduler of a Dask cluster must answer within this many seconds."""


@contextlib.contextmanager
def executor_at(address: str, submissions: Path) -> Iterator[tuple[Executor | None, int]]:
    """Yield the executor at this address, and how many notebooks it can grade at the same time.

    For "processes", the executor is None (labkit then starts processes itself), and the number is 1. For "dask://HOST:PORT",
    the executor is the Dask cluster whose scheduler has this address, and the number is how many threads the cluster has.

    Raises `InvalidRequest` for any other address. Raises `NotAvailable` if the scheduler does not answer, if the cluster has no
    workers, or if a worker does not see the folder `submissions` or has another version of the course's checks.
    """
    if address == PROCESSES:
        yield None, 1
    elif address.startswith(DASK):
        with _dask_cluster(address.removeprefix(DASK), submissions) as found:
            yield found
    else:
        raise InvalidRequest(
            f"--executor is {address!r}; give {PROCESSES!r}, or {DASK}HOST:PORT for a Dask cluster's scheduler"
        )


@contextlib.contextmanager
def _dask_cluster(place: str, submissions: Path) -> Iterator[tuple[Executor, int]]:
    from distributed import Client

    class ClosedIfRefused(Client):
        """A Dask client that closes itself if it cannot connect.

        Otherwise Dask would close the client when it is garbage-collected, which can wait for a lock forever.
        """

        def start(self, **options: Any) -> None:
            try:
                super().start(**options)  # type: ignore[no-untyped-call]
            except BaseException:
                self.close()  # type: ignore[no-untyped-call]
                raise

    try:
        client: Any = ClosedIfRefused(f"tcp://{place}", timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise NotAvailable(
            f"no Dask scheduler answers at {place} ({shorten(str(error))}); start one with `dask scheduler`, and workers with "
            f"`dask worker tcp://{place}`"
        ) from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise NotAvailable(f"the Dask cluster at {place} has no workers; start some with `dask worker tcp://{place}`")
        _compare(client, submissions.absolute())
        yield client.get_executor(pure=False), threads  # With `pure`, Dask could reuse an earlier verdict on the same notebook.


def _compare(client: Any, submissions: Path) -> None:
    """Raise `NotAvailable` if a worker of the cluster would grade differently, or does not see the notebooks."""
    own = checks_version()
    for worker, found in client.run(_seen_from_here, str(submissions), on_error="return").items():
        if isinstance(found, Exception):
            raise NotAvailable(f"the Dask worker {worker} cannot run labkit ({shorten(repr(found))}); install labkit there")
        checks, sees_folder = found
        if not sees_folder:
            raise NotAvailable(
                f"the Dask worker {worker} has no folder {submissions}; share it with all the cluster's machines"
            )
        if checks != own:
            raise NotAvailable(
                f"the Dask worker {worker} has another version of the checks than this machine; install the same labkit there"
            )


def _seen_from_here(submissions: str) -> tuple[str, bool]:
    """The version of the checks on this machine, and whether this machine has the folder. Dask workers call this function."""
    return checks_version(), os.path.isdir(submissions)

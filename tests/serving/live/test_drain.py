"""The end of a server: accepted requests are finished, new ones are refused, and a server that is hurried does not wait."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from labkit.errors import InvalidRequest
from labkit.serving.server import Server
from tests.patience import PATIENCE, wait_for
from tests.serving.live.echo_model import ECHO, write_repository_of_one

BODY = json.dumps({"inputs": [{"name": "A", "shape": [1], "datatype": "INT32", "data": [7]}]})
HELD = """
        while os.path.exists("HOLD"):
            open("BEGUN", "w").close()
            time.sleep(0.01)
        return ["""
"""Code that keeps a request for as long as the file HOLD exists."""


def ask(server: Server) -> list[int]:
    connection = HTTPConnection(server.http, timeout=PATIENCE)
    connection.request("POST", "/v2/models/mine/infer", BODY)
    reply = json.loads(connection.getresponse().read())
    return list(reply["outputs"][0]["data"])


def is_refusing(server: Server) -> bool:
    connection = HTTPConnection(server.http, timeout=PATIENCE)
    try:
        connection.request("GET", "/v2/health/live")
        connection.getresponse()
    except (OSError, HTTPException):
        return True
    return False


@contextmanager
def ending(folder: Path, drain_seconds: float) -> Iterator[tuple[Server, Path, Future[list[int]], threading.Thread]]:
    """Give a server that is being ended while it works on a request, the file that holds the request, and the request."""
    hold, begun = folder / "hold", folder / "begun"
    code = ECHO.replace("import triton", "import os\nimport time\nimport triton").replace("return [", HELD.lstrip())
    repository = write_repository_of_one(folder / "repository", code.replace("HOLD", str(hold)).replace("BEGUN", str(begun)))
    with Server(repository, watch=False, drain_seconds=drain_seconds) as server, ThreadPoolExecutor(1) as pool:
        hold.touch()
        try:
            asked = pool.submit(ask, server)
            wait_for(begun.exists, "the request")
            end = threading.Thread(target=server.stop)
            end.start()
            yield server, hold, asked, end
        finally:
            hold.unlink(missing_ok=True)
        end.join()


@pytest.mark.usefixtures("triton_server")
def test_a_request_is_finished_and_new_ones_are_refused(tmp_path: Path) -> None:
    with ending(tmp_path, PATIENCE) as (server, hold, asked, end):
        wait_for(lambda: is_refusing(server), "the refusal of new requests")
        assert not asked.done()
        assert end.is_alive()
        hold.unlink()
        assert asked.result(PATIENCE) == [7]


@pytest.mark.long
@pytest.mark.usefixtures("triton_server")
@pytest.mark.parametrize("drain_seconds", [0.0, PATIENCE])
def test_without_time_or_in_a_hurry_a_request_is_cut(tmp_path: Path, drain_seconds: float) -> None:
    with ending(tmp_path, drain_seconds) as (server, hold, asked, end):
        if drain_seconds:
            wait_for(lambda: is_refusing(server), "the refusal of new requests")
            server.hurry()
        end.join(PATIENCE)
        assert not end.is_alive()
        assert hold.exists()
        with pytest.raises((OSError, HTTPException)):
            asked.result(PATIENCE)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_the_time_must_be_a_number(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="a finite number of at least 0 is accepted"):
        Server(tmp_path, drain_seconds=seconds)

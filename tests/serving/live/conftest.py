"""Servers with the real models, if a Triton Inference Server is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import labkit
from labkit.engine import Engine
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.server.install import find_server


@pytest.fixture(scope="session", autouse=True)
def triton_server() -> None:
    pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient")
    if find_server() is None:
        pytest.skip("not measured here: no Triton Inference Server; `labkit serve --install` gets one")


@pytest.fixture(scope="session")
def offline(triton_server: None) -> Engine:
    """The engine without a server."""
    return labkit.load("gptj-tiny")


@pytest.fixture(scope="session")
def served(triton_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of all five models, which tests must not change."""
    folder = tmp_path_factory.mktemp("served")
    write_repository(folder / "repository", ServeSettings())
    with Server(folder / "repository", watch=False, log=folder / "log") as server:
        yield server

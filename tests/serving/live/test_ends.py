"""If tritonserver or a model's process ends, waiting clients get an error, and the deployment soon answers again."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.cli.interruption import Interruption
from labkit.cli.serve import _show_status
from labkit.engine import Engine, SamplingParams
from labkit.errors import NotAvailable
from labkit.serving.channels import client_library
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.server.model_processes import is_alive
from tests.patience import PATIENCE, is_running, wait_for
from tests.sampled import one_in
from tests.serving.live.echo_model import write_repository_of_one
from tests.serving.live.processes import model_process, region_prefix, shared_memory
from tests.serving.live.requests import (
    PROMPT,
    ask,
    ensemble,
    infer,
    long_request,
    post,
    stream,
)

pytestmark = pytest.mark.long

LONG = 480
IN_FLIGHT = 6


@pytest.fixture(scope="module")
def kept(triton_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that these tests end again and again."""
    folder = tmp_path_factory.mktemp("kept")
    write_repository(folder / "repository", ServeSettings())
    with Server(folder / "repository", log=folder / "log") as server:
        yield server


@contextlib.contextmanager
def started_again(server: Server, offline: Engine) -> Iterator[list[str]]:
    """Check that the server ends in this block, is restarted exactly once, and then answers as before.

    The reason why the server ended is appended to the yielded list.
    """
    before, pid, memory = len(server.restarts), server.pid, shared_memory(region_prefix(server))
    why: list[str] = []
    yield why
    wait_for(lambda: len(server.restarts) > before)
    assert len(server.restarts) == before + 1
    assert server.restarts[-1].number == before + 1
    why.append(server.restarts[-1].why)
    assert server.is_running
    assert server.pid != pid
    assert not memory & shared_memory(region_prefix(server)), "shared memory of the server that ended"
    expected = offline.generate(PROMPT, SamplingParams(max_new_tokens=8))[0].text
    assert ask(server, text_input=PROMPT, max_new_tokens=8)["text_output"][0] == expected
    assert infer(server, "ensemble", ensemble([PROMPT], 8))["OUTPUT_0"][0, 0] == PROMPT + expected


def unary(server: Server) -> Any:
    body = {"text_input": PROMPT, "max_new_tokens": LONG, "ignore_eos": True}
    return post(server, "/v2/models/gptj/generate", body)


def sse(server: Server) -> Any:
    body = {"text_input": PROMPT, "max_new_tokens": LONG, "ignore_eos": True, "stream": True}
    return post(server, "/v2/models/gptj/generate_stream", body)


def grpc(server: Server) -> Any:
    return stream(server, long_request("gptj", LONG))


def tokens(server: Server) -> Any:
    return infer(server, "fastertransformer", long_request("fastertransformer", LONG))


def text(server: Server) -> Any:
    return infer(server, "ensemble", long_request("ensemble", LONG))


@contextlib.contextmanager
def in_flight(server: Server, ways: list[Callable[[Server], Any]]) -> Iterator[list[Future[Any]]]:
    """Start long requests. Yield them when they have all begun and are far from finished."""
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        asked = [pool.submit(ways[number % len(ways)], server) for number in range(IN_FLIGHT)]
        dog: Any = server.watchdog
        wait_for(lambda: dog._processes.in_flight() >= IN_FLIGHT, "requests in the models")
        time.sleep(0.3)
        yield asked


def errors(asked: list[Future[Any]]) -> list[str]:
    """The types of the errors with which the requests ended; an empty text for a request without an error."""
    found = []
    for each in asked:
        error = each.exception(timeout=PATIENCE)
        assert not isinstance(error, TimeoutError), "a client was left without an answer"
        words = error.status() if isinstance(error, client_library().InferenceServerException) else ""
        assert "DEADLINE" not in str(words), "a client was left without an answer"
        found.append("" if error is None else type(error).__name__)
    return found


def classify_by_http(server: Server) -> Any:
    given = {"INPUT_0": "In", "INPUT_1": 2, "INPUT_2": "", "INPUT_3": ""}
    inputs = [
        {"name": name, "datatype": "UINT32" if name == "INPUT_1" else "BYTES", "shape": [1, 1], "data": [value]}
        for name, value in given.items()
    ]
    outputs = [{"name": "OUTPUT_0", "parameters": {"classification": 3}}]
    return post(server, "/v2/models/ensemble/infer", {"inputs": inputs, "outputs": outputs})


def classify_by_grpc(server: Server) -> Any:
    outputs = [client_library().InferRequestedOutput("OUTPUT_0", class_count=3)]
    return infer(server, "ensemble", ensemble(["In"], 2), outputs=outputs)


@pytest.mark.parametrize("killer", one_in(2, [classify_by_http, classify_by_grpc]))
def test_a_request_that_ends_the_server(kept: Server, offline: Engine, killer: Callable[[Server], Any]) -> None:
    with started_again(kept, offline) as why, in_flight(kept, [unary, sse, grpc, tokens, text]) as asked:
        with pytest.raises((OSError, http.client.HTTPException, client_library().InferenceServerException)):
            killer(kept)
        assert any(errors(asked)), "the long ones had not ended"
    assert "SIGFPE" in why[0]
    assert "`classification` of an output of text" in why[0]
    assert "it is not known which request caused this" in why[0]


def test_nesting_without_end_is_refused(kept: Server) -> None:
    pid = kept.pid
    for depth in (150_000, 1_000_000):
        status, words = post(kept, "/v2/models/gptj/generate", b"[" * depth)
        assert status >= 400
        assert "failed to parse the request JSON" in words
    assert kept.pid == pid
    assert kept.is_running


def test_a_body_of_a_million_chunks_is_refused(kept: Server) -> None:
    pid = kept.pid
    address, port = kept.http.split(":")
    with socket.create_connection((address, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(b"POST /v2/models/gptj/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"1\r\nx\r\n" * 1000)
        connection.sendall(b"0\r\n\r\n")
        assert b"failed to parse the request JSON" in connection.recv(4096)
    assert kept.pid == pid
    assert kept.is_running


@pytest.mark.parametrize(("model", "ways"), one_in(2, [("gptj", [unary, sse, grpc]), ("fastertransformer", [tokens, text])]))
def test_a_model_that_is_killed_with_requests(
    kept: Server, offline: Engine, model: str, ways: list[Callable[[Server], Any]]
) -> None:
    with started_again(kept, offline), in_flight(kept, ways) as asked:
        began = time.monotonic()
        model_process(kept, model).kill()
        assert all(errors(asked))
        print(f"{model}: every request had ended {time.monotonic() - began:.2f} s after the kill")


def test_a_model_that_is_stopped_with_requests(kept: Server, offline: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept.watchdog, "_look", lambda model: None)  # the watchdog's probes would count as requests
    with started_again(kept, offline) as why, in_flight(kept, [tokens, text]) as asked:
        stub = model_process(kept, "fastertransformer")
        began = time.monotonic()
        stub.send_signal(signal.SIGSTOP)
        assert all(errors(asked))
        print(f"every request had ended {time.monotonic() - began:.2f} s after the stop")
        with contextlib.suppress(psutil.NoSuchProcess):
            stub.send_signal(signal.SIGCONT)
    assert why[0].startswith("tritonserver was ended: the process of fastertransformer ended while it had 6 requests")


def test_a_model_that_is_stopped_for_a_moment_goes_on(kept: Server) -> None:
    before, pid = len(kept.restarts), kept.pid
    with in_flight(kept, [tokens, grpc]) as asked:
        stub = model_process(kept, "fastertransformer")
        stub.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        stub.send_signal(signal.SIGCONT)
        assert errors(asked) == [""] * IN_FLIGHT
    assert (len(kept.restarts), kept.pid) == (before, pid)


def test_an_idle_model_that_is_stopped_is_loaded_anew_and_many_repairs_begin_the_server_anew(
    kept: Server, offline: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept.watchdog is not None
    repairs, dog = len(kept.watchdog.repairs), kept.watchdog
    with started_again(kept, offline) as why:
        stub = model_process(kept, "postprocessing")
        stub.send_signal(signal.SIGSTOP)
        wait_for(lambda: len(dog.repairs) > repairs)
        assert (dog.repairs[repairs].model, dog.repairs[repairs].failure) == ("postprocessing", "")
        assert not is_alive(stub), "nobody can let it go on any more"
        assert infer(kept, "ensemble", ensemble([PROMPT], 2))["OUTPUT_0"][0, 0].startswith(PROMPT)
        monkeypatch.setattr("labkit.serving.server.watchdog.FEW_REPAIRS", 1)
    assert "its models were reloaded " in why[0]
    assert kept.watchdog is dog


def test_a_killed_guardian_is_replaced_with_its_server(kept: Server, offline: Engine) -> None:
    with started_again(kept, offline) as why:
        family = psutil.Process(kept.process.pid).children(recursive=True)
        kept.process.kill()
    assert "SIGKILL" in why[0]
    wait_for(lambda: not any(map(is_alive, family)))


def test_a_server_that_cannot_be_started_again_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.serving.server.supervisor.MOST_STARTS", 2)
    monkeypatch.setattr("labkit.serving.server.supervisor.LONGEST_PAUSE", 0.1)
    said: list[str] = []

    def closed_terminal(words: str) -> None:
        said.append(words)
        if "again" in words or "failed" in words:
            raise BrokenPipeError

    with Server(write_repository_of_one(tmp_path), progress=closed_terminal) as server:
        (tmp_path / "mine" / "1" / "model.py").write_text("raise ValueError('the weights of Atlantis')")
        psutil.Process(server.pid).kill()
        wait_for(lambda: server.failure)
        assert "tritonserver was ended by SIGKILL" in server.failure
        assert "the weights of Atlantis" in server.failure
        assert not server.is_running
        assert not server.restarts
        assert "the weights of Atlantis" in server.log.read_text()
        with pytest.raises(NotAvailable) as told:
            _show_status(server, Interruption(), "mine", is_log_kept=False)
    assert not server.log.exists()
    kept = Path(str(told.value).rpartition("\nthe whole log is ")[2])
    assert "the weights of Atlantis" in kept.read_text()
    shutil.rmtree(kept.parent)
    assert [words.split(":")[0] for words in said if words.startswith("start ")] == [
        "start 1 of 2 failed",
        "start 2 of 2 failed",
    ]


def test_a_start_without_room_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.serving.server.supervisor.LONGEST_PAUSE", 0.1)
    log = tmp_path / "logs" / "log.txt"
    log.parent.mkdir()
    with Server(write_repository_of_one(tmp_path / "repository"), log=log) as server:
        shutil.rmtree(log.parent)  # now the log cannot be opened, as on a full disk
        psutil.Process(server.pid).kill()
        wait_for(lambda: "No such file" in server.failure or not server.is_running, "the end of the server")
        time.sleep(0.5)
        log.parent.mkdir()
        wait_for(lambda: server.restarts, "a restart")
        assert server.failure == ""


def test_stopping_while_it_is_started_again_leaves_nothing(tmp_path: Path) -> None:
    with Server(write_repository_of_one(tmp_path)) as server:
        first = server.process
        psutil.Process(server.pid).kill()
        wait_for(lambda: server.process is not first)
        again = psutil.Process(server.process.pid)
        family = [again, *again.children(recursive=True)]
    assert not any(is_running(process) for process in family)
    assert not shared_memory(region_prefix(server))
    assert not server.log.parent.exists()

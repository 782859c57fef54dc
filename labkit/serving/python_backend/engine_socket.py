"""Lets other processes of a server use an engine: they send prompts over a Unix socket and get whole completions back.

The model `gptj` owns the engine and its scheduler. The model `fastertransformer` runs in another process and sends its prompts
to the engine through this socket. Each frame contains JSON (`labkit.frames`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labkit import errors
from labkit.errors import InvalidRequest, LabkitError, NotAvailable
from labkit.frames import receive_frame, send_frame
from labkit.plurals import counted

LONGEST_FRAME = 64 * 2**20
LONGEST_PATH = 107
Reply = Callable[[list[dict[str, Any]] | LabkitError], None]
"""A function that is called once, with the completions of all prompts in order, or with an error."""


class EngineSocket:
    """Offers `EngineThread.submit` to `RemoteEngine`s in other processes, on a socket that only this user can open.

    A newer object with the same path takes the place of an older one, even if the older one is closed later.
    """

    def __init__(self, host: Any, path: Path) -> None:
        self.path = path
        self._host = host
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _reachable(path) as address:
            self._listener.bind(address)
        self._file = _file_at(path)
        self._listener.listen()
        self._clients: list[tuple[socket.socket, threading.Thread]] = []
        self._thread = threading.Thread(target=self._accept, name="labkit engine socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections, cancel their calls, and end all threads of this object."""
        if _file_at(self.path) == self._file:  # otherwise a newer object has put its own socket there
            self.path.unlink(missing_ok=True)
        _shut(self._listener)
        self._thread.join()
        for connection, thread in self._clients:
            _shut(connection)
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=_Connection(self._host, connection).run, name="labkit engine client", daemon=True)
            self._clients = [client for client in self._clients if client[1].is_alive()] + [(connection, thread)]
            thread.start()


class _Connection:
    """The connection of one client. When a connection ends, its calls are cancelled.

    A thread sends the replies, so that the engine never waits for a client.
    """

    def __init__(self, host: Any, connection: socket.socket) -> None:
        self._host, self._connection = host, connection
        self._calls: dict[int, _Call] = {}
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def run(self) -> None:
        sending = threading.Thread(target=self._send_replies, name="labkit engine replies", daemon=True)
        sending.start()
        with contextlib.suppress(OSError):
            while (frame := _receive(self._connection)) is not None:
                if "cancel" in frame:
                    if call := self._calls.get(frame["cancel"]):
                        call.cancel()
                else:
                    self._begin(frame)
        for call in list(self._calls.values()):
            call.cancel()
        _shut(self._connection)
        self._replies.put(None)
        sending.join()

    def _send_replies(self) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            while (reply := self._replies.get()) is not None:
                send_frame(self._connection, json.dumps(reply).encode())

    def _begin(self, frame: dict[str, Any]) -> None:
        number = frame["id"]
        call = _Call(len(frame["prompts"]), lambda found: self._answer(number, found))
        self._calls[number] = call
        call.begin(self._host, frame)

    def _answer(self, number: int, found: list[dict[str, Any]] | LabkitError) -> None:
        self._calls.pop(number, None)
        reply: dict[str, Any] = {"id": number}
        if isinstance(found, LabkitError):
            reply |= {"error": type(found).__name__, "message": str(found)}
        else:
            reply["completions"] = found
        self._replies.put(reply)


class _Call:
    """One call with one or more prompts. If one prompt fails, the whole call fails."""

    def __init__(self, count: int, done: Reply) -> None:
        self._done = done
        self._jobs: list[Any] = []
        self._found: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        self._left = count
        self._over = threading.Lock()  # only the thread that ends the call acquires this lock

    def begin(self, host: Any, frame: dict[str, Any]) -> None:
        from labkit.engine import SamplingParams

        try:
            if len(frame["prompts"]) > host.most:
                count = len(frame["prompts"])
                raise InvalidRequest(
                    f"the request has {counted(count, 'prompt')}; at most {host.most} may run and wait together; send fewer"
                )
            params = [SamplingParams(**given) for given in frame["params"]]
            for number, (prompt, chosen) in enumerate(zip(frame["prompts"], params, strict=True)):
                self._found[number] = [{"token_ids": [], "logprobs": []} for _ in range(chosen.num_samples)]
                self._begin_one(host, number, prompt, chosen, frame)
        except LabkitError as error:
            self._fail(error)
        except (TypeError, ValueError) as error:
            self._fail(InvalidRequest(f"the call is not understood: {error}"))
        if self._over.locked():  # a prompt failed in the engine's thread while other prompts were being submitted
            self.cancel()

    def _begin_one(self, host: Any, number: int, prompt: list[int], params: Any, frame: dict[str, Any]) -> None:
        left = params.num_samples

        def on_event(_job: Any, event: Any) -> None:
            nonlocal left
            made = self._found[number][event.sample]
            if event.token_id >= 0:
                made["token_ids"].append(event.token_id)
            if event.logprob is not None:
                made["logprobs"].append(event.logprob.logprob)
            if event.finish_reason is not None:
                made |= {"finish_reason": event.finish_reason, "stop_tokens": _stop_tokens(event.stop_reason)}
                left -= 1
                if not left:
                    self._one_done()

        limits = {"seconds": frame.get("seconds"), "is_counted": frame.get("is_counted", True)}
        self._jobs.append(host.submit(prompt, params, on_event=on_event, on_failure=self._fail, **limits))

    def cancel(self) -> None:
        for job in self._jobs:
            job.cancel()

    def _one_done(self) -> None:
        self._left -= 1
        if not self._left and self._over.acquire(blocking=False):
            self._done([completion for one in self._found for completion in one])

    def _fail(self, error: LabkitError) -> None:
        if self._over.acquire(blocking=False):
            self.cancel()
            self._done(error)


def _stop_tokens(reason: object) -> int:
    """The number of tokens at the end of a completion that stopped the text and do not belong to the text."""
    return len(reason) if isinstance(reason, tuple) else int(isinstance(reason, int))


class RemoteEngine:
    """The client's end of the socket. It sends each call to the least busy of the engines whose sockets `find` returns.

    If a connection breaks, its calls fail; the next call opens a new connection.
    """

    def __init__(self, find: Callable[[], Sequence[Path]]) -> None:
        self._find = find
        self._lines: dict[Path, _Line] = {}
        self._lock = threading.Lock()

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[dict[str, Any]],
        done: Reply,
        *,
        seconds: float | None = None,
        is_counted: bool = True,
    ) -> Callable[[], None]:
        """Continue prompts. `done` is called once, from another thread. Returns a function that cancels the call.

        params: for each prompt a dict with the arguments of `SamplingParams`. A completion is a dict with `token_ids`,
        `logprobs` (empty unless asked for), `finish_reason`, and `stop_tokens`: how many tokens at the end stopped the text.
        seconds, is_counted: as in `EngineThread.submit`. Raises `NotAvailable` if no engine can be reached.
        """
        with self._lock:
            line = self._least_busy()
        call = {"prompts": [list(p) for p in prompts], "params": list(params)}
        return line.submit(call | {"seconds": seconds, "is_counted": is_counted}, done)

    def close(self) -> None:
        """End the connections; unfinished calls fail."""
        with self._lock:
            for line in self._lines.values():
                line.close()

    def _least_busy(self) -> _Line:
        paths = self._find()
        self._lines = {path: line for path, line in self._lines.items() if path in paths and not line.broken}
        for path in paths:
            if path not in self._lines:
                with contextlib.suppress(OSError):
                    self._lines[path] = _Line(path)
        if not self._lines:
            raise NotAvailable("no engine answers: the model gptj is not loaded, or is being loaded again")
        return min(self._lines.values(), key=lambda line: line.calls)


class _Line:
    """A connection to one engine."""

    def __init__(self, path: Path) -> None:
        self.broken = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _reachable(path) as address:
            self._socket.connect(address)
        self._waiting: dict[int, Reply] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="labkit engine replies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        _shut(self._socket)
        self._thread.join()

    @property
    def calls(self) -> int:
        return len(self._waiting)

    def submit(self, call: dict[str, Any], done: Reply) -> Callable[[], None]:
        number = next(self._numbers)
        data = json.dumps(call | {"id": number}).encode()
        if len(data) > LONGEST_FRAME:
            raise InvalidRequest(f"the request has {len(data)} bytes as JSON; at most {LONGEST_FRAME} are accepted")
        self._waiting[number] = done
        self._send(data)
        if self.broken and (lost := self._waiting.pop(number, None)):
            lost(_gone())
        return lambda: self._send(json.dumps({"cancel": number}).encode())

    def _send(self, data: bytes) -> None:
        try:
            with self._lock:
                send_frame(self._socket, data)
        except OSError:
            self.broken = True

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while (frame := _receive(self._socket)) is not None:
                done = self._waiting.pop(frame["id"], None)
                if done is not None:
                    done(_error(frame) if "error" in frame else frame["completions"])
        self.broken = True
        while self._waiting:
            _, done = self._waiting.popitem()
            done(_gone())


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """Yield an address for a socket's path.

    Linux limits the path in a socket's address to 107 bytes. For a longer path, the address uses a file descriptor of the
    folder.
    """
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _file_at(path: Path) -> tuple[int, int] | None:
    """Numbers that identify the file at a path; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _shut(connection: socket.socket) -> None:
    """Close a socket, and wake a thread that waits for it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _gone() -> LabkitError:
    return NotAvailable(
        "the process of the model gptj ended before it had answered this request; ask again when the model is reloaded"
    )


def _error(frame: dict[str, Any]) -> LabkitError:
    kind = getattr(errors, frame["error"], LabkitError)
    return kind(frame["message"]) if issubclass(kind, LabkitError) else LabkitError(frame["message"])


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next frame; None at the end of the connection, and for a frame that is too long."""
    frame = receive_frame(connection, LONGEST_FRAME)
    return None if frame is None else json.loads(frame[0])

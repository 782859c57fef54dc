"""A model hub on loopback. It has the part of the Hugging Face hub's interface that downloads need, and can inject faults.

It answers `GET /api/models/REPO/revision/BRANCH` and `GET` or `HEAD /REPO/resolve/REVISION/FILE`, with byte ranges. A test
can set faults for the next few requests for a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
import transformers

import labkit

TINY = Path(labkit.__file__).parent / "builtin" / "gptj-tiny"
REPOSITORY = "EleutherAI/gpt-j-6b"
BRANCH = "float16"
WEIGHTS = "pytorch_model.bin"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = 16 * 1024
"""The number of bytes sent at a time, so that a client has received what was sent before a fault."""


@dataclass
class Fault:
    """A fault in the answer to a request for a file.

    kind: `drop` closes the connection after `after` bytes. `stall` stops sending for `seconds` after `after` bytes. `truncate`
    ends the answer after `after` bytes, as if the file ended there. `corrupt` changes the byte at `after`. `refuse` answers
    503. `slow` waits `seconds` before each piece from `after` on. `ignore-range` sends the whole file for every request.
    """

    kind: str
    after: int = 0
    seconds: float = 0.0


@dataclass
class Request:
    """A client's request, and the number of bytes of the body that were sent to the client."""

    method: str
    path: str
    range: str | None
    sent: int = 0


@dataclass
class Hub:
    """The files that the hub serves, the remaining faults of each file, and the requests so far."""

    files: dict[str, bytes]
    endpoint: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def misbehave(self, file: str, *faults: Fault) -> None:
        """Inject these faults, one into each of the next requests for `file`."""
        self.faults[file] = list(faults)

    def requests_for(self, file: str) -> list[Request]:
        """The requests for one file."""
        return [request for request in self.requests if request.path.endswith(f"/{file}")]

    def reset(self) -> None:
        """Forget the requests and the faults."""
        self.requests.clear()
        self.faults.clear()

    def model_info(self) -> dict[str, Any]:
        """The hub's description of the repository for a request with `blobs=true`."""
        return {"id": REPOSITORY, "sha": COMMIT, "siblings": [self._sibling(name) for name in self.files]}

    def _sibling(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        row: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _git_id(content)}
        if name == WEIGHTS:
            row["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
        return row

    def headers(self, name: str) -> dict[str, str]:
        """The headers that are sent with a file."""
        content = self.files[name]
        etag = hashlib.sha256(content).hexdigest() if name == WEIGHTS else _git_id(content)
        return {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{etag}"',
            "Accept-Ranges": "bytes",
        }


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = path.rpartition("/")[2]
        request = Request(self.command, path, self.headers.get("Range"))
        self.hub.requests.append(request)
        if path == f"/api/models/{REPOSITORY}/revision/{BRANCH}":
            self._send_whole(200, json.dumps(self.hub.model_info()).encode())
        elif path in {f"/{REPOSITORY}/resolve/{revision}/{name}" for revision in (BRANCH, COMMIT)} and name in self.hub.files:
            self.close_connection = True
            with suppress(OSError):  # the client may have closed the connection
                self._send_file(request, name)
        else:
            self._send_whole(404, b"")

    def _send_whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self._end_headers()
        self.wfile.write(body)

    def _end_headers(self) -> None:
        """Tell the client if the connection will close: otherwise the client may send its next request over this connection."""
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_file(self, request: Request, name: str) -> None:
        """Send a file or the requested range of it, and inject the file's next fault."""
        content = self.hub.files[name]
        due = self.hub.faults.get(name) if self.command == "GET" else None
        fault = due.pop(0) if due else Fault("none")
        if fault.kind == "refuse":
            self._send_whole(503, b"")
            return
        begin = self._range_start() if fault.kind != "ignore-range" else 0
        end = max(begin, fault.after) if fault.kind == "truncate" else len(content)
        self._send_file_headers(name, begin, end)
        if self.command == "HEAD":
            return
        if fault.kind == "corrupt":
            content = content[: fault.after] + bytes([content[fault.after] ^ 0xFF]) + content[fault.after + 1 :]
        for start in range(begin, end, PIECE):
            piece = content[start : min(start + PIECE, end)]
            if fault.kind in ("drop", "stall", "slow") and start + len(piece) > fault.after:
                if fault.kind == "drop":
                    piece = piece[: max(0, fault.after - start)]
                    end = start + len(piece)
                time.sleep(fault.seconds)
            self.wfile.write(piece)
            self.wfile.flush()
            request.sent += len(piece)
            if start + len(piece) >= end:
                return

    def _range_start(self) -> int:
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0

    def _send_file_headers(self, name: str, begin: int, end: int) -> None:
        size = len(self.hub.files[name])
        self.send_response(206 if begin else 200)
        for key, value in self.hub.headers(name).items():
            self.send_header(key, value)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self._end_headers()


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub with these files on a free port until the block ends."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_model(directory: Path) -> transformers.GPTJForCausalLM:
    """Write a random GPT-J with the files of gpt-j-6b's repository: a half-precision `pytorch_model.bin` and other files."""
    config = transformers.GPTJConfig.from_pretrained(TINY, n_layer=1, n_embd=64, n_head=2, rotary_dim=16, n_positions=64)
    torch.manual_seed(6)
    model = transformers.GPTJForCausalLM(config).half().eval()
    config.save_pretrained(directory)
    # the file on the real hub also holds each layer's causal mask, which is not a weight
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()}
    torch.save(model.state_dict() | masks, directory / WEIGHTS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, directory / name)
    return model

"""Messages over a socket between two processes: plain values and tensors, a frame each."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

SAID_ALL = "\0"
"""A line that begins so ends what a process prints for one message; it is not shown."""

_HEAD = struct.Struct("<QQ")


def send(to: socket.socket, message: Any, tensors: dict[str, Tensor]) -> None:
    """Send JSON and tensors."""
    text = json.dumps(message).encode()
    data = save(tensors) if tensors else b""
    to.sendall(_HEAD.pack(len(text), len(data)) + text + data)


def receive(source: socket.socket) -> tuple[Any, dict[str, Tensor]] | None:
    """The next message; None when the other side has gone."""
    head = _exactly(source, _HEAD.size)
    if head is None:
        return None
    text_size, data_size = _HEAD.unpack(head)
    text = _exactly(source, text_size)
    data = _exactly(source, data_size)
    if text is None or data is None:
        return None
    return json.loads(text), load(data) if data else {}


def _exactly(source: socket.socket, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        try:
            part = source.recv(min(size - len(found), 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        found += part
    return bytes(found)

"""Messages between `launch` and its processes. Each message is one frame with JSON and tensors."""

from __future__ import annotations

import json
import socket
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from labkit.frames import receive_frame, send_frame

Message = tuple[Any, dict[str, Tensor]]
"""A message: a value that JSON can hold, and tensors by name."""


def send_message(to: socket.socket, value: Any, tensors: dict[str, Tensor]) -> None:
    """Send a message. Raises `OSError` if the process at the other end is gone."""
    send_frame(to, json.dumps(value).encode(), save(tensors) if tensors else b"")


def receive_message(source: socket.socket) -> Message | None:
    """Wait for the next message and return it. Returns None if the process at the other end is gone."""
    frame = receive_frame(source)
    if frame is None:
        return None
    text, data = frame
    return json.loads(text), load(data) if data else {}

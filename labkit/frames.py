"""Sends and receives frames over a socket between two processes. A frame is two byte strings, preceded by their lengths.

This module does not interpret the bytes of a frame.
"""

from __future__ import annotations

import socket
import struct

_LENGTHS = struct.Struct("<QQ")
_CHUNK_BYTES = 1 << 20


def pack_frame(text: bytes, data: bytes = b"") -> bytes:
    """Pack a text and data into the bytes of one frame."""
    return _LENGTHS.pack(len(text), len(data)) + text + data


def unpack_frame(frame: bytes) -> tuple[bytes, bytes]:
    """The text and the data of a whole frame. Raises `ValueError` if these bytes are not exactly one frame."""
    if len(frame) < _LENGTHS.size:
        raise ValueError(f"{len(frame)} bytes are not a frame")
    text_size, data_size = _LENGTHS.unpack_from(frame)
    if len(frame) != _LENGTHS.size + text_size + data_size:
        raise ValueError(f"{len(frame)} bytes are not one frame of {text_size} + {data_size} bytes")
    return frame[_LENGTHS.size : _LENGTHS.size + text_size], frame[_LENGTHS.size + text_size :]


def send_frame(to: socket.socket, text: bytes, data: bytes = b"") -> None:
    """Send one frame; raises `OSError` if the other side is gone."""
    to.sendall(pack_frame(text, data))


def receive_frame(source: socket.socket, most_bytes: int | None = None) -> tuple[bytes, bytes] | None:
    """The text and the data of the next frame; None if the other side is gone or if the frame is longer than `most_bytes`."""
    head = _exactly(source, _LENGTHS.size)
    if head is None:
        return None
    text_size, data_size = _LENGTHS.unpack(head)
    if most_bytes is not None and text_size + data_size > most_bytes:
        return None
    text = _exactly(source, text_size)
    data = _exactly(source, data_size)
    return None if text is None or data is None else (text, data)


def _exactly(source: socket.socket, size: int) -> bytes | None:
    """The next `size` bytes, or None if the other side closes the connection before all bytes have arrived."""
    found = bytearray()
    while len(found) < size:
        try:
            part = source.recv(min(size - len(found), _CHUNK_BYTES))
        except ConnectionError:
            return None
        if not part:
            return None
        found += part
    return bytes(found)

"""Frames over a socket arrive as they were sent. The end of the connection or a frame that is too long raises no error."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading

import pytest

from labkit.frames import receive_frame, send_frame


@pytest.mark.parametrize(("text", "data"), [(b"", b""), (b"{}", b""), (b"x" * 3_000_000, b"y" * 5_000_000)])
def test_a_frame_comes_as_it_was_sent(text: bytes, data: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        sending = threading.Thread(target=lambda: (send_frame(one, text, data), send_frame(one, b"next")))
        sending.start()
        assert receive_frame(other) == (text, data)
        assert receive_frame(other) == (b"next", b"")
        sending.join()


def test_the_other_side_has_gone() -> None:
    for sent in (b"", b"\x05", struct.pack("<QQ", 10, 10) + b"half"):
        one, other = socket.socketpair()
        with other:
            one.sendall(sent)
            one.close()
            assert receive_frame(other) is None


def test_a_frame_that_is_too_long_is_not_read() -> None:
    one, other = socket.socketpair()
    with one, other:
        send_frame(one, b"12345", b"678")
        assert receive_frame(other, most_bytes=8) == (b"12345", b"678")
        one.sendall(struct.pack("<QQ", 2**63, 2**63))
        assert receive_frame(other, most_bytes=8) is None


def test_frames_need_no_torch() -> None:
    """The modules for frames must not import torch, because processes use them that do not load torch, to save memory."""
    program = "import labkit.frames, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

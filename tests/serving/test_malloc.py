"""Which memory blocks return to the system when they are freed. Each test starts a process, because the allocator reads its
settings only once.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from labkit.serving.malloc import GIVE_BACK, KEPT_BYTES, keep_blocks

MAPPED = """
import ctypes
from labkit.serving.malloc import keep_blocks

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info

def mapped(size):
    for _ in range(200):  # into gaps between others, until there are none
        before = libc.mallinfo2().hblks
        libc.malloc(ctypes.c_size_t(size))
    return libc.mallinfo2().hblks > before

"""


def mapped(code: str, size: int, environment: dict[str, str]) -> bool:
    """Whether a block of this size is memory-mapped after `code` has run. Mapped blocks return to the system when freed."""
    script = f"{MAPPED}{code}\nprint(mapped({size}))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="not measured here: glibc's allocator")
@pytest.mark.parametrize(
    ("code", "size", "environment", "expected"),
    [
        ("", 2**16, GIVE_BACK, True),
        ("", 2**15, GIVE_BACK, False),
        ("keep_blocks()", KEPT_BYTES // 2, GIVE_BACK, False),
        ("keep_blocks()", KEPT_BYTES, GIVE_BACK, True),
        ("keep_blocks()", 2**19, GIVE_BACK | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}, True),
    ],
)
def test_blocks_that_go_back(code: str, size: int, environment: dict[str, str], expected: bool) -> None:
    assert mapped(code, size, environment) == expected


def test_another_threshold_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "123456")
    keep_blocks()
    assert os.environ["MALLOC_MMAP_THRESHOLD_"] == "123456"

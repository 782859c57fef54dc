"""A native library that runs on an emulated ARM CPU and is used like the native library of this machine.

`compiled` cross-compiles the library, with the flags of `labkit.native.build`, into a program that calls its functions
(calls.cpp). `EmulatedLibrary` runs this program under qemu and has the functions of a loaded library. Each call copies the
tensors in its arguments into memory that both processes share, and copies them back afterwards. So the tests of the native
kernels run unchanged.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import Structure, c_char_p, c_double, c_float, c_void_p
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from labkit.native import build, library, packed_weight

QEMU = "qemu-aarch64"
GNU = ["aarch64-linux-gnu-g++"]
CLANG = ["clang++", "-target", "aarch64-linux-gnu"]
_ARENA, _ARENA_BYTES = 0x1000000000, 1 << 28
_REQUEST = struct.Struct("<32s24Q")
_GUARD = bytes([0xA5]) * 128
_CALLS = Path(__file__).with_name("calls.cpp")


def missing() -> str:
    """The reason why no ARM CPU can be emulated here; an empty string if an ARM CPU can be emulated."""
    lacking = [name for name in (GNU[0], QEMU) if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)}; Debian's g++-aarch64-linux-gnu and qemu-user have them" if lacking else ""


@functools.cache
def cpu_models() -> frozenset[str]:
    """The CPU models that this qemu can emulate."""
    listed = subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True, check=False).stdout  # the exit status is 1
    found = frozenset(listed.split())
    assert "max" in found, f"{QEMU} -cpu help lists no CPU models: {listed!r}"
    return found


def compiled(compiler: list[str], folder: Path, *, as_on_macos: bool = False) -> Path:
    """Compile the program for ARM in `folder`. as_on_macos: use only the threads of C++'s library, no OpenMP and no futex."""
    flags = ["-DLK_WITHOUT_LINUX", "-fopenmp-simd"] if as_on_macos else build.openmp_flags(compiler, folder)
    objects = build.compile_sources(compiler, folder, flags, more=(_CALLS,))
    program = folder / "calls"
    subprocess.run([*compiler, "-static", "-pthread", *flags, "-o", str(program), *map(str, objects)], check=True)
    return program


class EmulatedLibrary:
    """The functions of native.h, on the CPU model `cpu`. Close it when it is no longer needed."""

    def __init__(self, program: Path, cpu: str, folder: Path) -> None:
        arena = folder / f"{program.parent.name}-{cpu}.arena"
        with arena.open("wb+") as file:
            file.truncate(_ARENA_BYTES)
            self._memory = mmap.mmap(file.fileno(), _ARENA_BYTES)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        command = [QEMU, "-cpu", cpu, str(program), str(arena), str(_ARENA_BYTES)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lock = threading.Lock()
        self._storages: dict[int, tuple[int, int]] = {}
        self._handles: set[int] = set()
        self._placed: dict[int, tuple[int, int]] = {}
        self._used = 0

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait() == 0

    def remember(self, tensor: Tensor) -> None:
        """Record where the memory of a tensor begins and ends, because its address can become an argument."""
        storage = tensor.untyped_storage()
        self._storages[tensor.data_ptr()] = storage.data_ptr(), storage.nbytes()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in library._SIGNATURES:
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        result, types = library._SIGNATURES[name]
        with self._lock:
            self._placed, self._used = {}, len(_GUARD)
            self._memory[: self._used] = _GUARD
            words = [self._word(value, kind) for value, kind in zip(arguments, types, strict=True)]
            word = self._ask(name, words)
            self._take_back(name, result is c_char_p)
            if result is c_char_p:
                return bytes(self._memory[: len(_GUARD)]).partition(b"\0")[0]
        if result is c_void_p:
            self._handles.add(word)
        return None if result is None else result(word).value

    def _ask(self, name: str, words: list[int]) -> int:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_REQUEST.pack(name.encode(), *words, *[0] * (24 - len(words))))
        process.stdin.flush()
        answer = process.stdout.read(8)
        assert len(answer) == 8, f"the emulated program ended in {name}, with status {process.wait()}"
        return int.from_bytes(answer, "little")

    def _word(self, value: Any, kind: Any) -> int:
        if kind in (c_float, c_double):
            return int.from_bytes(struct.pack("<d", value), "little")
        if kind is c_char_p:
            return self._put(value + b"\0")
        if kind is c_void_p:
            return self._address(value.value if isinstance(value, c_void_p) else value)
        if issubclass(kind, ctypes._Pointer):
            return self._put(bytes(self._translated(value._obj)))
        return int(value) % (1 << 64)

    def _translated(self, given: Structure) -> Structure:
        """A copy of a structure in which each address is replaced by the address in the emulated program."""
        copy = type(given)()
        for name, kind, *_ in given._fields_:
            value = getattr(given, name)
            if kind is c_void_p:
                value = self._address(value)
            elif issubclass(kind, Structure):
                value = self._translated(value)
            elif issubclass(kind, ctypes._Pointer):
                parts = b"".join(bytes(self._translated(value[i])) for i in range(given.layers))
                value = ctypes.cast(self._put(parts), kind)
            setattr(copy, name, value)
        return copy

    def _address(self, address: int | None) -> int:
        if not address or address in self._handles:
            return address or 0
        assert address in self._storages, f"{address:#x} is no address of a tensor that `pointer` was given"
        base, size = self._storages[address]
        if base not in self._placed:
            self._placed[base] = self._put(ctypes.string_at(base, size)), size
        return self._placed[base][0] + address - base

    def _put(self, data: bytes) -> int:
        """Copy data into the shared memory, at a multiple of 64 bytes and followed by a guard."""
        at = self._used
        end = at + len(data)
        self._used = (end + len(_GUARD) + 63) // 64 * 64
        assert self._used <= _ARENA_BYTES, "the tensors of one call are too large for the shared memory"
        self._memory[at:end], self._memory[end : self._used] = data, _GUARD[:1] * (self._used - end)
        return _ARENA + at

    def _take_back(self, name: str, returns_text: bool) -> None:
        """Copy the tensors back, and check that no memory before or after them has changed."""
        assert returns_text or self._memory[: len(_GUARD)] == _GUARD
        for base, (at, size) in self._placed.items():
            end = at - _ARENA + size
            guard = self._memory[end : end + len(_GUARD)]
            assert guard == _GUARD, f"{name} wrote past the end of a tensor of {size} bytes"
            ctypes.memmove(base, self._base + at - _ARENA, size)


@contextmanager
def instead_of_the_native_library(emulated: EmulatedLibrary) -> Iterator[None]:
    """Let `labkit.native` call the emulated library inside the block."""
    plain = library._address

    def remembering(tensor: Tensor, *wanted: Any) -> int:
        emulated.remember(tensor)
        return plain(tensor, *wanted)

    with (
        mock.patch.object(library, "_load", return_value=(emulated, "")),
        mock.patch.object(library, "_address", remembering),
        mock.patch.object(packed_weight, "_local", threading.local()),
    ):
        yield

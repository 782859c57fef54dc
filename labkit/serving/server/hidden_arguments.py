"""Starts a program with arguments that the process list does not show. Every user can read `/proc/PID/cmdline`.

A list of pointers in the program's memory says where each argument begins. The hidden arguments are in the environment, which
only the program's user can read. For each hidden argument, the visible command line has a placeholder. After the kernel has
loaded the program, and before its first instruction, the parent changes the placeholders' pointers so that they point into the
environment. The parent also removes the variables from the list that the program's own children would inherit. Linux lets a
parent change its child through ptrace, even for ordinary users, unless the machine forbids it. Some containers forbid it, and
so does a `kernel.yama.ptrace_scope` of 2 or 3.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

TRACEME, DETACH = 0, 17  # From Linux's ptrace.
START_STACK, ENV_START, ENV_END = 28, 50, 51  # The positions of fields in /proc/PID/stat, counted from 1 as in proc(5).
NAME = "LABKIT_HIDDEN_{}"
WORD = struct.calcsize("P")


class CannotHide(OSError):
    """Raised if this machine does not let a parent process write into the memory of its child."""


def start_hidden(
    command: Sequence[str], hidden: Sequence[str], environment: dict[str, str], in_child: Callable[[], None]
) -> subprocess.Popen[bytes]:
    """Start a command with the arguments `hidden` at its end.

    The process list shows each hidden argument only up to its first colon.

    in_child: called in the new process before the program starts. Raises `CannotHide` if the machine forbids hiding; in that
    case the program does not run.
    """

    def prepare() -> None:
        in_child()
        if _ptrace(TRACEME, 0):
            raise CannotHide

    names = {NAME.format(number): argument for number, argument in enumerate(hidden)}
    shown = [f"{argument.split(':')[0]}:..." for argument in hidden]
    try:
        program = subprocess.Popen([*command, *shown], env=environment | names, preexec_fn=prepare)
    except subprocess.SubprocessError as error:
        raise CannotHide("ptrace is not allowed") from error
    try:
        _, status = os.waitpid(program.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise CannotHide("the program ended before its first instruction")
        _redirect(program.pid, list(names))
        if _ptrace(DETACH, program.pid):
            raise CannotHide("the program could not be detached")
    except (OSError, ValueError, struct.error) as error:
        program.send_signal(signal.SIGKILL)
        program.wait()
        raise CannotHide(str(error)) from error
    return program


def _redirect(pid: int, names: Sequence[str]) -> None:
    """Replace the last arguments of a program that was just loaded with the values of these environment variables."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    stack, env_start, env_end = (int(fields[number - 3]) for number in (START_STACK, ENV_START, ENV_END))
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as file:
        memory = cast(BinaryIO, file)
        memory.seek(env_start)
        strings = memory.read(env_end - env_start)
        memory.seek(stack)
        (count,) = struct.unpack("P", memory.read(WORD))
        arguments = list(struct.unpack(f"{count}P", memory.read(WORD * count)))
        variables = _pointers(memory, stack + (count + 2) * WORD)
        # The list must keep its length: the program finds the data after the list by the list's end.
        values = {name: env_start + strings.index(f"{name}=".encode()) for name in names}
        kept = next(pointer for pointer in variables if pointer not in values.values())
        variables = [kept if pointer in values.values() else pointer for pointer in variables]
        arguments[-len(names) :] = [values[name] + len(name) + 1 for name in names]
        memory.seek(stack + WORD)
        memory.write(struct.pack(f"{count}P", *arguments))
        memory.seek(stack + (count + 2) * WORD)
        memory.write(struct.pack(f"{len(variables)}P", *variables))


def _pointers(memory: BinaryIO, address: int) -> list[int]:
    """The list of pointers at an address, up to the zero at its end."""
    found = []
    memory.seek(address)
    while pointer := struct.unpack("P", memory.read(WORD))[0]:
        found.append(pointer)
    return found


def _ptrace(request: int, pid: int) -> int:
    """Call ptrace; returns zero on success."""
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    library.ptrace.restype = ctypes.c_long
    return int(library.ptrace(request, pid, None, None))

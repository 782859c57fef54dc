"""The end of a server's log without uninteresting lines, for error messages. The log file itself keeps every line."""

from __future__ import annotations

import re
from pathlib import Path

LOG_LINES = 40

GPU_DEVICE = Path("/dev/nvidiactl")
"""This file does not exist if there is no GPU driver."""

HARMLESS = re.compile(
    r"""
    Non-graceful\ termination\ detected       # each model's process writes this when its server has ended
    | HandleCancellation\ called\ even\ when  # a client closed its stream after the last response
    | \.cc:\d+\]\ $                           # the heading of a table; tables are left out
    """,
    re.VERBOSE,
)
HARMLESS_WITHOUT_GPU = re.compile(
    "CUDA driver version is insufficient|CudaDriverHelper has not been initialized|CUDA memory pool disabled"
    "|no pinned memory pool|Failed to initialize NVML|DCGM unable to start"
)
"""Lines, some marked E for error, that every start without a GPU writes. On a machine with a GPU these lines report a fault."""


def end_of_log(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log, without tables, empty lines and lines that are known to be harmless."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    told = [line for line in text.splitlines() if line.strip() and not line.startswith(("+--", "|")) and not is_harmless(line)]
    return "\n".join(told[-lines:])


def is_harmless(line: str) -> bool:
    """Whether a line of the log is known not to report a fault on this machine."""
    return bool(HARMLESS.search(line) or (not GPU_DEVICE.exists() and HARMLESS_WITHOUT_GPU.search(line)))

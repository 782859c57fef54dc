"""The end of a server's log as it is shown to people; the file keeps every line."""

from __future__ import annotations

import re
from pathlib import Path

LOG_LINES = 40

GPU_DEVICE = Path("/dev/nvidiactl")
"""Missing where there is no GPU driver."""

HARMLESS = re.compile(
    r"""
    Non-graceful\ termination\ detected       # each model's process says so when its server has ended
    | HandleCancellation\ called\ even\ when  # a stream's client closed it after the last response
    | \.cc:\d+\]\ $                           # the heading of a table, which is left out
    """,
    re.VERBOSE,
)
HARMLESS_WITHOUT_GPU = re.compile(
    "CUDA driver version is insufficient|CudaDriverHelper has not been initialized|CUDA memory pool disabled"
    "|no pinned memory pool|Failed to initialize NVML|DCGM unable to start"
)
"""Lines, some of them marked E for error, of every start on a machine without a GPU; with one they mean something."""


def end_of_log(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log that tell something: no tables, no empty lines, none that is known to be harmless."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    told = [line for line in text.splitlines() if line.strip() and not line.startswith(("+--", "|")) and not is_harmless(line)]
    return "\n".join(told[-lines:])


def is_harmless(line: str) -> bool:
    """Whether a line of the log is known to tell of nothing that is wrong on this machine."""
    return bool(HARMLESS.search(line) or (not GPU_DEVICE.exists() and HARMLESS_WITHOUT_GPU.search(line)))

"""A short traceback, in a notebook, of an error in a kernel: the learner's own lines. It does not know how kernels run.

Without it, a notebook shows some seventy lines of Triton's interpreter around the one line that is wrong.
"""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from functools import partial
from pathlib import Path

import labkit
from labkit.exercises.case import unwrapped

MOST_FRAMES = 3
"""The most frames that are shown, the last of the learner's own."""
ALL_FRAMES = "All frames: import sys, traceback; traceback.print_exception(sys.last_value)"
_NOT_OWN = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    str(Path(labkit.__file__).parent),
)


def show_shortly(error: BaseException) -> None:
    """Make IPython show this error by `short_traceback`; the error itself and its frames stay as they are."""
    with contextlib.suppress(AttributeError):  # a class with slots; its traceback stays long
        setattr(error, "_render_traceback_", partial(short_traceback, error))  # noqa: B010


def short_traceback(error: BaseException) -> list[str]:
    """The last of the learner's own frames, the error that they raised, and how to see all frames."""
    errors = unwrapped(error)
    frames = [frame for each in errors for frame in own_frames(each)]
    lines = [f"line {frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames[-MOST_FRAMES:]]
    return [*lines, *(line.rstrip() for line in traceback.format_exception_only(errors[-1])), ALL_FRAMES]


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error's traceback that belong neither to Python, nor to an installed package, nor to labkit."""
    return [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(("<frozen", *_NOT_OWN))
    ]

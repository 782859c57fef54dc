"""Makes a short traceback for an error in a kernel, so that a notebook shows only the learner's own lines. This module does not
know how kernels run.

Without this module, a notebook shows about seventy lines of Triton's interpreter around the single line that is wrong.
"""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from functools import partial
from pathlib import Path

import labkit
from labkit.exercises.case import unwrapped
from labkit.exercises.error_advice import advice_on

MOST_FRAMES = 3
"""The largest number of frames that are shown. The shown frames are the last frames of the learner's own code."""
ALL_FRAMES = "All frames: import sys, traceback; traceback.print_exception(sys.last_value)"
_NOT_OWN = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    str(Path(labkit.__file__).parent),
)


def show_shortly(error: BaseException) -> None:
    """Make IPython show this error with `short_traceback`. The error itself and its frames do not change."""
    # An exception class with slots cannot take the attribute; its traceback stays long.
    with contextlib.suppress(AttributeError):
        setattr(error, "_render_traceback_", partial(short_traceback, error))  # noqa: B010


def short_traceback(error: BaseException) -> list[str]:
    """The lines of a short traceback: how to see all frames, the last frames of the learner's own code, and the error.

    The last line is the most useful one. It says what to do about the error or, if that is not known, what the error is.
    """
    errors = unwrapped(error)
    frames = [frame for each in errors for frame in own_frames(each)]
    lines = [f"line {frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames[-MOST_FRAMES:]]
    raised = errors[-1]
    said = "".join(traceback.format_exception_only(raised)).removeprefix(f"{type(raised).__module__}.").rstrip()
    advice = advice_on(raised)
    return [ALL_FRAMES, *lines, said, *([f"What to do: {advice}."] if advice else [])]


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames in an error's traceback that belong to the learner's code (not to Python, an installed package or labkit)."""
    return [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(("<frozen", *_NOT_OWN))
    ]

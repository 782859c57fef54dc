"""The answer to exercise 5.10: reference, comparison and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab05.fp8 import FP8_CAST


def fp8_cast(x: Tensor, history: Tensor, dtype: torch.dtype) -> tuple[Tensor, float, Tensor]:
    """The reference solution of exercise 5.10."""
    return _cast(x, history, dtype)


WHOLE: dict[str, Callable[[float], float]] = {
    "down": math.floor,
    "up": math.ceil,
    "nearest": round,
    "cut": int,
    "no": float,
}
"""The ways to round an exponent to a whole number, by name; "no" does not round it."""


def _cast(
    x: Tensor,
    history: Tensor,
    dtype: torch.dtype,
    *,
    past: str = "all",
    clip: bool = True,
    scaling: str = "down",
    most: float | None = None,
    back: bool = True,
    moves: str = "front",
    guard: bool = True,
    magnitude: bool = True,
) -> tuple[Tensor, float, Tensor]:
    """Return the values, the scale and the new history. Options make the known mistakes.

    `past` says from which magnitudes the scale is computed, `scaling` says how its exponent is rounded, and `moves` says how
    the newest magnitude is added to the history.
    """
    most = most or torch.finfo(dtype).max
    now, newest = x.abs().max(), (x.abs() if magnitude else x).max()[None]
    amax = float({"all": history.max(), "newest": history[0], "now": now, "both": torch.maximum(history.max(), now)}[past])
    scale = 1.0
    if amax or not guard:
        scale = 2.0 ** WHOLE[scaling](math.log2(most / amax))
    scaled = x * scale
    scaled = scaled.clamp(-most, most) if clip else scaled
    values = scaled.to(dtype).float() / (scale if back else 1.0)
    new = {"front": (newest, history[:-1]), "back": (history[1:], newest), "none": (history,), "longer": (newest, history)}[
        moves
    ]
    return values, scale, torch.cat(new)


FP8_CAST_ANSWER = Answer(
    exercise=FP8_CAST,
    reference=fp8_cast,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "Your scale comes from x itself. Delayed scaling uses only the history, so that x does not have to be read twice.",
            partial(_cast, past="now"),
        ),
        Mistake(
            "Your scale depends on x and on the history. Delayed scaling uses only the history; larger numbers are clipped.",
            partial(_cast, past="both"),
        ),
        Mistake(
            "Your scale comes only from the newest step; use the largest number of the history.", partial(_cast, past="newest")
        ),
        Mistake(
            "Numbers beyond the range became infinity or NaN: clamp x times scale before the conversion.",
            partial(_cast, clip=False),
        ),
        Mistake("The scale must be a power of two: take the floor of the logarithm.", partial(_cast, scaling="no")),
        Mistake(
            "Your scale is rounded up, so the largest number of the history does not fit: take floor, not ceil.",
            partial(_cast, scaling="up"),
        ),
        Mistake(
            "Your scale is the nearest power of two, so the largest number of the history may not fit: take floor, not round.",
            partial(_cast, scaling="nearest"),
        ),
        Mistake(
            "Below 1, your scale is too large: int() rounds a negative logarithm towards 0. Take floor.",
            partial(_cast, scaling="cut"),
        ),
        Mistake("The history holds magnitudes: take the maximum of abs().", partial(_cast, magnitude=False)),
        Mistake(
            "You use 448 for both formats, but e5m2 goes up to 57344. Ask torch for the largest number of the format.",
            partial(_cast, most=448.0),
        ),
        Mistake("Divide the converted numbers by the scale, so that they can be compared with x.", partial(_cast, back=False)),
        Mistake(
            "Return the history with the largest magnitude of x at the front; yours did not change.",
            partial(_cast, moves="none"),
        ),
        Mistake("The newest magnitude comes first in the history; you put it last.", partial(_cast, moves="back")),
        Mistake("Drop the oldest magnitude: the history keeps its length.", partial(_cast, moves="longer")),
        Mistake("If the whole history is 0, the scale must be 1.0; your function divides by 0.", partial(_cast, guard=False)),
    ),
    names={"[0]": "values", "[1]": "scale", "[2]": "new_history"},
)
ANSWERS = (FP8_CAST_ANSWER,)

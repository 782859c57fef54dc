"""Exercise 5.10: a cast to FP8 whose scale comes from earlier training steps, as in Transformer Engine's delayed scaling."""

from __future__ import annotations

import torch

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def _history(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device="cpu")


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    real = draws.real_inputs(3)[:, :40]
    amax = float(real.abs().max())
    past = [draws.pick.uniform(1, 60) for _ in range(draws.pick.randrange(3, 9))]
    return [
        Case(
            "inputs of fc_out in gptj-tiny, e4m3, an earlier step had larger numbers",
            (real, _history(0.7 * amax, 5.3 * amax, amax), E4M3),
        ),
        Case("numbers that are too large for the scale, e4m3", (draws.one_outlier(30), _history(1.9, 2.3), E4M3)),
        Case(f"a history of {len(past)} steps, e5m2", (draws.normal(4, 9, scale=9), _history(*past), E5M2)),
        Case("numbers that are too large for the scale, e5m2", (draws.normal(25) * 3000, _history(0.01, 0.03), E5M2)),
        Case(
            "numbers beyond the range of e4m3, so that the scale is below 1", (draws.normal(9) * 400, _history(910, 1500), E4M3)
        ),
        Case("small numbers, e4m3", (draws.negative(12) * 1e-4, _history(3.3e-4, 2.1e-4, 2.9e-4), E4M3)),
        Case("all numbers 0, and a history of zeros, e4m3", (draws.constant(6) * 0, _history(0, 0, 0), E4M3)),
    ]


FP8_CAST = Exercise(
    name="lab05.fp8_cast",
    lab="05",
    number="5.10",
    title="FP8 with a scale from the past",
    function="fp8_cast",
    statement=(
        "`history` `[n]` holds the largest magnitudes of `x` in the last `n` steps, newest first. With $M$ = "
        "`torch.finfo(dtype).max` and $h$ = the history's maximum, the scale is the largest power of two for which "
        "$\\text{scale} \\cdot h \\le M$; for zeros it is 1.0. Multiply `x` by it, **clip** to $\\pm M$, convert to "
        "`dtype`. Return `(values, scale, new_history)`:\n\n- the converted numbers in float32, divided by the scale again;\n- the "
        "scale;\n- the history with the largest magnitude of `x` in front, without its oldest number."
    ),
    points=14,
    minutes=8,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "The scale is known before x is looked at. What happens then to numbers of x that are larger than all in the history?",
        "The scale is 2 to the power of the rounded-down logarithm (base 2) of M / amax. Clamp before the conversion: what it "
        "makes of numbers beyond M depends on the format.",
        "2.0 ** math.floor(math.log2(M / amax)); (x * scale).clamp(-M, M).to(dtype).float() / scale; torch.cat((x.abs().max()[None], history[:-1]))",
    ),
)
EXERCISES = (FP8_CAST,)

"""Exercise 8.3: the batch size at which a decode step turns from memory-bound to compute-bound."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [
        ("GPT 20B in fp16 on an A100, no cache", (20_300_000_000, 40_600_000_000, 0, 312e12, 2.039e12)),
        ("a cache that is read as long as a sequence is computed", (10**9, 2 * 10**9, 4 * 10**6, 1e12, 2e9)),
        ("a cache that is read longer than a sequence is computed", (10**9, 2 * 10**9, 90 * 10**6, 300e12, 2e12)),
    ]
    for number in range(6):
        parameters = draw.randrange(10**8, 10**11)
        weights = int(parameters * draw.choice([0.5625, 1, 2, 4]))
        flops, read = 10 ** draw.uniform(12, 15), 10 ** draw.uniform(11, 12.6)
        most = 2 * parameters * read / flops  # how many bytes can be read in the time that one sequence is computed
        cache = int(most * draw.uniform(0.1, 0.8)) if number < 4 else int(most * draw.uniform(1.2, 9))
        words = f"{parameters / 1e9:.1f} billion weights, {cache / 1e6:.2f} MB of cache a sequence"
        rows.append((f"{words} ({number + 1})", (parameters, weights, cache, flops, read)))
    return [Case(label, arguments) for label, arguments in rows]


TURNING_BATCH = Exercise(
    name="lab08.turning_batch",
    lab="08",
    number="8.3",
    title="Where decode turns compute-bound",
    function="turning_batch",
    statement=(
        "A decode step of B sequences computes 2 FLOPs for each parameter and sequence. It reads all `weight_bytes` once, and "
        "`cache_bytes` for each sequence. Return the batch B, a number with a fraction, for which computing takes as long as "
        "reading. Return `None` if no batch is large enough: then each sequence takes at least as long to read as to compute."
    ),
    points=12,
    minutes=7,
    difficulty=3,
    core=True,
    cases=_cases,
    hints=(
        "Write down the seconds of computing and the seconds of reading, both with B.",
        "Set both equal and solve for B. Put all terms with B on one side: what is read while one sequence is computed, "
        "without the cache of that sequence.",
        "rest = 2 * parameters * bytes_per_second / flops_per_second - cache_bytes",
    ),
)
EXERCISES = (TURNING_BATCH,)

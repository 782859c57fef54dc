"""Exercise 8.5: the time of a batch of requests, from the weights, the arithmetic, the launches and the link."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.plurals import counted


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for number in range(9):
        layers, hidden = draw.randrange(12, 110), 128 * draw.randrange(16, 160)
        parameters = 12 * layers * hidden * hidden
        model = {
            "parameters": parameters,
            "layers": layers,
            "hidden": hidden,
            "weight_bytes": parameters * (1 if number == 4 else 2),
        }
        gpu = {"read": draw.uniform(5e11, 3e12), "flops": draw.uniform(4e13, 6e14), "gap": draw.uniform(1e-5, 1e-4)}
        link = {"hop": draw.uniform(1e-6, 1e-5), "rate": draw.uniform(1e10, 3e11)}
        shards, batch = (1, 2, 4, 8)[number % 4], (1, 3, 40, 256)[number % 4]
        tokens, new = draw.randrange(8, 512), 1 if number == 5 else draw.randrange(2, 200)
        words = (
            f"{parameters / 1e9:.1f} billion weights in {layers} layers, TP {shards}, batch {batch}, "
            f"{counted(tokens, 'token')} in, {new} out, a gap of {1e6 * gpu['gap']:.0f} microseconds"
        )
        cases.append(Case(words, (model, gpu, link, shards, batch, tokens, new)))
    return cases


REQUEST_MS = Exercise(
    name="lab08.request_ms",
    lab="08",
    number="8.5",
    title="The time of a request",
    function="request_ms",
    statement=(
        "A pass over `n` tokens takes the **longer** of two times: reading `weight_bytes / shards` at `read`, and $2 \\cdot n \\cdot$ "
        "`parameters / shards` FLOPs at `flops`. Each of `layers` layers adds `gap` seconds, and two ring all-reduces of "
        "$2 \\cdot n \\cdot$ `hidden` bytes with `hop` and `rate` (exercise 8.4).\n\nThe prefill is one pass over all tokens "
        "of `batch` prompts and gives the first new token; each further token takes a pass over `batch` tokens. Return the "
        "**milliseconds** for `new_tokens` tokens."
    ),
    points=14,
    minutes=14,
    difficulty=4,
    cases=_cases,
    hints=(
        "Write a small function for the seconds of one pass over n tokens. With which n is it called, and how often?",
        "One pass is a roofline plus, for each layer, a gap and two all-reduces. The prefill handles all prompts at the same "
        "time. It is followed by one pass fewer than there are new tokens.",
        "once(batch * prompt_tokens) + (new_tokens - 1) * once(batch), with once(n) in seconds",
    ),
)
EXERCISES = (REQUEST_MS,)

"""Lets a student guess tokens for its teacher: with a learner's rule on real predictions, and in the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import labkit
from labkit.compress.dense_model import DenseModel
from labkit.engine.schedule.draft_length import MOST_GUESSES, expected_tokens
from labkit.exercises.lab05.draws import Draws
from labkit.exercises.lab05.tradeoff import speeds
from labkit.exercises.lab06.accept import distributions
from labkit.exercises.lab06.models import MODEL, teacher
from labkit.exercises.lab06.quality import windows
from labkit.measure import Timing, ratio
from labkit.torch_state import gradients_restored

Rule = Callable[[Tensor, Tensor, int, float, float], Any]
"""A learner's `accept_or_reject(draft, target, token, number, other)`."""
PLACES = 256
"""The number of places in the held-out text at which a student guesses."""
DRAWS = 8
"""The number of guesses at each place."""
PROMPTS = ("The condition of our country", "In the beginning", "A letter from the", "He said that the")
"""Prompts. The texts that the engine generates after them are compared with and without a draft model."""


def example(tokens: int = 6, seed: int = 6) -> tuple[Tensor, Tensor]:
    """The token probabilities of a draft that is often wrong, and of its target, each `[tokens]` float64."""
    return distributions(Draws(seed), tokens, distance=1.0)


def drawn(rule: Rule, draft: Tensor, target: Tensor, count: int, seed: int = 0) -> list[int]:
    """How often each token is the result, if the draft guesses `count` times and a learner's rule accepts or rejects."""
    generator = torch.Generator("cpu").manual_seed(seed)
    guesses = torch.multinomial(draft, count, replacement=True, generator=generator).tolist()
    numbers = torch.rand(count, 2, generator=generator, dtype=torch.float64, device="cpu").tolist()
    found = [0] * len(target)
    for guess, (number, other) in zip(guesses, numbers, strict=True):
        found[int(rule(draft, target, guess, number, other))] += 1
    return found


def chi_square(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    """Pearson's statistic: the sum of (found - expected)^2 / expected.

    For a correct rule, it is about one less than the number of tokens.
    """
    total = sum(counts)
    return sum((found - total * p) ** 2 / (total * p) for found, p in zip(counts, probabilities, strict=True))


def predictions(student: DenseModel, places: int = PLACES) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's probabilities at places in the held-out text, each `[places, vocab_size]` float64."""
    ids = windows()[0].seen
    with gradients_restored(), torch.no_grad():
        made = [torch.softmax(model.logits(ids).double(), -1)[:: -(-len(ids) // places)] for model in (student, teacher())]
    return made[0], made[1]


def overlap(draft: Tensor, target: Tensor) -> float:
    """The share of guesses that a correct rule accepts: the sum of min(draft, target) in each row, averaged over the rows."""
    return float(torch.minimum(draft, target).sum(-1).mean())


def expected_range(draft: Tensor, target: Tensor) -> tuple[float, float]:
    """The range that contains 95 % of the shares that a correct rule accepts, with `DRAWS` guesses for each row.

    The range is `overlap` ± two standard deviations.
    """
    shares = torch.minimum(draft, target).sum(-1)
    deviation = float((shares * (1 - shares)).sum().sqrt()) / (len(shares) * DRAWS**0.5)
    middle = float(shares.mean())
    return max(0.0, middle - 2 * deviation), min(1.0, middle + 2 * deviation)


def accepted(rule: Rule, draft: Tensor, target: Tensor, seed: int = 0) -> float:
    """The share of guesses, `DRAWS` for each row, that a learner's rule accepts."""
    generator = torch.Generator("cpu").manual_seed(seed)
    guesses = torch.multinomial(draft, DRAWS, replacement=True, generator=generator).tolist()
    numbers = torch.rand(len(draft), DRAWS, 2, generator=generator, dtype=torch.float64, device="cpu").tolist()
    kept: list[bool] = [
        int(rule(p, q, guess, *pair)) == guess
        for p, q, of_row, pairs in zip(draft, target, guesses, numbers, strict=True)
        for guess, pair in zip(of_row, pairs, strict=True)
    ]
    return sum(kept) / len(kept)


def gains(share: float, cost: float) -> dict[int, float]:
    """For each number of guesses: how many times as fast generation would be, if only reading weights took time.

    share: the share of guesses that are right. cost: the draft's bytes divided by the target's bytes. A round reads the draft
    once for each guess, and the target once (Leviathan et al. 2023, theorem 3.8).
    """
    return {guesses: expected_tokens(share, guesses) / (guesses * cost + 1) for guesses in range(1, MOST_GUESSES + 1)}


def same_text(draft: Path) -> bool:
    """Whether the engine generates the same tokens with and without a draft, both greedily and by sampling."""
    texts = []
    for guesser in (None, draft):
        with labkit.load(MODEL, dtype="fp32", draft=guesser) as engine:
            texts.append(
                [
                    answer.token_ids
                    for temperature in (0.0, 0.8)
                    for answer in engine.generate(
                        list(PROMPTS), labkit.SamplingParams(max_new_tokens=32, temperature=temperature, seed=7)
                    )
                ]
            )
    return texts[0] == texts[1]


def measure(draft: Path) -> tuple[dict[str, Timing], float | None]:
    """Time lab 05's task without and with a draft; also return the share of the engine's guesses that were right."""
    with labkit.load(MODEL) as plain, labkit.load(MODEL, draft=draft) as guessing:
        timings = speeds({"plain": plain, "with a draft": guessing})
        return timings, guessing.stats.acceptance


def report(timings: Mapping[str, Timing], right: float | None) -> str:
    """Two sentences about the results of `measure`: one on the times and one on the guesses."""
    guesses = "The engine made no guess: it did not expect this draft to save time."
    if right is not None:
        guesses = f"{right:.0%} of the engine's guesses were right."
    return f"Without a draft compared with a draft: {ratio(timings['plain'], timings['with a draft']).words}\n{guesses}"

"""Exercise 6.1: a 2:4 mask, which keeps two of every four neighbouring weights."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def with_equal_scores(draws: Draws, rows: int, columns: int) -> Tensor:
    """Scores from 0 to 2, so that many neighbours have the same score."""
    generator = torch.Generator("cpu").manual_seed(draws.pick.randrange(10**6))
    return torch.randint(3, (rows, columns), generator=generator, dtype=torch.int64, device="cpu").float()


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    rows = draws.pick.randrange(2, 9)
    scores = [
        ("magnitudes of a weight of gptj-tiny", draws.real_weight(rows, 64).abs()),
        ("one row", draws.normal(1, 12).abs()),
        ("one four", draws.normal(1, 4).abs()),
        ("scores below 0", draws.normal(5, 20)),
        ("as many rows as columns", draws.heavy_tailed(16, 16).abs()),
        ("equal scores", with_equal_scores(draws, 6, 24)),
        ("all scores 0", draws.constant(3, 8) * 0),
    ]
    return [Case(f"{label}, {list(each.shape)}", (each,)) for label, each in scores]


TWO_FOUR_MASK = Exercise(
    name="lab06.two_four_mask",
    lab="06",
    number="6.1",
    title="Two of every four",
    function="two_four_mask",
    statement=(
        "`scores` `[out, in]` say how important each weight is; `in` is a multiple of 4. Return a boolean mask of the same "
        "shape. Columns 0 to 3 of a row are a group, columns 4 to 7 are the next, and so on: in each group, the two largest "
        "scores are `True`. Of equal scores, the one further to the left is kept."
    ),
    points=10,
    minutes=5,
    difficulty=2,
    core=True,
    cases=_cases,
    hints=(
        "Which view of the scores puts the four neighbours of a group into a dimension of their own?",
        "View the scores as [groups, 4], sort each group from large to small with a stable sort that returns places, and set "
        "True at the first two places.",
        "order = scores.reshape(-1, 4).argsort(dim=1, descending=True, stable=True); its first two columns are the places of True.",
    ),
)
EXERCISES = (TWO_FOUR_MASK,)

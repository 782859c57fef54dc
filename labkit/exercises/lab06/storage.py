"""Exercise 6.3: store a 2:4 matrix as the half of its numbers that is kept, each with a two-bit index of its place."""

from __future__ import annotations

from labkit.compress.two_four import two_four_mask
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab05.draws import Draws


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    rows, columns = draws.pick.randrange(2, 10), 8 * draws.pick.randrange(3, 9)
    zeros = draws.normal(3, 24)
    zeros[1] = 0
    weights = [
        ("a weight of gptj-tiny", draws.real_weight(rows, 48)),
        ("random", draws.normal(rows, columns)),
        ("one row, two fours", draws.normal(1, 8)),
        ("as many rows as columns", draws.normal(16, 16)),
        ("a row of zeros", zeros),
    ]
    cases = []
    for label, weight in weights:
        mask = two_four_mask(draws.normal(*weight.shape).abs())
        cases.append(Case(f"{label}, {list(weight.shape)}", (weight * mask, mask)))
    return cases


COMPRESS_TWO_FOUR = Exercise(
    name="lab06.compress_two_four",
    lab="06",
    number="6.3",
    title="Half of the numbers, and their places",
    function="compress_two_four",
    statement=(
        "`mask` keeps two of every four neighbours of `weight` `[out, in]`; `in` is a multiple of 8. Return `(values, indices)`. "
        "`values` `[out, in / 2]`: the kept numbers of each row, in order. `indices` `[out, in / 8]` uint8: each group of four "
        "has four bits. Its first place (0 to 3) is in the low two bits, its second place in the high two. Two groups share a "
        "byte; the left one is in the low half."
    ),
    points=14,
    minutes=12,
    difficulty=4,
    cases=_cases,
    hints=(
        "Each row keeps the same number of weights. What does that mean for the shape of the kept numbers?",
        "A boolean index returns the kept numbers row by row. The places are the columns of the mask's True entries, counted within "
        "their group; shift and join them as in exercise 5.5.",
        "places = mask.nonzero()[:, 1].view(out, -1, 2) % 4; nibbles = (places[..., 0] | places[..., 1] << 2).to(torch.uint8)",
    ),
)
EXERCISES = (COMPRESS_TWO_FOUR,)

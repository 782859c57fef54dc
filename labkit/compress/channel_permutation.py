"""Finds an order of a matrix's inputs in which a 2:4 mask keeps more magnitude.

J. Pool, C. Yu: Channel Permutations for N:M Sparsity (NeurIPS 2021). NVIDIA's ASP uses this search. The columns can be put into
any order if the outputs of the operation before the matrix are permuted in the same way. A group of four neighbouring columns
is a "stripe". Two searches run one after the other, and both are greedy: each round rates all candidates and then applies them,
the best first. A candidate is skipped if one of its stripes was changed in the same round.

1. Swaps: exchange one column of a stripe with a column of another stripe (Ji et al.: TETRIS, 2018). All pairs of columns are
rated at once. 2. Pairs of stripes: redistribute the eight columns of two stripes in the best of the 35 ways.

The result is a local optimum: no redistribution of two stripes improves it. As in ASP, the search then makes a few random swaps
and starts again from there. This is repeated a few times, and the best permutation is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from labkit.compress.two_four import GROUP, KEPT, check_two_four

_PAIRS = list(combinations(range(8), 2))
_FOURS = [four for four in combinations(range(8), 4) if 0 in four]
"""The 35 ways to divide eight columns into two groups of four; each entry is the group that contains the first column."""
LEAST_GAIN = 1e-6
"""A change is made only if it gains at least this share of the total magnitude.

Without this limit, rounding errors could make the search endless.
"""
CHUNK_NUMBERS = 1 << 24
"""About this many numbers are in memory at once while candidates are rated."""


@dataclass(frozen=True)
class SearchOptions:
    """The options of the search for a permutation.

    `escapes` is how often the search leaves a local optimum and starts again. `swaps` is how many random swaps the search makes
    each time; `seed` determines these swaps. For matrices with more than `pairs_up_to` columns, the search tries only swaps,
    and no pairs of stripes.
    """

    escapes: int = 0
    swaps: int = 8
    seed: int = 0
    pairs_up_to: int = 1024


def magnitude_after(weight: Tensor, permutation: Tensor | None = None) -> float:
    """The sum of the magnitudes that a 2:4 mask keeps after the columns of `weight` `[out, in]` are put into another order."""
    ordered = weight if permutation is None else weight[:, permutation]
    return float(ordered.abs().reshape(-1, GROUP).topk(KEPT, dim=1).values.sum(dtype=torch.float64))


def search_permutation(weight: Tensor, options: SearchOptions | None = None) -> Tensor:
    """Search a permutation `[in]` int64 such that a 2:4 mask of `weight[:, permutation]` keeps as much magnitude as possible.

    The mask never keeps less than a 2:4 mask of `weight` itself. Equal `options` give equal results. Raises `InvalidRequest`
    unless `in` is a multiple of four.
    """
    check_two_four(weight.shape[1], "a matrix")
    chosen, magnitudes = options or SearchOptions(), weight.abs().float().t().contiguous()  # [in, out]
    least = LEAST_GAIN * float(magnitudes.sum(dtype=torch.float64)) / max(weight.shape[1], 1)
    generator = torch.Generator("cpu").manual_seed(chosen.seed)
    best = _descend(magnitudes, torch.arange(len(magnitudes), dtype=torch.int64, device="cpu"), least, chosen)
    kept = magnitude_after(weight, best)
    for _ in range(chosen.escapes):
        start = best.clone()
        for _ in range(chosen.swaps):
            i, j = torch.randint(len(start), (2,), generator=generator, dtype=torch.int64, device="cpu").tolist()
            start[i], start[j] = int(start[j]), int(start[i])
        found = _descend(magnitudes, start, least, chosen)
        if (now := magnitude_after(weight, found)) > kept:
            best, kept = found, now
    return best


def _descend(magnitudes: Tensor, permutation: Tensor, least: float, options: SearchOptions) -> Tensor:
    permutation = _by_swaps(magnitudes, permutation.clone(), least)
    return _by_pairs(magnitudes, permutation, least) if len(magnitudes) <= options.pairs_up_to else permutation


def _by_swaps(magnitudes: Tensor, permutation: Tensor, least: float) -> Tensor:
    """Swap columns of different stripes until no swap gains `least`."""
    columns = len(permutation)
    stripe_of = torch.arange(columns, dtype=torch.int64, device="cpu") // GROUP
    sums = torch.zeros(columns, columns, dtype=torch.float32, device="cpu")  # [place, the column to put there]
    base = torch.zeros(columns // GROUP, dtype=torch.float32, device="cpu")
    changed = torch.arange(columns // GROUP, dtype=torch.int64, device="cpu")
    while True:
        _rate_swaps(magnitudes[permutation], changed, sums, base)
        gains = sums + sums.t() - base[stripe_of][:, None] - base[stripe_of][None, :]
        gains[stripe_of[:, None] >= stripe_of[None, :]] = 0.0
        swaps = _best_first(gains.flatten(), least)
        touched: set[int] = set()
        for index in swaps:
            i, j = divmod(index, columns)
            if not touched & {i // GROUP, j // GROUP}:
                touched |= {i // GROUP, j // GROUP}
                permutation[i], permutation[j] = int(permutation[j]), int(permutation[i])
        if not touched:
            return permutation
        changed = torch.tensor(sorted(touched), dtype=torch.int64, device="cpu")


def _rate_swaps(ordered: Tensor, changed: Tensor, sums: Tensor, base: Tensor) -> None:
    """Update `sums` and `base` after some stripes of `ordered` `[in, out]` have changed.

    The sum of the two largest numbers among a >= b >= c and x is a + max(b, x).
    """
    stripes = ordered.view(-1, GROUP, ordered.shape[1])
    base[changed] = stripes[changed].topk(KEPT, dim=1).values.sum((1, 2))
    places = (changed[:, None] * GROUP + torch.arange(GROUP, dtype=torch.int64, device="cpu")).flatten()
    whole = len(changed) == len(stripes)
    for place in range(len(ordered)):
        others = [place // GROUP * GROUP + other for other in range(GROUP) if other != place % GROUP]
        three = ordered[others].topk(KEPT, dim=0).values
        fresh = whole or bool((changed == place // GROUP).any())
        columns = slice(None) if fresh else places
        sums[place, columns] = torch.maximum(ordered[columns], three[1]).sum(1) + three[0].sum()


def _by_pairs(magnitudes: Tensor, permutation: Tensor, least: float) -> Tensor:
    """Redistribute the columns of pairs of stripes until no redistribution gains `least`."""
    count = len(permutation) // GROUP
    first, second = torch.triu_indices(count, count, 1, dtype=torch.int64, device="cpu")
    gains = torch.zeros(len(first), dtype=torch.float32, device="cpu")
    ways = torch.zeros(len(first), dtype=torch.int64, device="cpu")
    stale = torch.ones(len(first), dtype=torch.bool, device="cpu")
    while True:
        _rate_pairs(magnitudes[permutation], first, second, stale.nonzero()[:, 0], gains, ways)
        touched = torch.zeros(count, dtype=torch.bool, device="cpu")
        for index in _best_first(gains, least):
            i, j = int(first[index]), int(second[index])
            if touched[i] or touched[j]:
                continue
            touched[i] = touched[j] = True
            places = [*range(i * GROUP, i * GROUP + GROUP), *range(j * GROUP, j * GROUP + GROUP)]
            four = _FOURS[int(ways[index])]
            order = [*four, *(each for each in range(8) if each not in four)]
            permutation[places] = permutation[[places[each] for each in order]]
        if not bool(touched.any()):
            return permutation
        stale = touched[first] | touched[second]


def _rate_pairs(ordered: Tensor, first: Tensor, second: Tensor, wanted: Tensor, gains: Tensor, ways: Tensor) -> None:
    """For each wanted pair of stripes, store the gain of its best division, and the index of this division in `_FOURS`."""
    stripes = ordered.view(-1, GROUP, ordered.shape[1])
    step = max(CHUNK_NUMBERS // (2 * len(_PAIRS) * ordered.shape[1]), 1)
    for part in torch.split(wanted, step):
        eight = torch.cat((stripes[first[part]], stripes[second[part]]), 1)  # [pairs, 8, out]
        left, right = (torch.tensor([pair[side] for pair in _PAIRS], dtype=torch.int64, device="cpu") for side in (0, 1))
        high, low = torch.maximum(eight[:, left], eight[:, right]), torch.minimum(eight[:, left], eight[:, right])
        sums = torch.stack(
            [_kept_of(four, high, low) + _kept_of(tuple(set(range(8)) - set(four)), high, low) for four in _FOURS], 1
        )
        best, way = sums.max(1)
        gains[part], ways[part] = best - sums[:, 0], way


def _kept_of(four: tuple[int, ...], high: Tensor, low: Tensor) -> Tensor:
    """The magnitude that a 2:4 mask keeps in a stripe that consists of the columns `four`.

    `high` and `low` are the larger and the smaller number of each pair of columns.
    """
    a, b, c, d = sorted(four)
    one, other = _PAIRS.index((a, b)), _PAIRS.index((c, d))
    second = torch.maximum(torch.minimum(high[:, one], high[:, other]), torch.maximum(low[:, one], low[:, other]))
    return (torch.maximum(high[:, one], high[:, other]) + second).sum(1)


def _best_first(gains: Tensor, least: float) -> list[int]:
    """The indices of all gains above `least`, the largest first."""
    found = (gains > least).nonzero()[:, 0]
    order = torch.argsort(gains[found], descending=True, stable=True)
    return [int(each) for each in found[order]]

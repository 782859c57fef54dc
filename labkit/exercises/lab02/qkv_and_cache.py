"""Exercises 2.1 and 2.2: one matrix product for query, key and value, and a cache that is written and read by slot number."""

from __future__ import annotations

import torch

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws
from labkit.plurals import counted


# 2.1 ------------------------------------------------------------------------------------------------------------------
def _weight_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    for rows, hidden in ((24, 24), (1, 7), (draws.pick.randrange(2, 40), draws.pick.randrange(41, 70)), (36, 12)):
        weights = tuple(draws.normal(rows, hidden).cpu() for _ in range(3))
        cases.append(Case(f"three weights of {rows} x {hidden}", weights))
    return cases


FUSE_QKV = Exercise(
    name="lab02.fuse_qkv",
    lab="02",
    number="2.1",
    title="One product for query, key and value",
    function="fuse_qkv",
    statement=(
        "Query, key and value are three matrix products with the same $x$. Return **one** weight, `[3 * rows, hidden]`, whose "
        "product with $x$ is the whole query, then the whole key, then the whole value. Weights are stored as `[out, in]`; "
        "each of the three weights is `[rows, hidden]`.\n\n$$x\\,W_{qkv}^T = [\\,x W_q^T \\;\\; x W_k^T \\;\\; x W_v^T\\,]$$"
    ),
    points=5,
    minutes=5,
    difficulty=1,
    core=True,
    cases=_weight_cases,
    hints=(
        "Each row of a weight makes one output, so more rows make more outputs.",
        "Stack the rows of the three weights on top of each other; torch has a function that joins tensors along an existing "
        "dimension.",
        "The function is torch.cat. It takes a tuple of tensors, and joins along dimension 0 unless you name another.",
    ),
)


# 2.2 ------------------------------------------------------------------------------------------------------------------
def _cache_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    for sequences, longest in ((1, 1), (3, 5), (4, draws.pick.randrange(6, 20)), (2, 9)):
        lengths = torch.tensor([draws.pick.randrange(1, longest + 1) for _ in range(sequences)])
        lengths[-1] = longest
        slots = draws.permutation(sequences * longest + 8).cpu()
        table = slots[: sequences * longest].view(sequences, longest).clone()
        table[0, -1] = table[-1, 0]  # In the slot table, any number can follow the slots of a sequence.
        if longest > 4:
            table[0, :2], lengths[0] = table[-1, :2], max(3, int(lengths[0]))  # two sequences share a beginning
        rows = torch.arange(sequences)
        lengths[0] = min(int(lengths[0]), longest - 1) if longest > 1 else 1
        cache = draws.normal(len(slots), 2, 3).cpu()
        arguments = cache, draws.normal(sequences, 2, 3).cpu(), table[rows, lengths - 1], table.int(), lengths.int()
        cases.append(Case(f"{counted(sequences, 'sequence')} of up to {counted(longest, 'token')}", arguments))
    return cases


WRITE_THEN_READ = Exercise(
    name="lab02.write_then_read",
    lab="02",
    number="2.2",
    title="A cache of slots",
    function="write_then_read",
    statement=(
        "`cache` is a pool of slots, `[slots, heads, head_dim]`; the tokens of a sequence can be in any slots. Write the "
        "new key of each sequence, `new_keys[s]`, **in place** into slot `slot_mapping[s]`. Then return a list with one tensor "
        "for each sequence: its keys in order, read from the slots `slot_table[s, :lengths[s]]`. The last key of each sequence "
        "is the new one."
    ),
    points=5,
    minutes=10,
    difficulty=2,
    core=True,
    cases=_cache_cases,
    hints=(
        "An index that is a tensor of numbers selects rows: cache[slot_mapping] has one row per sequence.",
        "The same index on the left of an assignment writes all these rows at once, in place. Write first, and read "
        "afterwards, because the answer contains the new key.",
        "The slots of sequence s, in order, are slot_table[s, : lengths[s]].",
    ),
    writes=(0,),
    observe=lambda case, value: {"keys of each sequence": value, "cache": case.args[0]},
)
EXERCISES = (FUSE_QKV, WRITE_THEN_READ)

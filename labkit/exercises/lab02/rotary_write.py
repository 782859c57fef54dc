"""Exercise 2.4: one kernel that applies the rotary position embedding and writes keys and values to the cache."""

from __future__ import annotations

from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.ops.rotary import rotary_table
from labkit.plurals import counted


def _stores(case: Case, query: Any) -> list[Part]:
    rows = case.args[6].tolist()
    return [Part("query", query), Part("keys", case.args[4], rows), Part("values", case.args[5], rows)]


def _other_bytes(case: Case) -> int:
    """The bytes of the angles, the positions and the slots."""
    sin, tokens = case.args[2], len(case.args[1])
    return tokens * (2 * 8 + 2 * int(sin.shape[1]) * int(sin.element_size()))


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    heads, head_dim = draws.pick.choice([2, 3, 5]), 2 * draws.pick.choice([5, 7, 9, 11])
    rows = [(4, 3, 10, 8), (1, 1, 16, 16), (3, 2, 16, 4), (5, heads, head_dim, draws.pick.choice([4, 8])), (2, 2, 38, 12)]
    cases = []
    for tokens, heads, head_dim, rotary_dim in rows:
        slots = 40
        sin, cos = map(guarded, rotary_table(31, rotary_dim))  # copied separately, because both are parts of one tensor
        # The positions differ from the row numbers, so that a kernel that ignores `positions` is wrong.
        positions = draws.permutation(30)[:tokens] + 1
        mapping = draws.permutation(slots - tokens)[:tokens] + tokens
        mapping[-1] = slots - 1  # the last slot
        qkv = draws.normal(tokens, 3 * heads * head_dim)
        cache = draws.normal(slots, heads, head_dim), draws.normal(slots, heads, head_dim)
        label = f"{counted(tokens, 'token')}, {counted(heads, 'head')} of {head_dim}, rotary on {rotary_dim}"
        cases.append(Case(label, (qkv, guarded(positions), sin, cos, *cache, guarded(mapping))))
    return cases


FUSED_ROTARY_CACHE_WRITE = Exercise(
    name="lab02.fused_rotary_cache_write",
    lab="02",
    number="2.4",
    title="Rotary and cache write in one kernel",
    function="fused_rotary_cache_write",
    statement=(
        "Each program handles one token and head. A row of `qkv` is query, key, value. In query and key, rotate pair $i$ of "
        "the first `rotary_dim` elements (elements $2i$ and $2i+1$) by the angle $a_i$. Sine and cosine of $a_i$ are "
        "element $i$ of row `positions[token]` of `sin` and `cos`; rows have `rotary_dim` / 2 elements. Copy later elements "
        "unchanged. Write key and value to slot `slot_mapping[token]`, and the query to `query`.\n\n"
        "$$(x_{2i},\\, x_{2i+1}) \\to (x_{2i} \\cos a_i - x_{2i+1} \\sin a_i,\\;\\; x_{2i+1} \\cos a_i + x_{2i} \\sin a_i)$$"
    ),
    points=15,
    minutes=55,
    difficulty=4,
    cases=_cases,
    hints=(
        "Let each program handle a block of pairs. Each pair has two addresses: 2 * pair and 2 * pair + 1. Which pairs exist, "
        "and which of them are rotated?",
        "Use two masks: for all pairs of the head, and for the rotary pairs. Load sine and cosine with the "
        "second mask, and with other= values that do not rotate: then every pair uses the same formulas.",
        "The offset of an angle in its table is tl.load(positions + token) * (rotary_dim // 2) + pair.",
    ),
    requires=("triton",),
    writes=(4, 5),
    contract=KernelContract(
        ("qkv", "positions", "sin", "cos", "keys", "values", "slot_mapping"),
        reads=lambda case: [Part("qkv", case.args[0])],
        stores=_stores,
        more_bytes=_other_bytes,
        programs=lambda case: (len(case.args[0]) * case.args[4].shape[1],) * 2,
        grid=lambda case: (len(case.args[0]), case.args[4].shape[1]),
        each="token and head",
    ),
    observe=lambda case, value: {"query": value, "keys": case.args[4], "values": case.args[5]},
    seconds=40.0,
)
EXERCISES = (FUSED_ROTARY_CACHE_WRITE,)

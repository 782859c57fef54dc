"""Exercise 2.4: rotary positions and the write to the cache in one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Case, Exercise, Mistake
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.kernels import kernel_device
from labkit.exercises.lab02.draws import Draws
from labkit.ops.rotary import rotary, rotary_table
from labkit.ops.rotary_cache_write import rotary_cache_write_reference


def _split_halves(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotary in the form of GPT-NeoX and LLaMA: element i is paired with element i + rotary_dim / 2."""
    pairs = sin.shape[-1]
    first, second, kept = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    sin, cos = sin[:, None], cos[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, kept), dim=-1)


def _zeroed(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    turned = rotary(x, sin, cos)
    turned[..., 2 * sin.shape[-1] :] = 0
    return turned


def _wrong(
    *,
    turn: Any = rotary,
    key_turned: bool = True,
    value_turned: bool = False,
    position: Any = lambda positions, slots: positions,
    slot: Any = lambda positions, slots: slots,
) -> Any:
    """A faulty function, right but for the parts that are named."""

    def faulty(
        qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
    ) -> Tensor:
        query, key, value = qkv.view(qkv.shape[0], 3, *keys.shape[1:]).unbind(1)
        at = position(positions, slot_mapping)
        sin, cos = sin[at], cos[at]
        place = slot(positions, slot_mapping)
        keys[place] = turn(key, sin, cos) if key_turned else key
        values[place] = turn(value, sin, cos) if value_turned else value
        turned: Tensor = turn(query, sin, cos)
        return turned

    return faulty


def _unmasked(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    half = keys.shape[2] // 2
    if half & (half - 1):
        raise OutsideTensor("a program reads behind the end of a tensor")
    return rotary_cache_write_reference(qkv, positions, sin, cos, keys, values, slot_mapping)


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    heads, head_dim = draws.pick.choice([2, 3, 5]), 2 * draws.pick.choice([5, 7, 9, 11])
    rows = [(4, 3, 10, 6), (1, 1, 16, 16), (5, heads, head_dim, draws.pick.choice([4, 8])), (2, 2, 38, 12)]
    cases = []
    for tokens, heads, head_dim, rotary_dim in rows:
        slots = 40
        table = rotary_table(31, rotary_dim, kernel_device())
        positions = draws.permutation(30)[:tokens] + 1  # not those of the rows: a position is what the batch says
        mapping = draws.permutation(slots - tokens)[:tokens] + tokens
        mapping[-1] = slots - 1  # the last slot
        qkv = draws.normal(tokens, 3 * heads * head_dim)
        cache = draws.normal(slots, heads, head_dim), draws.normal(slots, heads, head_dim)
        label = f"{tokens} tokens, {heads} heads of {head_dim}, rotary on {rotary_dim}"
        cases.append(Case(label, (qkv, positions, table[0], table[1], *cache, mapping)))
    return cases


FUSED_ROTARY_CACHE_WRITE = Exercise(
    name="lab02.fused_rotary_cache_write",
    lab="02",
    number="2.4",
    title="Rotary and cache write in one kernel",
    function="fused_rotary_cache_write",
    statement=(
        "One program a token and head. Turn neighbouring pairs of the first `rotary_dim` elements of query and key by their "
        "position's angle $a_i$ (row `positions[token]` of `sin`, `cos`); the rest passes unchanged. Write key and value to "
        "slot `slot_mapping[token]`, the query to `query`. A row of `qkv` is all of the query, then key, then value.\n\n"
        "$$(x_{2i},\\, x_{2i+1}) \\to (x_{2i} \\cos a_i - x_{2i+1} \\sin a_i,\\;\\; x_{2i+1} \\cos a_i + x_{2i} \\sin a_i)$$"
    ),
    points=15,
    minutes=30,
    difficulty=4,
    cases=_cases,
    reference=rotary_cache_write_reference,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You pair element i with element i + rotary_dim/2, as LLaMA does; GPT-J turns neighbours, 2i and 2i + 1.",
            _wrong(turn=_split_halves),
        ),
        Mistake("The key is written before it is turned: the cache must hold turned keys.", _wrong(key_turned=False)),
        Mistake("You turn the value, too; only query and key have a position.", _wrong(value_turned=True)),
        Mistake(
            "You turn by the row in the batch; the angle is that of positions[token].",
            _wrong(position=lambda positions, slots: torch.arange(len(positions), device=positions.device)),
        ),
        Mistake(
            "You write to slot positions[token]; slot_mapping[token] is the slot.",
            _wrong(slot=lambda positions, slots: positions),
        ),
        Mistake(
            "Elements behind rotary_dim become 0: where the angle is masked out, the cosine is 1 (other=1.0), the sine 0.",
            _wrong(turn=_zeroed),
        ),
        Mistake(
            "You turn backwards: the first of a pair takes minus sine, the second plus.",
            _wrong(turn=lambda x, sin, cos: rotary(x, -sin, cos)),
        ),
        Mistake(
            "Pairs behind head_dim // 2 are not masked: BLOCK is a power of two and goes past the head. mask=inside.", _unmasked
        ),
    ),
    hints=(
        "pair = tl.arange(0, BLOCK), and its elements lie at head * head_dim + 2 * pair and one behind it. Two masks: pair < "
        "head_dim // 2 and pair < rotary_dim // 2.",
        "angle = tl.load(positions + token) * (rotary_dim // 2) + pair; sine with other=0.0, cosine with other=1.0. A row of "
        "qkv has 3 * heads * head_dim elements.",
        "slot = tl.load(slot_mapping + token) * heads * head_dim; tl.store(keys + slot + even, k0 * c - k1 * s, mask=inside) "
        "and so on. Grid: (tokens, heads).",
    ),
    requires=("triton",),
    writes=(4, 5),
    observe=lambda case, value: {"query": value, "keys": case.args[4], "values": case.args[5]},
    seconds=40.0,
)

EXERCISES = (FUSED_ROTARY_CACHE_WRITE,)

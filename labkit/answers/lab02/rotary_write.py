"""The answer to exercise 2.4: reference, comparison and known mistakes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.rotary_write import FUSED_ROTARY_CACHE_WRITE
from labkit.ops.rotary import rotary
from labkit.ops.rotary_cache_write import rotary_cache_write_reference


def _split_halves(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate `x` as GPT-NeoX and LLaMA do: element i forms a pair with element i + rotary_dim / 2."""
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
    """Make a function in which only the parts that the options replace are wrong."""

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
        raise OutsideTensor("a program reads memory past the end of a tensor")
    return rotary_cache_write_reference(qkv, positions, sin, cos, keys, values, slot_mapping)


def _overwritten(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Wrong: the first element of a pair is overwritten before the second element is computed from it."""
    turned, pairs = rotary(x, sin, cos), sin.shape[-1]
    first, second = turned[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    turned[..., 1 : 2 * pairs : 2] = second * cos[:, None] + first * sin[:, None]
    return turned


def _forgotten(which: int) -> Any:
    """Make a function that is right except that it does not write the key (or the value)."""

    def faulty(*args: Tensor) -> Tensor:
        own = list(args)
        own[which] = own[which].clone()
        return rotary_cache_write_reference(*own)

    return faulty


def _by_angle(stride: Any, pairs_turned: Any) -> Any:
    """Wrong: the function reads the angle of a pair at `positions[token] * stride + pair`, and rotates `pairs_turned` pairs."""

    def faulty(
        qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
    ) -> Tensor:
        pairs = sin.shape[1]
        count = pairs_turned(pairs)
        place = positions[:, None] * stride(pairs) + torch.arange(count, device=positions.device)
        if int(place.max()) >= sin.numel():
            raise OutsideTensor("an angle is read past the end of its table")
        tables = sin.flatten()[place], cos.flatten()[place]
        return rotary_cache_write_reference(qkv, torch.arange(len(qkv), device=qkv.device), *tables, keys, values, slot_mapping)

    return faulty


def _key_after_head(qkv: Tensor, *rest: Tensor) -> Tensor:
    """Wrong: the key is read `head_dim` elements after the query, so head h gets the query of head h + 1 as its key."""
    heads, head_dim = rest[3].shape[1:]
    rows = qkv.view(len(qkv), -1, head_dim).clone()
    rows[:, heads : 2 * heads] = rows[:, 1 : heads + 1].clone()
    return rotary_cache_write_reference(rows.view_as(qkv), *rest)


def _values_after_heads(qkv: Tensor, *rest: Tensor) -> Tensor:
    """Wrong: the key of a head is read `head_dim` elements after its query, and the value `head_dim` elements after the key."""
    heads, head_dim = rest[3].shape[1:]
    rows = qkv.view(len(qkv), -1, head_dim).clone()
    rows[:, heads:] = torch.cat((rows[:, 1 : heads + 1], rows[:, 2 : heads + 2]), dim=1)
    return rotary_cache_write_reference(rows.view_as(qkv), *rest)


def _narrow_rows(
    qkv: Tensor, positions: Tensor, sin: Tensor, cos: Tensor, keys: Tensor, values: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Wrong: the row of a token is read from element `token * heads * head_dim` of qkv on."""
    width = keys.shape[1] * keys.shape[2]
    rows = torch.as_strided(qkv, qkv.shape, (width, 1), qkv.storage_offset()).clone()
    return rotary_cache_write_reference(rows, positions, sin, cos, keys, values, slot_mapping)


FUSED_ROTARY_CACHE_WRITE_ANSWER = Answer(
    exercise=FUSED_ROTARY_CACHE_WRITE,
    reference=rotary_cache_write_reference,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You pair element i with element i + rotary_dim/2, as LLaMA does, but GPT-J pairs neighbours, 2i and 2i + 1.",
            _wrong(turn=_split_halves),
        ),
        Mistake("You write the key before you rotate it, but the cache must hold rotated keys.", _wrong(key_turned=False)),
        Mistake("You also rotate the value; rotate only query and key.", _wrong(value_turned=True)),
        Mistake(
            "You rotate by the angle of the row number in the batch; use the angle of positions[token].",
            _wrong(position=lambda positions, slots: torch.arange(len(positions), device=positions.device)),
        ),
        Mistake(
            "You write to slot positions[token], but slot_mapping[token] is the slot.",
            _wrong(slot=lambda positions, slots: positions),
        ),
        Mistake(
            "Your elements after rotary_dim become 0: where the mask leaves out the angle, sine and cosine must be those of "
            "no rotation.",
            _wrong(turn=_zeroed),
        ),
        Mistake(
            "You rotate in the wrong direction: the first element of a pair takes minus sine, the second takes plus sine.",
            _wrong(turn=lambda x, sin, cos: rotary(x, -sin, cos)),
        ),
        Mistake(
            "You do not mask the pairs from head_dim // 2 on: BLOCK is a power of two and extends past the end of the head.",
            _unmasked,
        ),
        Mistake(
            "You write to the slot with the number `token`, but slot_mapping[token] is the slot.",
            _wrong(slot=lambda positions, slots: torch.arange(len(slots), device=slots.device)),
        ),
        Mistake(
            "A row of sin or cos has rotary_dim // 2 elements, but your rows begin rotary_dim apart.",
            _by_angle(lambda pairs: 2 * pairs, lambda pairs: pairs),
        ),
        Mistake(
            "A row of `sin` has one angle for each pair, but rotary_dim counts the elements of the pairs.",
            _by_angle(lambda pairs: pairs // 2, lambda pairs: pairs // 2),
        ),
        Mistake(
            "A row of qkv has 3 * heads * head_dim elements (query, key and value), but your rows begin heads * head_dim "
            "apart.",
            _narrow_rows,
        ),
        Mistake(
            "You read the key head_dim after the query, but all heads of the query come before the key of the first head.",
            _key_after_head,
        ),
        Mistake(
            "You read key and value head_dim and 2 * head_dim after the query, but a row holds the query of all "
            "heads, then the "
            "key of all heads, then the value.",
            _values_after_heads,
        ),
        Mistake("You do not write the key to the cache.", _forgotten(4)),
        Mistake("You do not write the value to the cache.", _forgotten(5)),
        Mistake(
            "You overwrite the first element of a pair before you compute the second, but both need the old elements.",
            _wrong(turn=_overwritten),
        ),
    ),
    names={"['query']": "query", "['keys']": "keys", "['values']": "values"},
)

ANSWERS = (FUSED_ROTARY_CACHE_WRITE_ANSWER,)

"""Exercise 2.6: decode attention over a long cache (Flash-Decoding).

Several programs each handle a part of the cache. Their results are combined afterwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.kernel_guard import OutsideTensor
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.ops.decode_attention import decode_attention_reference
from labkit.plurals import counted


def split_decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor, block: int
) -> Tensor:
    """The reference for exercise 2.6. The result does not depend on `block`."""
    return decode_attention_reference(query, keys, values, slot_table, lengths)


def _parts(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_table: Tensor,
    lengths: Tensor,
    block: int,
    *,
    scale: Any = math.sqrt,
    masked: float = -math.inf,
    slots: Any = lambda table: table,
    weighted: bool = True,
    normalised: bool = False,
    careful: bool = True,
    late: bool = False,
    over_all: bool = False,
) -> Tensor:
    """Decode attention in parts of `block` positions, with one option for each known mistake."""
    count = -(-slot_table.shape[1] // block)
    width = count * block
    table = torch.nn.functional.pad(slots(slot_table), (0, width - slot_table.shape[1])).long()
    seen = torch.arange(width, device=query.device) < lengths[:, None]
    key = torch.where(seen[:, :, None, None], keys[table], 0.0)
    value = torch.where(seen[:, :, None, None], values[table], 0.0)
    scores = torch.einsum("shd,slhd->shl", query, key) / scale(query.shape[-1])
    parts = scores.masked_fill(~seen[:, None], masked).view(*scores.shape[:2], count, block)
    padded = scores.masked_fill(~seen[:, None], 0.0).view_as(parts)
    top = padded.amax(-1) if late else parts.amax(-1)
    weights = torch.exp(parts - top[..., None])
    weights = torch.where(parts > -math.inf, weights, 0.0) if careful else weights
    total = weights.sum(-1)
    average = torch.einsum("shpb,spbhd->shpd", weights, value.view(len(value), count, block, *value.shape[2:]))
    if normalised:
        return torch.nan_to_num(average / total[..., None]).sum(2) / (total > 0).sum(-1, keepdim=True)
    share = torch.exp(top - top.amax((0, 1, 2) if over_all else -1, keepdim=True)) if weighted else torch.ones_like(top)
    return (share[..., None] * average).sum(2) / (share * total).sum(-1, keepdim=True)


def _wrong(**options: Any) -> Any:
    def faulty(*args: Any) -> Tensor:
        return _parts(*args, **options)

    return faulty


def _whole_table(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, block: int) -> Tensor:
    return decode_attention_reference(q, k, v, table, torch.full_like(lengths, table.shape[1]))


def _one_too_many(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, block: int) -> Tensor:
    """position <= length."""
    width, flat = table.shape[1], table.flatten()
    rows = []
    for s, length in enumerate(lengths.tolist()):
        seen = min(length + 1, -(-width // block) * block)
        if s * width + seen > len(flat):
            raise OutsideTensor("a program reads a position after the end of the slot table")
        slots = flat[None, s * width : s * width + seen]
        rows.append(decode_attention_reference(q[s : s + 1], k, v, slots, torch.full_like(lengths[:1], seen)))
    return torch.cat(rows)


def _without_heads(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, block: int) -> Tensor:
    """Wrong: a key is read at (slot + head) * head_dim."""
    flat = [pool.view(-1, 1, pool.shape[2]) for pool in (k, v)]
    heads = [
        decode_attention_reference(q[:, head : head + 1], flat[0], flat[1], table.clamp(0, len(k) - 1) + head, lengths)
        for head in range(q.shape[1])
    ]
    return torch.cat(heads, dim=1)


def _contract() -> KernelContract:
    def reads(case: Case) -> list[Part]:
        query, keys, values, table, lengths, _ = case.args
        seen = [slot for row, length in zip(table.tolist(), lengths.tolist(), strict=True) for slot in row[:length]]
        return [Part("query", query), Part("keys", keys, seen), Part("values", values, seen)]

    def more_bytes(case: Case) -> int:
        query, _, _, table, _, block = case.args
        sequences, heads, head_dim = query.shape
        parts = -(-table.shape[1] // block)
        partial = sequences * heads * parts * (head_dim + 2)
        # The kernels store these, and a kernel that combines the parts reads them.
        return int(4 * (2 * partial + query.numel() + table.numel() + len(table)))

    def programs(case: Case) -> tuple[int, int]:
        query, _, _, table, lengths, block = case.args
        each = query.shape[0] * query.shape[1]
        return each * -(-int(lengths.max()) // block), each * -(-table.shape[1] // block)

    return KernelContract(
        ("query", "keys", "values", "slot_table", "lengths", "block"),
        reads=reads,
        stores=lambda case, value: [],
        more_bytes=more_bytes,
        launches=2,
        kind="use one launch for the parts, and at most one more launch to combine them",
        torch_combines=True,
        programs=programs,
        each="sequence, head and part",
    )


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    rows = [
        (3, 2, 10, 40, 32),
        (1, 1, 3, 1, 16),
        (4, 3, draws.pick.choice([6, 12, 20]), draws.pick.randrange(33, 60), 8),
        (2, 1, 16, 70, 32),
    ]
    cases = []
    for sequences, heads, head_dim, longest, block in rows:
        lengths = torch.tensor([draws.pick.randrange(1, longest + 1) for _ in range(sequences)])
        lengths[0] = max(1, longest - 3)
        if sequences > 1:
            lengths[-1] = min(block - 1, longest)  # All parts of this sequence except the first are empty.
        slots = sequences * longest + 5
        table = draws.permutation(slots)[: sequences * longest].view(sequences, longest).int()
        query = draws.normal(sequences, heads, head_dim, scale=1.5)
        cache = draws.normal(slots, heads, head_dim, scale=1.5), draws.normal(slots, heads, head_dim)
        label = f"{counted(sequences, 'sequence')}, {counted(heads, 'head')} of {head_dim}, up to {counted(longest, 'token')} in blocks of {block}"
        cases.append(Case(label, (query, *cache, guarded(table), guarded(lengths.int()), block)))
    # In the first of these cases, no weight is left if the maximum starts at 0 (or includes a masked 0). In the second case, no
    # weight is left if the maximum is taken over several sequences or heads.
    return [
        *cases,
        _large_scores(draws, "scores near -300", apart=False),
        _large_scores(draws, "scores near -300 or 300", apart=True),
    ]


def _large_scores(draws: Draws, label: str, *, apart: bool) -> Case:
    """All scores are near -300, because the keys are opposite to the query.

    With `apart`, the scores are near 300 in every second sequence and head.
    """
    sequences, heads, head_dim, longest, block = 2, 2, 10, 21, 8
    query = draws.normal(sequences, heads, head_dim, scale=0.02)
    table = draws.permutation(50)[: sequences * longest].view(sequences, longest).int()
    keys = draws.normal(50, heads, head_dim, scale=0.02)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]] if apart else [[1.0, 1.0], [1.0, 1.0]])[:, :, None]
    query, keys = guarded(query.cpu() + 10 * signs), guarded(keys.cpu() - 300 / (10 * math.sqrt(head_dim)))
    lengths = guarded(torch.tensor([longest - 2, 5], dtype=torch.int32))
    arguments = query, keys, draws.normal(50, heads, head_dim), guarded(table), lengths, block
    return Case(f"{counted(sequences, 'sequence')}, {counted(heads, 'head')} of {head_dim}, {label}", arguments)


SPLIT_DECODE_ATTENTION = Exercise(
    name="lab02.split_decode_attention",
    lab="02",
    number="2.6",
    title="Decode attention, split and combined",
    function="split_decode_attention",
    statement=(
        "Each program handles one sequence, one head and one **part** of `BLOCK` positions; its loads and the launch are "
        "given. Compute the scores $x_i = q \\cdot k_i / \\sqrt{\\text{head\\_dim}}$ of the positions that are `seen`. Store "
        "their maximum $m_p$ in `tops`, $s_p$ in `totals` and $o_p$ in `sums`. A part may be empty. Then combine the parts in "
        "torch.\n\n$$s_p = \\sum_i e^{x_i-m_p} \\quad o_p = \\sum_i e^{x_i-m_p}v_i \\quad o = \\frac{\\sum_p "
        "e^{m_p-m}o_p}{\\sum_p e^{m_p-m}s_p} \\quad m = \\max_p m_p$$"
    ),
    points=15,
    minutes=50,
    difficulty=4,
    cases=_cases,
    reference=split_decode_attention,
    comparison=Comparison(),
    mistakes=(
        Mistake("The scores are not multiplied by 1/sqrt(head_dim).", _wrong(scale=lambda head_dim: 1.0)),
        Mistake(
            "You scale by the padded size DIM, but you must take the root of head_dim.",
            _wrong(scale=lambda head_dim: math.sqrt(1 << (head_dim - 1).bit_length())),
        ),
        Mistake(
            "You add the parts without weights, but the numbers of each part are relative to its own maximum in `tops`.",
            _wrong(weighted=False),
        ),
        Mistake(
            "You divide each part by its own sum and take the mean, but parts with larger scores must weigh more: divide "
            "once, after all parts are added up.",
            _wrong(normalised=True),
        ),
        Mistake(
            "You read slots 0, 1, 2, ..., but the row of slot_table says which slots hold the tokens of a sequence.",
            _wrong(slots=lambda table: torch.arange(table.shape[1], device=table.device).expand_as(table)),
        ),
        Mistake("You read beyond lengths[s], where the table holds slots of other sequences.", _whole_table),
        Mistake("A masked score must be -inf; if it is 0, it still gets a weight in the softmax.", _wrong(masked=0.0)),
        Mistake(
            "The maximum of an empty part is -inf, and exp(-inf - -inf) is NaN: the weights of an empty part must be 0.",
            _wrong(careful=False),
        ),
        Mistake(
            "Set the masked scores to -inf before you take the maximum. Otherwise a masked 0 is far above scores near -300, "
            "and all weights become 0.",
            _wrong(late=True),
        ),
        Mistake(
            "You read one position too many: the last position of a sequence is length - 1.",
            _one_too_many,
        ),
        Mistake(
            "You take one maximum of `tops` over several sequences or heads, but each head of each sequence needs its own "
            "maximum. Where the scores are hundreds lower, all weights are exp(-hundreds) = 0, and 0 / 0 is NaN.",
            _wrong(over_all=True),
        ),
        Mistake(
            "A slot holds the keys of all heads, but your addresses count slots as if each held only one head.",
            _without_heads,
        ),
    ),
    hints=(
        "To get one score per position, multiply query and key elementwise, and sum over the dimension of the head. Which "
        "axis of a tile [BLOCK, DIM] is that?",
        "Inside a part, set scores that are not seen to -inf, then use tl.max, tl.exp and tl.sum as in exercise 2.5. The "
        "weights of an empty part must be 0, not exp(-inf - -inf). Combine over the last dimension.",
        "In torch, the weight of each part is share = torch.exp(tops - tops.amax(-1, keepdim=True)).",
    ),
    requires=("triton",),
    seconds=60.0,
    contract=_contract(),
)

EXERCISES = (SPLIT_DECODE_ATTENTION,)

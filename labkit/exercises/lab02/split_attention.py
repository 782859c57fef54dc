"""Exercise 2.6: decode attention over a long cache (Flash-Decoding).

Each of several programs handles one part of the cache. Their results are combined afterwards.
"""

from __future__ import annotations

import math

import torch

from labkit.exercises.case import Case
from labkit.exercises.contracts import KernelContract, Part
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws, guarded
from labkit.plurals import counted


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
        # The kernels store these results of the parts, and the kernel that combines the parts reads them.
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
    # In the first of these cases, all weights become 0 if the maximum starts at 0 (or includes a masked 0). In the second case,
    # the weights become 0 if the maximum is taken over several sequences or heads.
    return [
        *cases,
        _large_scores(draws, "scores near -300", apart=False),
        _large_scores(draws, "scores near -300 or 300", apart=True),
    ]


def _large_scores(draws: Draws, label: str, *, apart: bool) -> Case:
    """All scores are near -300, because the keys are opposite to the query.

    With `apart`, the scores are near 300 for every second pair of a sequence and a head.
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
        "their maximum $m_p$ in `tops`, $s_p$ in `totals` and $o_p$ in `sums`. A part can be empty. Then combine the parts in "
        "torch.\n\n$$s_p = \\sum_i e^{x_i-m_p} \\quad o_p = \\sum_i e^{x_i-m_p}v_i \\quad o = \\frac{\\sum_p "
        "e^{m_p-m}o_p}{\\sum_p e^{m_p-m}s_p} \\quad m = \\max_p m_p$$"
    ),
    points=15,
    minutes=50,
    difficulty=4,
    cases=_cases,
    hints=(
        "To get one score per position, multiply query and key elementwise, and sum over the elements of the head. Which "
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

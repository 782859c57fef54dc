"""Exercises 2.1 and 2.2: one product for query, key and value, and a cache that is written and read by slot number."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab02.draws import Draws
from labkit.plurals import counted


# 2.1 ------------------------------------------------------------------------------------------------------------------
def fuse_qkv(query_weight: Tensor, key_weight: Tensor, value_weight: Tensor) -> Tensor:
    """The reference of exercise 2.1."""
    return torch.cat((query_weight, key_weight, value_weight))


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
        "Query, key and value are three products with the same $x$. Return **one** weight, `[3 * rows, hidden]`, whose product "
        "with $x$ contains the whole query, then the whole key, then the whole value. Weights are stored as `[out, in]`; each "
        "of the three weights is `[rows, hidden]`.\n\n$$x\\,W_{qkv}^T = [\\,x W_q^T \\;\\; x W_k^T \\;\\; x W_v^T\\,]$$"
    ),
    points=5,
    minutes=5,
    difficulty=1,
    cases=_weight_cases,
    reference=fuse_qkv,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You join the weights along the inputs. A weight is [out, in], and more outputs are needed.",
            lambda q, k, v: torch.cat((q, k, v), dim=1),
        ),
        Mistake("The order is query, key, value; yours begins with the key.", lambda q, k, v: torch.cat((k, q, v))),
        Mistake("The order is query, key, value, but you exchanged key and value.", lambda q, k, v: torch.cat((q, v, k))),
        Mistake(
            "torch.stack makes a new dimension, [3, rows, hidden], but you must return one matrix.",
            lambda q, k, v: torch.stack((q, k, v)),
        ),
        Mistake(
            "You interleave the rows (q0, k0, v0, q1, ...), but all rows of the query must come first.",
            lambda q, k, v: torch.stack((q, k, v), dim=1).flatten(0, 1),
        ),
        Mistake("You add the weights, but their products must stay separate.", lambda q, k, v: q + k + v),
    ),
    hints=(
        "Each row of a weight makes one output, so more rows make more outputs.",
        "Stack the rows of the three weights on top of each other; torch has a function that joins tensors along an existing "
        "dimension.",
        "The function is torch.cat. It takes a tuple of tensors, and joins along dimension 0 unless you name another.",
    ),
)


# 2.2 ------------------------------------------------------------------------------------------------------------------
def write_then_read(cache: Tensor, new_keys: Tensor, slot_mapping: Tensor, slot_table: Tensor, lengths: Tensor) -> list[Tensor]:
    """The reference of exercise 2.2."""
    cache[slot_mapping] = new_keys
    return [cache[slot_table[s, :length].long()] for s, length in enumerate(lengths.tolist())]


def _read_first(cache: Tensor, new: Tensor, mapping: Tensor, table: Tensor, lengths: Tensor) -> list[Tensor]:
    seen = [cache[table[s, :length].long()] for s, length in enumerate(lengths.tolist())]
    cache[mapping] = new
    return seen


def _to_a_copy(cache: Tensor, new: Tensor, mapping: Tensor, table: Tensor, lengths: Tensor) -> list[Tensor]:
    cache[mapping].copy_(new)
    return [cache[table[s, :length].long()] for s, length in enumerate(lengths.tolist())]


def _neighbours(cache: Tensor, new: Tensor, mapping: Tensor, table: Tensor, lengths: Tensor) -> list[Tensor]:
    cache[mapping] = new
    firsts = table[:, 0].tolist()
    return [cache[first : first + length] for first, length in zip(firsts, lengths.tolist(), strict=True)]


def _to_positions(cache: Tensor, new: Tensor, mapping: Tensor, table: Tensor, lengths: Tensor) -> list[Tensor]:
    return write_then_read(cache, new, lengths.long() - 1, table, lengths)


def _cache_cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    for sequences, longest in ((1, 1), (3, 5), (4, draws.pick.randrange(6, 20)), (2, 9)):
        lengths = torch.tensor([draws.pick.randrange(1, longest + 1) for _ in range(sequences)])
        lengths[-1] = longest
        slots = draws.permutation(sequences * longest + 8).cpu()
        table = slots[: sequences * longest].view(sequences, longest).clone()
        table[0, -1] = table[-1, 0]  # In the slot table, any number may stand after the slots of a sequence.
        if longest > 4:
            table[0, :2], lengths[0] = table[-1, :2], max(3, int(lengths[0]))  # a common beginning
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
        "`cache` is a pool of slots, `[slots, heads, head_dim]`; the tokens of a sequence may be in any slots. Write the "
        "new key of each sequence, `new_keys[s]`, **in place** into slot `slot_mapping[s]`. Then return a list with one tensor "
        "for each sequence: its keys in order, read from the slots `slot_table[s, :lengths[s]]`. The last key of each sequence "
        "is the new one."
    ),
    points=5,
    minutes=10,
    difficulty=2,
    cases=_cache_cases,
    reference=write_then_read,
    comparison=Comparison(),
    mistakes=(
        Mistake("You read before you write, so the newest key of each sequence is missing in your answer.", _read_first),
        Mistake(
            "You read consecutive slots, starting with the first slot of a sequence. Read the slots that the slot table names.",
            _neighbours,
        ),
        Mistake(
            "You use the position of the token as its slot number, but slot_mapping says to which slot each token goes.",
            _to_positions,
        ),
        Mistake(
            "Your result is right, but you did not change `cache` itself: you wrote to a copy, or you joined the old and new "
            "keys in a new tensor. Write into `cache`, in place.",
            lambda cache, *rest: write_then_read(cache.clone(), *rest),
        ),
        Mistake(
            "You do not change `cache`, because you write to a copy of it. cache.clone() makes a copy, and so does reading "
            "cache[slot_mapping]. So cache[slot_mapping].copy_(...) changes only this new tensor. Write into `cache`, in place.",
            _to_a_copy,
        ),
        Mistake(
            "Each sequence has its own length. Read only its first lengths[s] slots: after these, the slot table may hold any "
            "number.",
            lambda c, n, m, t, lengths: write_then_read(c, n, m, t, torch.full_like(lengths, t.shape[1])),
        ),
        Mistake(
            "lengths already counts the new token, but you read one slot fewer.",
            lambda c, n, m, t, lengths: write_then_read(c, n, m, t, lengths - 1),
        ),
    ),
    hints=(
        "An index that is a tensor of numbers selects rows: cache[slot_mapping] has one row per sequence.",
        "The same index on the left of an assignment writes all these rows at once, in place. Write first, and read "
        "afterwards, because the answer contains the new key.",
        "The slots of sequence s, in order, are slot_table[s, : lengths[s]].",
    ),
    writes=(0,),
    names={"['keys of each sequence']": "answer", "['cache']": "cache"},
    observe=lambda case, value: {"keys of each sequence": value, "cache": case.args[0]},
)

EXERCISES = (FUSE_QKV, WRITE_THEN_READ)

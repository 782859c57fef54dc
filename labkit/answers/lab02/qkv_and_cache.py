"""The answers to exercises 2.1 and 2.2: references, comparisons and known mistakes."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab02.qkv_and_cache import FUSE_QKV, WRITE_THEN_READ


# 2.1 ------------------------------------------------------------------------------------------------------------------
def fuse_qkv(query_weight: Tensor, key_weight: Tensor, value_weight: Tensor) -> Tensor:
    """The reference solution of exercise 2.1."""
    return torch.cat((query_weight, key_weight, value_weight))


FUSE_QKV_ANSWER = Answer(
    exercise=FUSE_QKV,
    reference=fuse_qkv,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You join the weights along the inputs. A weight is [out, in], and more outputs are needed.",
            lambda q, k, v: torch.cat((q, k, v), dim=1),
        ),
        Mistake("The order is query, key, value; yours begins with the key.", lambda q, k, v: torch.cat((k, q, v))),
        Mistake("The order is query, key, value, but you swapped key and value.", lambda q, k, v: torch.cat((q, v, k))),
        Mistake(
            "torch.stack adds a dimension, [3, rows, hidden], but you must return one matrix.",
            lambda q, k, v: torch.stack((q, k, v)),
        ),
        Mistake(
            "You interleave the rows (q0, k0, v0, q1, ...), but all rows of the query must come first.",
            lambda q, k, v: torch.stack((q, k, v), dim=1).flatten(0, 1),
        ),
        Mistake("You add the weights, but query, key and value must stay separate.", lambda q, k, v: q + k + v),
    ),
)


# 2.2 ------------------------------------------------------------------------------------------------------------------
def write_then_read(cache: Tensor, new_keys: Tensor, slot_mapping: Tensor, slot_table: Tensor, lengths: Tensor) -> list[Tensor]:
    """The reference solution of exercise 2.2."""
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


WRITE_THEN_READ_ANSWER = Answer(
    exercise=WRITE_THEN_READ,
    reference=write_then_read,
    comparison=Comparison(),
    mistakes=(
        Mistake("You read before you write, so the newest key of each sequence is missing from your answer.", _read_first),
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
            "cache[slot_mapping]. So cache[slot_mapping].copy_(...) changes only this new tensor. Write into `cache`, "
            "in place.",
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
    names={"['keys of each sequence']": "answer", "['cache']": "cache"},
)

ANSWERS = (FUSE_QKV_ANSWER, WRITE_THEN_READ_ANSWER)

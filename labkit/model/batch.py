"""Defines the input of one forward pass: the new tokens of several sequences in one row, and each sequence's cache slots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class RowNumbers:
    """The numbers 0, 1, 2, ... on a device, for batches of up to `count` rows.

    The numbers are made once, because every decode batch needs them. starts: `[count + 1]` int32. rows: `[count]` int64.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.starts = torch.arange(count + 1, dtype=torch.int32, device=device)
        self.rows = torch.arange(count, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class Batch:
    """The new tokens of all sequences, sequence after sequence; sequences with a single new token come first.

    token_ids, positions, slot_mapping: `[tokens]` int64: each token, its position for the rotary position embedding, and the
    cache slot of its key and value. starts: `[sequences + 1]` int32: the index of the first token of each sequence; the last
    entry is the number of tokens. slot_table: `[sequences, columns]` int32, with any number of columns: the slots that a
    sequence attends to, in order; the slots of its new tokens come last. lengths: `[sequences]` int32: how many entries of a
    sequence's row of `slot_table` are used. num_decodes: the number of sequences that decode one new token each; these
    sequences come first. The other sequences are prefilled, completely or in part. logit_rows: `[rows]` int64: the indices of
    the tokens after which logits are wanted. soft_rows, soft_embeddings: `[soft]` int64 and `[soft, hidden_size]`: the indices
    of the tokens whose embedding comes with the request (soft prompts) and not from the embedding table, and these embeddings.
    """

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    starts: Tensor
    slot_table: Tensor
    lengths: Tensor
    num_decodes: int
    logit_rows: Tensor
    soft_rows: Tensor | None = None
    soft_embeddings: Tensor | None = None

    @classmethod
    def of_decodes(
        cls,
        *,
        token_ids: Tensor,
        positions: Tensor,
        slot_mapping: Tensor,
        slot_table: Tensor,
        lengths: Tensor,
        numbers: RowNumbers,
    ) -> Batch:
        """Make a batch that has one new token of every sequence and returns logits after each token.

        `numbers` must have at least as many rows as there are sequences.
        """
        count = len(lengths)
        starts, rows = numbers.starts[: count + 1], numbers.rows[:count]
        return cls(token_ids, positions, slot_mapping, starts, slot_table, lengths, count, rows)

    @classmethod
    def of_prefills(
        cls,
        *,
        token_ids: Tensor,
        positions: Tensor,
        slot_mapping: Tensor,
        starts: Tensor,
        slot_table: Tensor,
        lengths: Tensor,
        logit_rows: Tensor,
        soft_rows: Tensor | None = None,
        soft_embeddings: Tensor | None = None,
    ) -> Batch:
        """Make a batch with any number of new tokens of each prompt."""
        return cls(token_ids, positions, slot_mapping, starts, slot_table, lengths, 0, logit_rows, soft_rows, soft_embeddings)

    @classmethod
    def join(cls, decodes: Batch, prefills: Batch, longest: int) -> Batch:
        """Join two batches.

        The tokens of `decodes` come first, so the tokens of `prefills` must be numbered from `decodes.num_tokens` on. longest:
        the largest length in `decodes`. Only this many columns of its slot table are copied.
        """
        count = decodes.num_sequences
        width = max(prefills.slot_table.shape[1], longest)
        table = prefills.slot_table.new_zeros(count + prefills.num_sequences, width)
        table[:count] = decodes.slot_table[:, :width]
        table[count:, : prefills.slot_table.shape[1]] = prefills.slot_table
        return cls(
            token_ids=torch.cat((decodes.token_ids, prefills.token_ids)),
            positions=torch.cat((decodes.positions, prefills.positions)),
            slot_mapping=torch.cat((decodes.slot_mapping, prefills.slot_mapping)),
            starts=torch.cat((decodes.starts[:-1], prefills.starts)),
            slot_table=table,
            lengths=torch.cat((decodes.lengths, prefills.lengths)),
            num_decodes=count,
            logit_rows=torch.cat((decodes.logit_rows, prefills.logit_rows)),
            soft_rows=prefills.soft_rows,
            soft_embeddings=prefills.soft_embeddings,
        )

    def to(self, device: torch.device) -> Batch:
        """Return the same batch with its tensors on `device`. If they are already on `device`, return the batch itself."""
        if self.token_ids.device == device:
            return self
        moved: dict[str, Any] = {k: value.to(device) for k, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    @property
    def num_tokens(self) -> int:
        """The total number of new tokens."""
        return self.token_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        """The total number of sequences."""
        return self.lengths.shape[0]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one new token."""
        return self.num_decodes == self.num_sequences
